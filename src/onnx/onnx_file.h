// An ONNX model on disk: model.onnx and its external data.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>

#include "base/output_file.h"
#include "base/tensor.h"
#include "graph/graph.h"
#include "onnx.pb.h"

namespace edgewise {

inline constexpr int64_t kOnnxIrVersion = 10;
inline constexpr int64_t kOnnxOpset = 23;

int onnx_type(DType dtype);
// Throws Error(kUnsupported) with `what` for a type Edgewise does not know.
DType dtype_from_onnx(int type, const std::string& what);

// Builds a model node by node and streams its weights to the external data file.
class OnnxWriter {
 public:
  // Writes the file and, beside it, FILE.data.
  explicit OnnxWriter(const std::filesystem::path& file);

  void add_input(const std::string& name, DType dtype, const std::vector<std::string>& dims);
  void add_output(const std::string& name, DType dtype, const std::vector<std::string>& dims);
  // Small tensors lie in model.onnx, larger ones in the data file. Returns the name.
  std::string add_initializer(const std::string& name, const Tensor& tensor);
  // A node with one output of the node's name.
  std::string add_node(const std::string& op, const std::string& name, const std::vector<std::string>& inputs,
                       const Attributes& attributes = {});
  void add_node(const std::string& op, const std::string& name, const std::vector<std::string>& inputs,
                const std::vector<std::string>& outputs, const Attributes& attributes);
  bool has(const std::string& name) const { return names_.contains(name); }
  void set_metadata(const std::string& key, const std::string& value);
  void commit();

 private:
  std::filesystem::path file_;
  OutputFile data_;
  onnx_file::Model model_;
  std::map<std::string, bool> names_;
};

// A parsed model with its tensors mapped.
class OnnxFile {
 public:
  // Throws Error(kIo), Error(kBadFile) or Error(kUnsupported) naming file, node and field.
  static OnnxFile open(const std::filesystem::path& path);
  static OnnxFile parse(std::span<const std::byte> bytes, const std::filesystem::path& path);

  const onnx_file::GraphFile& graph() const { return model_->graph(); }
  const std::string& source() const { return source_; }
  // A tensor's bytes, checked against its dims; external data is mapped.
  Tensor tensor(const onnx_file::Tensor& tensor) const;

 private:
  std::shared_ptr<onnx_file::Model> model_;
  std::string source_;
  std::filesystem::path directory_;
  mutable std::map<std::string, std::shared_ptr<const class MappedFile>> data_files_;
};

}  // namespace edgewise
