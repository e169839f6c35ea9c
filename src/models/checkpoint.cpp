#include "models/checkpoint.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "models/quantized_weight.h"

namespace edgewise {
namespace fs = std::filesystem;

LazyTensor lazy(Tensor tensor) {
  LazyTensor result{tensor.dtype(), tensor.shape(), {}};
  result.load = [tensor = std::move(tensor)] { return tensor; };
  return result;
}

LazyTensor lazy_rows(const LazyTensor& tensor, int64_t first, int64_t last) {
  LazyTensor result = tensor;
  result.shape.at(0) = last - first;
  result.load = [load = tensor.load, first, last] { return load().rows(first, last); };
  return result;
}

LazyTensor lazy_cast(const LazyTensor& tensor, DType dtype) {
  if (tensor.dtype == dtype) return tensor;
  return {dtype, tensor.shape, [load = tensor.load, dtype] { return load().cast(dtype); }};
}

LinearWeight slice_rows(const LinearWeight& weight, int64_t first, int64_t last) {
  LinearWeight result = weight;
  result.weight = lazy_rows(weight.weight, first, last);
  if (weight.scale) result.scale = lazy_rows(weight.scale, first, last);
  if (weight.zero) result.zero = lazy_rows(weight.zero, first, last);
  return result;
}

Checkpoint Checkpoint::open(const fs::path& directory) {
  Checkpoint result;
  result.directory_ = directory;
  if (!fs::is_directory(directory)) {
    fail(ErrorKind::kIo, "{}: no such model directory; expected one with config.json and *.safetensors",
         directory.string());
  }
  result.config_ = read_json_file(directory / "config.json");
  if (!result.config_.is_object()) bad_file("{}: not a JSON object", result.config_path());

  std::set<std::string> names;
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(index)) {
    const Json document = read_json_file(index);
    const JsonView map = JsonView(document, index.string()).at("weight_map");
    for (const auto& [tensor, file] : map.value().items()) {
      if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
        map.reject(tensor, "the name of a file beside the index");
      }
      names.insert(file.get<std::string>());
    }
  } else if (fs::exists(directory / "model.safetensors")) {
    names.insert("model.safetensors");
  } else {
    fail(ErrorKind::kIo,
         "{}: neither model.safetensors nor model.safetensors.index.json; only safetensors checkpoints load",
         directory.string());
  }
  for (const std::string& name : names) {
    result.files_.push_back(SafetensorsFile::open(directory / name));
    for (const auto& entry : result.files_.back().tensors()) {
      if (!result.file_of_.emplace(entry.first, result.files_.size() - 1).second) {
        bad_file("{}: the tensor {} is in more than one file", directory.string(), entry.first);
      }
    }
  }
  return result;
}

const Tensor* Checkpoint::find(std::string_view name) const {
  const auto it = file_of_.find(name);
  return it == file_of_.end() ? nullptr : &files_[it->second].at(name);
}

Tensor Checkpoint::tensor(const std::string& name, const Shape& shape) const {
  const Tensor* found = find(name);
  if (found == nullptr) bad_file("{}: the tensor {} is missing", directory_.string(), name);
  if (!shape.empty() && found->shape() != shape) {
    bad_file("{}: {}: expected shape {} from config.json, found {}", directory_.string(), name, shape_text(shape),
             shape_text(found->shape()));
  }
  return *found;
}

std::vector<std::string> Checkpoint::tensor_names() const {
  std::vector<std::string> names;
  for (const auto& entry : file_of_) names.push_back(entry.first);
  return names;
}

DType Checkpoint::dtype() const {
  std::map<DType, int64_t> counts;
  for (const SafetensorsFile& file : files_) {
    for (const auto& [name, tensor] : file.tensors()) {
      if (is_float(tensor.dtype()) && bit_width(tensor.dtype()) >= 16) counts[tensor.dtype()] += tensor.count();
    }
  }
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == counts.end()) bad_file("{}: no float tensors", directory_.string());
  return most->first == DType::kF64 ? DType::kF32 : most->first;
}

bool Checkpoint::has_linear(const std::string& module) const {
  return contains(module + ".weight") || contains(module + ".weight_packed") || contains(module + ".qweight");
}

LinearWeight Checkpoint::linear(const std::string& module, int64_t n, int64_t k) const {
  LinearWeight result = read_linear_weight(*this, module);
  if (result.k() != k || (n >= 0 && result.n() != n)) {
    bad_file("{}: {}: expected a weight of [{}, {}] from config.json, found [{}, {}]", directory_.string(), module, n,
             k, result.n(), result.k());
  }
  return result;
}

}  // namespace edgewise
