// kLinear.
#include <algorithm>

#include "backends/cuda/ops.h"
#include "backends/cuda/weights.h"

namespace edgewise::cuda {
namespace {

class LinearOp final : public CudaOp {
 public:
  LinearOp(const BuildContext& context, NodeId id)
      : LinearOp(context, context.graph().nodes()[static_cast<size_t>(id)]) {
    fusion_ = context.fusions().linears[static_cast<size_t>(id)];
    if (!fusion_) return;
    decode_.source = fusion_->source;
    decode_.k = static_cast<int>(parts_[0].format.k);
    if (fusion_->norm >= 0) {
      decode_.norm = context.norm_weights(fusion_->norm);
      const Node& norm = context.graph().nodes()[static_cast<size_t>(fusion_->norm)];
      decode_.epsilon = static_cast<float>(norm.number("epsilon"));
    }
    const WeightFormat& format = parts_[0].format;
    const int64_t unit = format.scaling == Scaling::kLanes ? 16 : kChunkColumns;
    decode_.scale_magic = static_cast<unsigned>((1 << 20) / std::max<int64_t>(format.block / unit, 1) + 1);
    int64_t blocks = 0;
    for (const DeviceWeights& part : parts_) blocks += part.format.row_blocks();
    decode_.slots = kDecodeBlocks * device_info().multiprocessors;
    decode_.ranks = choose_decode_ranks(static_cast<int>(blocks), static_cast<int>(format.chunks()),
                                        device_info().multiprocessors, device_info().capability >= 90);
  }
  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const DeviceWeights& part : parts_) bytes += part.bytes();
    return bytes;
  }
  std::span<const DeviceWeights> matrices() const override { return parts_; }
  size_t workspace() const override {
    return kScaleBytes + static_cast<size_t>(kMostColumns * parts_[0].k_padded()) * sizeof(uint16_t);
  }

  void launch_fused(const StepContext& context) const noexcept override {
    const int count = context.count(of_rows);
    if (!fusion_ || count > kMostDecodeTokens || count == 0) return launch(context);
    DecodeCall call = decode_;
    call.matrix.tokens = count;
    for (size_t i = 0; i < parts_.size(); ++i)
      parts_[i].add_to(call.matrix, context.values[fusion_->out != kNone ? fusion_->out : outputs_[i]]);
    call.x = context.values[fusion_->x];
    if (fusion_->up != kNone) call.up = context.values[fusion_->up];
    if (fusion_->residual != kNone) call.residual = context.values[fusion_->residual];
    const WeightFormat& format = parts_[0].format;
    decode_linear(context.stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
  }
  void launch(const StepContext& context) const noexcept override {
    const int count = context.count(of_rows);
    for (size_t first = 0, end = 0; first < parts_.size(); first = end) {
      for (end = first + 1; end < parts_.size() && end - first < kMostParts && parts_[end].joins(parts_[first]);) ++end;
      const int most = parts_[first].is_float() ? count : kMostColumns / parts_[first].copies();
      for (int token = 0; token < count; token += most)
        launch_some(context, first, end, token, std::min(most, count - token));
    }
  }

 private:
  LinearOp(const BuildContext& context, const Node& node) : x_(node.inputs[0]), outputs_(node.outputs) {
    const std::vector<WeightFormat> formats = formats_of(context.graph(), node);
    for (size_t i = 0; i < formats.size(); ++i) {
      const Tensor packed = context.graph().constant(node.inputs[1 + 4 * i]);
      parts_.push_back({formats[i], context.keep(packed.bytes()), float_constant(context, node, 4 + 4 * i)});
    }
  }

  static constexpr size_t kScaleBytes = kMostColumns * sizeof(float);

  void launch_some(const StepContext& context, size_t first, size_t end, int token, int count) const noexcept {
    StreamCall call;
    call.tokens = count;
    for (size_t i = first; i < end; ++i)
      parts_[i].add_to(call, context.values[outputs_[i]] + token * parts_[i].format.n);
    const DeviceWeights& weights = parts_[first];
    const auto k = static_cast<int>(weights.format.k);
    const float* x = context.values[x_] + int64_t{token} * k;
    if (weights.is_float()) return float_linear(context.stream, call, x, k);
    auto* scales = reinterpret_cast<float*>(context.workspace);
    auto* prepared = reinterpret_cast<uint16_t*>(context.workspace + kScaleBytes);
    prepare_rows(context.stream, x, count, k, weights.k_padded(), weights.activation(), prepared, scales);
    call.x = prepared;
    call.x_scale = scales;
    weights.run(context.stream, call);
  }

  ValueId x_;
  std::vector<ValueId> outputs_;
  std::vector<DeviceWeights> parts_;
  std::optional<LinearFusion> fusion_;  // where the kernel for few tokens takes it
  DecodeCall decode_;
};

}  // namespace

std::unique_ptr<CudaOp> make_linear_op(const BuildContext& context, NodeId id) {
  return std::make_unique<LinearOp>(context, id);
}

}  // namespace edgewise::cuda
