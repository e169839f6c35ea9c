// Every family's graph, run by the reference kernels in float32, against Hugging Face transformers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "backends/backend.h"
#include "models/families.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

class FamilyGolden : public testing::TestWithParam<std::string> {
 protected:
  // Logits of the last `rows` tokens of a fresh sequence.
  static std::vector<float> logits(Executable& executable, const std::vector<int32_t>& tokens, int rows,
                                   int64_t vocabulary) {
    std::vector<int32_t> positions(tokens.size());
    std::vector<int32_t> wanted;
    for (size_t i = 0; i < tokens.size(); ++i) {
      positions[i] = static_cast<int32_t>(i);
      if (i + static_cast<size_t>(rows) >= tokens.size()) wanted.push_back(static_cast<int32_t>(i));
    }
    const std::vector<int32_t> pages{0, 1, 2, 3};
    const auto length = static_cast<int32_t>(tokens.size());
    const SequenceSlice sequence{0, length, 0, length, pages, -1};
    std::vector<float> all(tokens.size() * static_cast<size_t>(vocabulary));
    EXPECT_EQ(executable.run({tokens, positions, {}, std::span(&sequence, 1), wanted}, all), StepOutcome::kDone);
    return {all.end() - static_cast<std::ptrdiff_t>(rows * vocabulary), all.end()};
  }
};

TEST_P(FamilyGolden, LogitsMatch) {
  const fs::path directory = fs::path(EDGEWISE_SOURCE_DIR) / "tests/data/checkpoints" / GetParam();
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  const Graph graph = build_decoder(spec, checkpoint, {DType::kF32});
  const auto executable =
      find_backend("reference")
          .load(graph, {.max_tokens = 128, .max_rows = 128, .kv_pages = 4, .kv_dtype = DType::kF32});
  const auto golden = SafetensorsFile::open(directory / "golden.safetensors");
  for (int prompt = 0; prompt < 3; ++prompt) {
    const std::string prefix = "prompt_" + std::to_string(prompt);
    const auto ids = golden.at(prefix + "_ids").to_int64();
    const Tensor& expected_tensor = golden.at(prefix + "_logits");
    const auto expected = expected_tensor.to_floats();
    const auto found =
        logits(*executable, {ids.begin(), ids.end()}, static_cast<int>(expected_tensor.dim(0)), spec.vocabulary);
    ASSERT_EQ(found.size(), expected.size());
    double worst = 0;
    double largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::fabs(double{found[i]} - double{expected[i]}));
      largest = std::max(largest, std::fabs(double{expected[i]}));
    }
    EXPECT_LT(worst / largest, 1e-4) << prefix;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilyGolden,
                         testing::Values("gemma2", "llama2", "llama3.2", "mistral", "phi2", "phi3", "qwen2.5", "qwen3",
                                         "qwen3_moe", "smollm3", "tinyllama"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace edgewise
