// Adds the modules of a transformer to a graph, one a method. Decoders and draft heads are put together of these.
#pragma once

#include <string>
#include <vector>

#include "models/decoder.h"

namespace edgewise {

class DecoderBuilder {
 public:
  DecoderBuilder(const DecoderSpec& spec, const Checkpoint& checkpoint, const DecoderOptions& options)
      : spec_(spec), checkpoint_(checkpoint), options_(options) {}

  Graph build();

 protected:
  // Inputs, and cos and sin of every rotation.
  void begin(const std::string& name);
  Graph finish();
  ValueId embed(ValueId table);
  ValueId constant(const std::string& name, const LazyTensor& tensor);
  ValueId attention(ValueId x, size_t index, const std::string& prefix);
  ValueId mlp(ValueId x, const std::string& prefix);
  ValueId norm(ValueId x, const std::string& module, int64_t columns);
  ValueId residual(ValueId x, ValueId block, const std::string& name);
  ValueId linear(ValueId x, const std::string& module, int64_t n);
  // Float weights take the graph's dtype; quantized payloads stay as they are.
  LazyTensor float_weight(const LazyTensor& tensor) const;
  Graph& graph() { return graph_; }
  const DecoderSpec& spec() const { return spec_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const DecoderOptions& options() const { return options_; }

 private:
  struct Rotation {
    ValueId cos;
    ValueId sin;
  };

  ValueId layer(ValueId x, size_t index);
  std::string layer_output(size_t index, const std::string& prefix) const;
  std::vector<ValueId> project_qkv(ValueId x, const std::string& prefix);
  ValueId experts(ValueId x, const std::string& prefix);
  ValueId activate(ValueId x, const std::string& name);
  ValueId logits(ValueId x, ValueId table);
  ValueId rotate(ValueId x, int rotary, int64_t heads, const std::string& name);
  ValueId optional_norm(ValueId x, const std::string& prefix, const std::string& module, int64_t columns);
  ValueId scaled(ValueId x, double factor, const std::string& name);
  ValueId linear(ValueId x, const LinearWeight& weight, const std::string& module, ValueId bias);
  ValueId bias(const std::string& module, int64_t first, int64_t last, int64_t n);
  ValueId head_bias();
  LazyTensor kept_rows(const LazyTensor& tensor) const;
  LazyTensor stack_experts(const std::string& prefix, const std::string& module, int64_t n, int64_t k) const;
  int64_t columns(ValueId x) const { return graph_.value(x).shape.at(1); }

  const DecoderSpec& spec_;
  const Checkpoint& checkpoint_;
  DecoderOptions options_;
  Graph graph_;
  ValueId tokens_ = kNone;
  std::vector<Rotation> rotations_;
};

}  // namespace edgewise
