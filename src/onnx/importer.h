// The importer's parts: import.cpp walks the nodes and lowers those that are one operator each, import_blocks.cpp the
// forms of many nodes: rotary tables, attention, mixtures of experts.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "onnx/import.h"
#include "onnx/pattern.h"

namespace edgewise {

class Importer {
 public:
  explicit Importer(const OnnxFile& file) : file_(file), index_(file) {}

  Graph run();

 private:
  // An ONNX value that is an activation here, perhaps seen as [.., heads, head_dim].
  struct Activation {
    ValueId id = kNone;
    int64_t head_dim = 0;  // 0: not split into heads
  };

  [[noreturn]] void refuse(const OnnxNode& node, std::string_view why) const {
    unsupported("{}: {} node \"{}\": {}", file_.source(), node.op_type(), node.name(), why);
  }
  const Activation* find(const std::string& name) const {
    const auto it = activations_.find(name);
    return it == activations_.end() ? nullptr : &it->second;
  }
  ValueId need(const OnnxNode& node, int input) const;
  const OnnxNode& first_unknown(const OnnxNode& node) const;
  int64_t columns(ValueId id) const { return graph_.value(id).shape.at(1); }
  void set(const OnnxNode& node, ValueId id, int output = 0) { activations_[node.output(output)] = {id, 0}; }
  std::string name_of(const OnnxNode& node) const { return node.output(0); }
  ValueId constant(const std::string& name);
  ValueId cast_constant(const std::string& name, DType dtype);

  void add_hidden_inputs();
  void mark_outputs();
  void lower(const OnnxNode& node);
  void gather(const OnnxNode& node);
  void matmul(const OnnxNode& node);
  void add(const OnnxNode& node);
  bool multiply(const OnnxNode& node);
  bool int8_rounding(const OnnxNode& node);
  bool softcap(const OnnxNode& node);
  void concat(const OnnxNode& node);
  void norm(const OnnxNode& node);
  void reshape(const OnnxNode& node);
  void rotary(const OnnxNode& node);
  std::pair<ValueId, ValueId> rotary_table(const OnnxNode& node);
  void attention(const OnnxNode& node);
  int64_t window_of_mask(const OnnxNode& node, const std::string& mask) const;
  bool route(const OnnxNode& node);
  bool moe(const OnnxNode& node);
  void unary(const OnnxNode& node, Op op, Attributes attributes = {});
  const OnnxNode* through_casts(std::string& value) const;

  const OnnxFile& file_;
  OnnxIndex index_;
  Graph graph_;
  ValueId tokens_ = kNone;
  ValueId positions_ = kNone;
  std::map<std::string, Activation> activations_;
  std::map<std::string, ValueId> int8_rounded_;
  std::map<std::string, ValueId> constants_;
  std::map<std::string, std::pair<ValueId, ValueId>> rotary_tables_;
  int64_t layers_ = 0;
};

}  // namespace edgewise
