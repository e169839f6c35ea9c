// Looking backwards through an ONNX graph: producers, attributes, constants.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "onnx/onnx_file.h"

namespace edgewise {

using OnnxNode = onnx_file::Node;

class OnnxIndex {
 public:
  // Checks that names are unique and nodes stand in order. Throws Error(kBadFile).
  explicit OnnxIndex(const OnnxFile& file);

  const OnnxFile& file() const { return file_; }
  // Null when the value is an input, an initializer or absent.
  const OnnxNode* producer(const std::string& value) const;
  // The producer when it has this operator, else null.
  const OnnxNode* producer(const std::string& value, std::string_view op) const;
  const onnx_file::Tensor* initializer(const std::string& value) const;
  bool is_input(const std::string& value) const { return inputs_.contains(value); }

  // A small constant's values; nothing when the value is no constant or has over 4096 elements.
  std::optional<std::vector<int64_t>> integers(const std::string& value) const;
  std::optional<double> scalar(const std::string& value) const;

  // Of a two-input node: the other input when one is produced by `op` (then `match` is that producer).
  std::optional<std::string> other_input(const OnnxNode& node, std::string_view op, const OnnxNode*& match) const;

 private:
  const OnnxFile& file_;
  std::map<std::string, const OnnxNode*> producers_;
  std::map<std::string, const onnx_file::Tensor*> initializers_;
  std::map<std::string, bool> inputs_;
};

// The input's name, or empty when left out.
std::string input_of(const OnnxNode& node, int index);
int64_t int_attribute(const OnnxNode& node, std::string_view name, int64_t fallback);
double float_attribute(const OnnxNode& node, std::string_view name, double fallback);
std::string string_attribute(const OnnxNode& node, std::string_view name, const std::string& fallback);
std::vector<int64_t> ints_attribute(const OnnxNode& node, std::string_view name);

}  // namespace edgewise
