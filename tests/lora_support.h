// Engines and random adapters for tests of adapters.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "compiler/build.h"
#include "formats/companions.h"
#include "models/families.h"
#include "models/vocab_map.h"
#include "onnx/export.h"

namespace edgewise {
namespace fs = std::filesystem;

inline const fs::path kSource = EDGEWISE_SOURCE_DIR;

class Workspace {
 public:
  Workspace() : path_(fs::temp_directory_path() / ("edgewise-lora-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Workspace() { fs::remove_all(path_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline fs::path engine_of(const fs::path& model, const fs::path& work, DType dtype, int batch = 1,
                          const std::vector<int32_t>& kept = {}) {
  const Checkpoint checkpoint = Checkpoint::open(model);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  fs::create_directories(work / "onnx");
  export_onnx(build_decoder(spec, checkpoint, {dtype, {}, kept}), work / "onnx", {});
  copy_companions(model, work / "onnx");
  if (!kept.empty()) write_vocab_map(work / "onnx" / kVocabMapFile, kept);
  BuildOptions options;
  options.max_batch_size = batch;
  options.max_input_length = 128;
  options.kv_capacity = 192;
  options.kv_dtype = dtype;
  options.opt_level = 0;
  build_engine(work / "onnx", work / "engine", options);
  return work / "engine";
}

// Every matrix in the checkpoint's layers, experts aside, and the head.
inline std::map<std::string, Shape> linears_of(const fs::path& model) {
  const Checkpoint checkpoint = Checkpoint::open(model);
  std::map<std::string, Shape> result;
  for (const std::string& name : checkpoint.tensor_names()) {
    const Shape shape = checkpoint.tensor(name).shape();
    const bool linear = name.find(".layers.") != std::string::npos || name == "lm_head.weight";
    if (linear && shape.size() == 2 && name.find("experts.") == std::string::npos)
      result[name.substr(0, name.rfind('.'))] = shape;
  }
  return result;
}

// Random matrices of ranks 1 to 9.
inline void write_adapter(const std::map<std::string, Shape>& modules, const fs::path& directory,
                          float largest = 0.1f) {
  std::map<std::string, Tensor> tensors;
  Json ranks = Json::object();
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-largest, largest);
  for (const auto& [module, shape] : modules) {
    const auto rank = static_cast<int64_t>(random() % 9 + 1);
    ranks[module] = rank;
    for (const auto& [part, part_shape] : {std::pair{"A", Shape{rank, shape[1]}}, {"B", Shape{shape[0], rank}}}) {
      std::vector<float> values(static_cast<size_t>(element_count(part_shape)));
      for (float& value : values) value = uniform(random);
      tensors["base_model.model." + module + ".lora_" + part + ".weight"] =
          Tensor::from_floats(DType::kF32, part_shape, values);
    }
  }
  fs::create_directories(directory);
  std::ofstream(directory / "adapter_config.json")
      << Json{{"peft_type", "LORA"}, {"r", 1}, {"lora_alpha", 8}, {"rank_pattern", ranks}};
  SafetensorsWriter writer(directory / "adapter_model.safetensors");
  for (const auto& [name, tensor] : tensors) writer.declare(name, tensor.dtype(), tensor.shape());
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
}

}  // namespace edgewise
