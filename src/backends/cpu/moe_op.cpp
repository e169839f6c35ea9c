// kMoe: tokens grouped by expert, so that each chosen expert's weights are read once a step.
#include <algorithm>

#include "backends/cpu/packed_matrix.h"
#include "base/error.h"

namespace edgewise::cpu {
namespace {

// How many experts a token may go to.
int64_t most_experts(const Graph& graph, ValueId routing, int64_t experts) {
  const NodeId producer = graph.value(routing).producer;
  if (producer < 0) return experts;
  const Node& node = graph.nodes()[static_cast<size_t>(producer)];
  return node.op == Op::kRoute ? node.integer("top_k") : experts;
}

class MoeOp final : public CpuOp {
 public:
  MoeOp(const BuildContext& context, const Node& node)
      : kernels_(vector_kernels(context.isa)),
        x_(node.inputs[0]),
        routing_(node.inputs[1]),
        out_(node.outputs[0]),
        experts_(node.integer("experts")),
        matrices_(load_matrices(context, node, 2, 3, false, experts_)),
        tactics_(node.text("tactics", "1:direct,9:blocked")) {
    hidden_ = matrices_[0].format.k;
    inner_ = matrices_[0].format.n;
    top_k_ = most_experts(*context.graph, routing_, experts_);
    const bool rows = context.graph->value(x_).shape[0] == kRows;
    const int64_t most = (rows ? context.options->max_rows : context.options->max_tokens) * top_k_;
    const bool wide = wants_wide_rows(context.isa);
    for (size_t i = 0; i < 3; ++i) {
      const PackedFormat& format = matrices_[i].format;
      if (is_integer(format.encoding)) quantized_[i == 2] = QuantizedBuffer(format, static_cast<int>(most), wide);
    }
    token_of_.resize(static_cast<size_t>(most));
    slots_.resize(static_cast<size_t>(most));
    slot_counts_.resize(static_cast<size_t>(most / top_k_));
    segments_.resize(static_cast<size_t>(experts_) + 1);
    chosen_.reserve(static_cast<size_t>(experts_));
    size_t at = 0;
    const auto place = [&at](size_t bytes) {
      const size_t offset = at;
      at += (bytes + 63) / 64 * 64;
      return offset;
    };
    const auto floats = static_cast<size_t>(most) * sizeof(float);
    gathered_at_ = place(floats * static_cast<size_t>(hidden_));
    gate_at_ = place(floats * static_cast<size_t>(inner_));
    up_at_ = place(floats * static_cast<size_t>(inner_));
    down_at_ = place(floats * static_cast<size_t>(hidden_));
    quantized_at_[0] = place(quantized_[0].bytes());
    quantized_at_[1] = place(quantized_[1].bytes());
    workspace_ = at;
  }
  size_t workspace() const override { return workspace_; }
  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const PackedMatrix& matrix : matrices_) bytes += matrix.weights.bytes().size();
    return bytes;
  }

  void run(const StepContext& context, int worker, int workers) noexcept override {
    if (context.count(of_rows) == 0) return;
    if (worker == 0) group(context);
    context.pool->barrier();
    gather(context, worker, workers);
    context.pool->barrier();
    multiply(context, 0, 2);
    context.pool->barrier();
    activate(context, worker, workers);
    context.pool->barrier();
    multiply(context, 2, 3);
    context.pool->barrier();
    combine(context, worker, workers);
  }

 private:
  static float* memory(const StepContext& context, size_t offset) {
    return reinterpret_cast<float*>(context.workspace + offset);
  }

  // Lists each expert's tokens: segments_[e] .. segments_[e + 1] of token_of_; slots_ is the way back.
  void group(const StepContext& context) noexcept {
    const int count = context.count(of_rows);
    const float* routing = context.values[routing_];
    std::fill_n(slot_counts_.begin(), count, 0);
    chosen_.clear();
    int32_t at = 0;
    for (int64_t e = 0; e < experts_; ++e) {
      segments_[static_cast<size_t>(e)] = at;
      for (int token = 0; token < count; ++token) {
        int32_t& used = slot_counts_[static_cast<size_t>(token)];
        if (routing[token * experts_ + e] == 0.0f || used >= top_k_) continue;
        slots_[static_cast<size_t>(token * top_k_ + used++)] = at;
        token_of_[static_cast<size_t>(at++)] = token;
      }
      if (at > segments_[static_cast<size_t>(e)]) chosen_.push_back(e);
    }
    segments_[static_cast<size_t>(experts_)] = at;
  }
  int assignments() const { return segments_[static_cast<size_t>(experts_)]; }

