#include "onnx/pattern.h"

#include "base/error.h"

namespace edgewise {
namespace {

const onnx_file::Attribute* attribute(const OnnxNode& node, std::string_view name) {
  for (const auto& entry : node.attribute()) {
    if (entry.name() == name) return &entry;
  }
  return nullptr;
}

}  // namespace

OnnxIndex::OnnxIndex(const OnnxFile& file) : file_(file) {
  for (const auto& input : file.graph().input()) inputs_[input.name()] = true;
  for (const auto& tensor : file.graph().initializer()) {
    if (!initializers_.emplace(tensor.name(), &tensor).second) {
      bad_file("{}: the initializer {} stands twice", file.source(), tensor.name());
    }
  }
  for (const auto& node : file.graph().node()) {
    for (const std::string& input : node.input()) {
      if (input.empty() || inputs_.contains(input) || initializers_.contains(input) || producers_.contains(input))
        continue;
      bad_file("{}: {} {} reads {} before any node makes it", file.source(), node.op_type(), node.name(), input);
    }
    for (const std::string& output : node.output()) {
      if (output.empty()) continue;
      if (initializers_.contains(output) || !producers_.emplace(output, &node).second) {
        bad_file("{}: {} {} makes {} a second time", file.source(), node.op_type(), node.name(), output);
      }
    }
  }
}

const OnnxNode* OnnxIndex::producer(const std::string& value) const {
  const auto it = producers_.find(value);
  return it == producers_.end() ? nullptr : it->second;
}

const OnnxNode* OnnxIndex::producer(const std::string& value, std::string_view op) const {
  const OnnxNode* node = producer(value);
  return node != nullptr && node->op_type() == op ? node : nullptr;
}

const onnx_file::Tensor* OnnxIndex::initializer(const std::string& value) const {
  const auto it = initializers_.find(value);
  return it == initializers_.end() ? nullptr : it->second;
}

std::optional<std::vector<int64_t>> OnnxIndex::integers(const std::string& value) const {
  const auto* entry = initializer(value);
  if (entry == nullptr) return std::nullopt;
  const Tensor tensor = file_.tensor(*entry);
  if (tensor.count() > 4096 || is_float(tensor.dtype())) return std::nullopt;
  return tensor.to_int64();
}

std::optional<double> OnnxIndex::scalar(const std::string& value) const {
  const auto* entry = initializer(value);
  if (entry == nullptr) return std::nullopt;
  const Tensor tensor = file_.tensor(*entry);
  if (tensor.count() != 1) return std::nullopt;
  return double{tensor.to_floats()[0]};
}

std::optional<std::string> OnnxIndex::other_input(const OnnxNode& node, std::string_view op,
                                                  const OnnxNode*& match) const {
  if (node.input_size() != 2) return std::nullopt;
  for (int i = 0; i < 2; ++i) {
    match = producer(node.input(i), op);
    if (match != nullptr) return node.input(1 - i);
  }
  return std::nullopt;
}

std::string input_of(const OnnxNode& node, int index) { return index < node.input_size() ? node.input(index) : ""; }

int64_t int_attribute(const OnnxNode& node, std::string_view name, int64_t fallback) {
  const auto* entry = attribute(node, name);
  return entry != nullptr && entry->has_i() ? entry->i() : fallback;
}

double float_attribute(const OnnxNode& node, std::string_view name, double fallback) {
  const auto* entry = attribute(node, name);
  return entry != nullptr && entry->has_f() ? double{entry->f()} : fallback;
}

std::string string_attribute(const OnnxNode& node, std::string_view name, const std::string& fallback) {
  const auto* entry = attribute(node, name);
  return entry != nullptr && entry->has_s() ? entry->s() : fallback;
}

std::vector<int64_t> ints_attribute(const OnnxNode& node, std::string_view name) {
  const auto* entry = attribute(node, name);
  if (entry == nullptr) return {};
  return {entry->ints().begin(), entry->ints().end()};
}

}  // namespace edgewise
