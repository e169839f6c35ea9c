// kLinear.
#include <algorithm>

#include "backends/cuda/dense.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/weights.h"

namespace edgewise::cuda {
namespace {

// From here on a library's product is faster, with weights unpacked for it: of large matrices, and of those with fewer
// weights than that.
constexpr int kLeastDenseRows = 256;
constexpr int kLeastDenseRowsOfSmall = kMostBatchTokens + 1;
constexpr int64_t kSmallMatrix = int64_t{1} << 24;
// Of weights unpacked at a time: a matrix of Qwen2.5-7B's gates fits, since a small rest costs more than its share.
constexpr size_t kDenseWeightBytes = size_t{136} << 20;

class LinearOp final : public CudaOp {
 public:
  LinearOp(const BuildContext& context, NodeId id)
      : LinearOp(context, context.graph().nodes()[static_cast<size_t>(id)]) {
    fusion_ = context.fusions().linears[static_cast<size_t>(id)];
    if (!fusion_) return;
    decode_.source.source = fusion_->source;
    decode_.k = static_cast<int>(parts_[0].format.k);
    if (fusion_->norm >= 0) {
      decode_.source.norm = context.norm_weights(fusion_->norm);
      const Node& norm = context.graph().nodes()[static_cast<size_t>(fusion_->norm)];
      decode_.source.epsilon = static_cast<float>(norm.number("epsilon"));
    }
    const WeightFormat& format = parts_[0].format;
    decode_.scale_magic = format.scale_magic();
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
  size_t workspace() const override { return space_.end; }

  void launch_fused(const StepContext& context) const noexcept override {
    const int count = context.count(of_rows);
    if (!fusion_) return launch(context);
    if (count == 0) return;
    RowSource source = decode_.source;
    source.x = context.values[fusion_->x];
    if (fusion_->up != kNone) source.up = context.values[fusion_->up];
    const float* residual = fusion_->residual != kNone ? context.values[fusion_->residual] : nullptr;
    const int most = std::max(context.tokens, context.rows);
    if (most > kMostBatchTokens) return is_gated(source.source) ? multiply(context, source) : launch(context);
    if (most > kMostDecodeTokens) return launch_joined(context, source, residual, 0, parts_.size(), count);
    DecodeCall call = decode_;
    call.source = source;
    call.residual = residual;
    call.matrix.tokens = count;
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].add_to(call.matrix, fused_output(context, i));
    const WeightFormat& format = parts_[0].format;
    decode_linear(context.stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
  }
  void launch(const StepContext& context) const noexcept override { multiply(context, {.x = context.values[x_]}); }

 private:
  LinearOp(const BuildContext& context, const Node& node) : x_(node.inputs[0]), outputs_(node.outputs) {
    const std::vector<WeightFormat> formats = formats_of(context.graph(), node);
    for (size_t i = 0; i < formats.size(); ++i) {
      const Tensor packed = context.graph().constant(node.inputs[1 + 4 * i]);
      parts_.push_back({formats[i], context.keep(packed.bytes()), float_constant(context, node, 4 + 4 * i)});
      const bool scaled = !parts_[i].is_float() && !formats[i].token_scales;
      units_.push_back(scaled ? formats[i].half_unit(packed.bytes()) : 1.0f);
    }
    place_scratch(std::max(context.options().max_tokens, context.options().max_rows));
  }

  // Byte offsets into the workspace.
  struct Space {
    size_t scales = 0;    // of rows of x
    size_t arrived = 0;   // counters of tiles
    size_t partials = 0;  // sums of blocks
    size_t x = 0;
    size_t weights = 0;  // as halves
    size_t library = 0;  // what it wants for itself
    size_t end = 0;
  };

  void place_scratch(int most_rows) {
    const auto place = [&](size_t bytes) {
      const size_t at = space_.end;
      space_.end += (bytes + 255) / 256 * 256;
      return at;
    };
    const DeviceInfo& device = device_info();
    int blocks = 0;
    size_t widest = 0;
    int64_t most_blocks = 0;
    for (const DeviceWeights& part : parts_) {
      blocks += static_cast<int>(part.format.row_blocks());
      if (part.is_float()) continue;
      widest = std::max(widest, static_cast<size_t>(part.k_padded()) * sizeof(uint16_t));
      most_blocks = std::max(most_blocks, part.format.row_blocks());
    }
    if (widest == 0) return;
    const auto rows = static_cast<size_t>(most_rows);
    const auto multiprocessors = static_cast<size_t>(device.multiprocessors);
    space_.scales = place(rows * sizeof(float));
    most_tiles_ = std::max(batch_row_tiles(blocks), kBatchSharedTiles * device.multiprocessors);
    space_.arrived = place(static_cast<size_t>(most_tiles_) * sizeof(int32_t));
    space_.partials = place(2 * multiprocessors * kBatchRows * kBatchColumns * sizeof(float));
    const auto grouped = static_cast<size_t>(group_columns(std::min(most_rows, kMostBatchTokens), 2));
    space_.x = place(std::max(rows, grouped) * widest);
    const bool small = std::ranges::all_of(
        parts_, [](const DeviceWeights& part) { return part.format.n * part.format.k < kSmallMatrix; });
    least_dense_rows_ = small ? kLeastDenseRowsOfSmall : kLeastDenseRows;
    if (most_rows < least_dense_rows_) return;
    const auto is_bf16 = [](const DeviceWeights& part) { return part.format.encoding == Encoding::kBF16; };
    const bool all_bf16 = std::ranges::all_of(parts_, is_bf16);
    if (!all_bf16 && std::ranges::any_of(parts_, is_bf16)) return;  // one type of operands for all
    dense_ = DenseProduct::make(all_bf16);
    if (dense_ == nullptr) return;
    slice_blocks_ = std::max<int64_t>(kDenseWeightBytes / (widest * kBlockRows) / 8 * 8, 8);
    space_.weights = place(static_cast<size_t>(std::min(slice_blocks_, most_blocks) * kBlockRows) * widest);
    space_.library = place(DenseProduct::kScratchBytes);
  }

  float* fused_output(const StepContext& context, size_t part) const noexcept {
    return context.values[fusion_->out != kNone ? fusion_->out : outputs_[part]];
  }

  void multiply(const StepContext& context, const RowSource& source) const noexcept {
    const int count = context.count(of_rows);
    if (count == 0) return;
    for (size_t first = 0, end = 0; first < parts_.size(); first = end) {
      for (end = first + 1; end < parts_.size() && end - first < kMostParts && parts_[end].joins(parts_[first]);) ++end;
      launch_joined(context, source, nullptr, first, end, count);
    }
  }

  // The parts [first, end), which one launch can take.
  void launch_joined(const StepContext& context, const RowSource& source, const float* residual, size_t first,
                     size_t end, int count) const noexcept {
    StreamCall call;
    call.tokens = count;
    for (size_t i = first; i < end; ++i)
      parts_[i].add_to(call, residual != nullptr ? fused_output(context, i) : context.values[outputs_[i]]);
    const DeviceWeights& weights = parts_[first];
    const auto k = static_cast<int>(weights.format.k);
    if (weights.is_float()) return float_linear(context.stream, call, source.x, k);
    auto* scales = reinterpret_cast<float*>(context.workspace + space_.scales);
    auto* prepared = reinterpret_cast<uint16_t*>(context.workspace + space_.x);
    auto* arrived = reinterpret_cast<int32_t*>(context.workspace + space_.arrived);
    const bool many = count > kMostBatchTokens;
    const int copies = many ? 1 : weights.copies();
    const bool grouped = !many && groups_allowed && device_info().capability == 90;
    call.x = prepared;
    call.x_scale = scales;
    if (grouped)
      prepare_columns(context.stream, source, count, k, weights.k_padded(), weights.activation(), prepared, scales,
                      group_columns(count, copies));
    else
      prepare_rows(context.stream, source, count, k, weights.k_padded(), weights.activation(many), prepared, scales,
                   arrived, most_tiles_);
    if (dense_ != nullptr && count >= least_dense_rows_ && launch_dense(context, first, end, call)) return;
    BatchCall batch;
    batch.matrix = call;
    batch.residual = residual;
    batch.copies = copies;
    batch.multiprocessors = device_info().multiprocessors;
    if (grouped) batch.group = choose_group_shape(call.blocks, call.chunks, batch.multiprocessors);
    batch.scale_magic = weights.format.scale_magic();
    batch.partials = reinterpret_cast<float*>(context.workspace + space_.partials);
    batch.arrived = arrived;
    batch_linear(context.stream, static_cast<int>(weights.format.encoding), static_cast<int>(weights.format.scaling),
                 batch);
  }

  // False where the library cannot.
  bool launch_dense(const StepContext& context, size_t first, size_t end, const StreamCall& call) const noexcept {
    for (size_t i = first; i < end; ++i) {
      const WeightFormat& format = parts_[i].format;
      UnpackCall unpack;
      float* out = context.values[outputs_[i]];
      parts_[i].add_to(unpack.matrix, out);
      unpack.to = reinterpret_cast<uint16_t*>(context.workspace + space_.weights);
      unpack.factor = 1 / units_[i];
      unpack.codes = format.token_scales;
      for (int64_t block = 0; block < format.row_blocks(); block += slice_blocks_) {
        unpack.first_block = static_cast<int>(block);
        unpack.blocks = static_cast<int>(std::min(slice_blocks_, format.row_blocks() - block));
        unpack_weights(context.stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), unpack);
        const int64_t row = block * kBlockRows;
        const int64_t rows = std::min(unpack.blocks * kBlockRows, format.n - row);
        if (!dense_->multiply(context.stream, unpack.to, call.x, static_cast<int>(rows), call.tokens,
                              parts_[i].k_padded(), static_cast<int>(format.n), units_[i], out + row,
                              context.workspace + space_.library))
          return false;
      }
      const auto* bias = parts_[i].bias.as<const float>();
      if (format.encoding == Encoding::kBF16 && bias == nullptr) continue;
      finish_rows(context.stream, out, call.tokens, static_cast<int>(format.n), call.x_scale,
                  unpack.codes ? unpack.matrix.parts[0].factors : nullptr, bias);
    }
    return true;
  }

  ValueId x_;
  std::vector<ValueId> outputs_;
  std::vector<DeviceWeights> parts_;
  std::vector<float> units_;             // of parts, as WeightFormat::half_unit() says
  std::unique_ptr<DenseProduct> dense_;  // null where the library is missing, or never asked for
  int least_dense_rows_ = 0;
  int64_t slice_blocks_ = 0;  // of 16 rows, that become halves at a time
  int most_tiles_ = 0;
  Space space_;
  std::optional<LinearFusion> fusion_;  // where the kernel for few tokens takes it
  DecodeCall decode_;
};

}  // namespace

std::unique_ptr<CudaOp> make_linear_op(const BuildContext& context, NodeId id) {
  return std::make_unique<LinearOp>(context, id);
}

}  // namespace edgewise::cuda
