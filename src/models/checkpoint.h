// A Hugging Face checkpoint directory: config.json and safetensors, one file or many, quantized or not.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "formats/safetensors.h"
#include "graph/graph.h"

namespace edgewise {

// A constant to be: its type now, its bytes when asked for.
struct LazyTensor {
  DType dtype = DType::kF32;
  Shape shape;
  ConstantLoader load;

  explicit operator bool() const { return static_cast<bool>(load); }
};
LazyTensor lazy(Tensor tensor);
// Rows [first, last) of the leading dimension.
LazyTensor lazy_rows(const LazyTensor& tensor, int64_t first, int64_t last);
LazyTensor lazy_cast(const LazyTensor& tensor, DType dtype);

// A Linear's weight [n, K] in any supported storage, in the terms of Op::kLinear with transposed=1.
struct LinearWeight {
  LazyTensor weight;
  LazyTensor scale;  // [n, ceil(K / block)]; absent for float weights
  LazyTensor zero;
  int64_t block = 0;
  double global_scale = 1;
  std::string activation;  // "int8": activations are rounded a token
  LazyTensor gather;       // i32[K]: the columns of x in the order of the weight's (GPTQ act-order)

  int64_t n() const { return weight.shape.at(0); }
  int64_t k() const { return weight.shape.at(1); }
};
LinearWeight slice_rows(const LinearWeight& weight, int64_t first, int64_t last);

class Checkpoint {
 public:
  // Throws Error naming what is missing in the directory.
  static Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const Json& config() const { return config_; }
  std::string config_path() const { return (directory_ / "config.json").string(); }
  // The dtype most float weights have.
  DType dtype() const;

  bool contains(std::string_view name) const { return find(name) != nullptr; }
  // Throws Error(kBadFile) when absent or of another shape (an empty shape accepts any).
  Tensor tensor(const std::string& name, const Shape& shape = {}) const;
  std::vector<std::string> tensor_names() const;

  bool has_linear(const std::string& module) const;
  // The weight of a Linear, by its module path. Checks it against [n, k]; n < 0 accepts any.
  LinearWeight linear(const std::string& module, int64_t n, int64_t k) const;

 private:
  const Tensor* find(std::string_view name) const;

  std::filesystem::path directory_;
  Json config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t, std::less<>> file_of_;
};

}  // namespace edgewise
