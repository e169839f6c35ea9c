#include "formats/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "base/error.h"

namespace edgewise {
namespace {

SafetensorsFile parse_text(const std::string& header, size_t body) {
  auto bytes = std::make_shared<std::string>(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(bytes->data(), &size, 8);
  *bytes += header + std::string(body, 'x');
  return SafetensorsFile::parse(std::as_bytes(std::span(*bytes)), bytes, "test");
}

TEST(Safetensors, WritesWhatItReads) {
  const auto path =
      std::filesystem::temp_directory_path() / ("edgewise-" + std::to_string(::getpid()) + ".safetensors");
  const Tensor a = Tensor::from_floats(DType::kBF16, {2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  const Tensor b = Tensor::from_int64({2}, std::vector<int64_t>{7, -8});
  SafetensorsWriter writer(path);
  writer.declare("a", a.dtype(), a.shape());
  writer.declare("b", b.dtype(), b.shape());
  writer.write("a", a);
  writer.write("b", b);
  writer.commit();
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file.at("a").to_floats(), a.to_floats());
  EXPECT_EQ(file.at("b").to_int64(), b.to_int64());
  EXPECT_THROW(file.at("c"), Error);
  std::filesystem::remove(path);
}

TEST(Safetensors, RefusesHostileHeaders) {
  EXPECT_NO_THROW(parse_text(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4));
  for (
      const char* header : {
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,5]}})",
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
          R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"U8","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
          R"({"a":{"dtype":"F128","shape":[4],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})",
          R"({"a":5})",
          R"([1])",
          R"({"a":)",
      }) {
    EXPECT_THROW(parse_text(header, 4), Error) << header;
  }
  EXPECT_THROW(SafetensorsFile::parse({}, nullptr, "empty"), Error);
}

}  // namespace
}  // namespace edgewise
