#include "engine/engine_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <random>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kGraph = R"(graph decoder
input %input_ids : i32[tokens]
const %table : bf16[32, 8]
const %norm : f32[8]
%x = embedding(%input_ids, %table) : bf16[tokens, 8]
%n = rms_norm(%x, %norm) {epsilon=1e-06} : bf16[tokens, 8]
%logits = linear(%n, %table, %none, %none, %none) {transposed=1} : bf16[tokens, 32]
output %logits
)";

class EngineFileTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() / ("edgewise-engine-" + std::to_string(::getpid()));
    info_.model = "decoder";
    info_.device = "reference";
    info_.layout = "reference";
    write_engine(parse_graph(kGraph), info_, path_);
    bytes_ = read_text_file(path_);
  }
  void TearDown() override { fs::remove(path_); }
  void rewrite(const std::string& bytes) const { write_text_file(path_, bytes); }

  fs::path path_;
  EngineInfo info_;
  std::string bytes_;
};

TEST_F(EngineFileTest, ReadsWhatItWrites) {
  const Engine engine = read_engine(path_);
  EXPECT_EQ(print_graph(engine.graph), kGraph);
  EXPECT_EQ(engine.info.device, "reference");
  EXPECT_EQ(engine.info.kv_capacity, info_.kv_capacity);
  check_engine_segments(path_);
}

TEST_F(EngineFileTest, RefusesTruncationAtEveryLength) {
  for (size_t length = 0; length < bytes_.size(); length += length < 128 ? 1 : 257) {
    rewrite(bytes_.substr(0, length));
    EXPECT_THROW(read_engine(path_), Error) << length;
  }
}

TEST_F(EngineFileTest, RefusesAnotherVersion) {
  bytes_[8] = 99;
  rewrite(bytes_);
  EXPECT_THROW(read_engine(path_), Error);
}

// A flipped bit in header or plan is refused at load; one in a weight is found when checksums are asked for.
TEST_F(EngineFileTest, FindsFlippedBits) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = bytes_;
    damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
    rewrite(damaged);
    try {
      read_engine(path_);
      check_engine_segments(path_);
    } catch (const Error&) {
    }
  }
  std::string damaged = bytes_;
  damaged[4096] ^= 1;  // the first weight
  rewrite(damaged);
  EXPECT_NO_THROW(read_engine(path_));
  EXPECT_THROW(check_engine_segments(path_), Error);
}

TEST_F(EngineFileTest, RefusesAPlanOfNoise) {
  std::mt19937 random(2);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::byte> plan(random() % 400);
    for (std::byte& b : plan) b = static_cast<std::byte>(random());
    const auto file = seal_engine_plan(plan);
    rewrite({reinterpret_cast<const char*>(file.data()), file.size()});
    EXPECT_THROW(read_engine(path_), Error);
  }
}

}  // namespace
}  // namespace edgewise