  void gather(const StepContext& context, int worker, int workers) noexcept {
    const bool integer = is_integer(matrices_[0].format.encoding) || is_integer(matrices_[1].format.encoding);
    const PackedFormat& format = matrices_[is_integer(matrices_[0].format.encoding) ? 0 : 1].format;
    const Range share = share_of(assignments(), worker, workers);
    for (int64_t a = share.begin; a < share.end; ++a) {
      const float* from = context.values[x_] + token_of_[static_cast<size_t>(a)] * hidden_;
      std::copy(from, from + hidden_, memory(context, gathered_at_) + a * hidden_);
      if (integer) {
        kernels_.quantize_row(format, from, 0, format.groups,
                              quantized_[0].at(context.workspace + quantized_at_[0], a));
      }
    }
  }

  // Matrices `first` to `end`, which have as many panels each, of all experts that have tokens.
  void multiply(const StepContext& context, size_t first, size_t end) noexcept {
    const auto together = static_cast<int64_t>(end - first);
    const auto groups = static_cast<int64_t>(chosen_.size()) * together;
    take_panels(*context.pool, groups, matrices_[first].format.panels, [&](int64_t group, Range panels) {
      const int64_t expert = chosen_[static_cast<size_t>(group / together)];
      multiply(context, first + static_cast<size_t>(group % together), expert, panels);
    });
  }

  // Some panels of one expert's matrix.
  void multiply(const StepContext& context, size_t index, int64_t expert, Range panels) noexcept {
    const PackedMatrix& matrix = matrices_[index];
    const size_t buffer = index == 2;
    const int32_t first = segments_[static_cast<size_t>(expert)];
    LinearCall call;
    call.format = &matrix.format;
    call.x_stride = matrix.format.k;
    call.out_stride = matrix.format.n;
    call.tokens = segments_[static_cast<size_t>(expert) + 1] - first;
    call.weights = matrix.data(expert);
    call.x = memory(context, index == 2 ? gate_at_ : gathered_at_) + first * call.x_stride;
    call.out = memory(context, index == 0 ? gate_at_ : index == 1 ? up_at_ : down_at_) + first * call.out_stride;
    call.panel_begin = panels.begin;
    call.panel_end = panels.end;
    if (is_integer(matrix.format.encoding)) {
      call.quantized = quantized_[buffer].at(context.workspace + quantized_at_[buffer], first);
    }
    matrix.kernel(tactics_.walk(call.tokens))(call);
  }

  void activate(const StepContext& context, int worker, int workers) noexcept {
    const PackedFormat& format = matrices_[2].format;
    const Range share = share_of(assignments(), worker, workers);
    for (int64_t a = share.begin; a < share.end; ++a) {
      float* gate = memory(context, gate_at_) + a * inner_;
      kernels_.swiglu(gate, memory(context, up_at_) + a * inner_, inner_, gate);
      if (is_integer(format.encoding)) {
        kernels_.quantize_row(format, gate, 0, format.groups,
                              quantized_[1].at(context.workspace + quantized_at_[1], a));
      }
    }
  }

  // Adds a token's experts in ascending order.
  void combine(const StepContext& context, int worker, int workers) noexcept {
    const Range share = share_of(context.count(of_rows), worker, workers);
    for (int64_t token = share.begin; token < share.end; ++token) {
      float* out = context.values[out_] + token * hidden_;
      std::fill_n(out, hidden_, 0.0f);
      const float* routing = context.values[routing_] + token * experts_;
      int32_t used = 0;
      for (int64_t e = 0; e < experts_ && used < slot_counts_[static_cast<size_t>(token)]; ++e) {
        if (routing[e] == 0.0f) continue;
        const int64_t slot = slots_[static_cast<size_t>(token * top_k_ + used++)];
        kernels_.multiply_add(memory(context, down_at_) + slot * hidden_, routing[e], hidden_, out);
      }
    }
  }

  const VectorKernels& kernels_;
  ValueId x_;
  ValueId routing_;
  ValueId out_;
  int64_t experts_;
  std::vector<PackedMatrix> matrices_;  // gate, up, down
  Tactics tactics_;
  int64_t hidden_ = 0;
  int64_t inner_ = 0;
  int64_t top_k_ = 0;
  std::vector<int32_t> token_of_;     // [assignments]
  std::vector<int32_t> slots_;        // [tokens][top_k]: assignments of a token, experts ascending
  std::vector<int32_t> slot_counts_;  // [tokens]
  std::vector<int32_t> segments_;     // [experts + 1]
  std::vector<int64_t> chosen_;       // experts that have tokens
  QuantizedBuffer quantized_[2];      // of x, of the activated product
  size_t gathered_at_ = 0, gate_at_ = 0, up_at_ = 0, down_at_ = 0;
  size_t quantized_at_[2] = {};
  size_t workspace_ = 0;
};

}  // namespace

std::unique_ptr<CpuOp> make_moe_op(const BuildContext& context, const Node& node) {
  return std::make_unique<MoeOp>(context, node);
}

}  // namespace edgewise::cpu
