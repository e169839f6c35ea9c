// kMoe: each expert's matrices multiply the tokens that chose it.
#include <algorithm>

#include "backends/cuda/ops.h"
#include "backends/cuda/weights.h"

namespace edgewise::cuda {
namespace {

class MoeOp final : public CudaOp {
 public:
  MoeOp(const BuildContext& context, const Node& node)
      : x_(node.inputs[0]), routing_(node.inputs[1]), out_(node.outputs[0]) {
    const Graph& graph = context.graph();
    experts_ = static_cast<int>(graph.value(routing_).shape[1]);
    const NodeId router = graph.value(routing_).producer;
    const bool known = router >= 0 && graph.nodes()[static_cast<size_t>(router)].op == Op::kRoute;
    chosen_ = known ? static_cast<int>(graph.nodes()[static_cast<size_t>(router)].integer("top_k")) : experts_;
    const std::vector<WeightFormat> formats = formats_of(graph, node);
    for (size_t i = 0; i < formats.size(); ++i)
      matrices_.push_back({formats[i], context.keep(graph.constant(node.inputs[2 + 3 * i]).bytes()), {}});
    const auto tokens = static_cast<size_t>(context.options().max_tokens);
    const size_t pairs = tokens * static_cast<size_t>(chosen_);
    const auto experts = static_cast<size_t>(experts_);
    size_t end = 0;
    const auto place = [&](size_t bytes) {
      const size_t at = end;
      end += (bytes + 255) / 256 * 256;
      return at;
    };
    const auto inner = static_cast<size_t>(formats[0].n);
    const auto widest = static_cast<size_t>(std::max(matrices_[0].k_padded(), matrices_[2].k_padded()));
    count_ = place(4);
    list_ = place(experts * 4);
    begin_ = place((experts + 1) * 4);
    tokens_ = place(pairs * 4);
    pair_of_ = place(tokens * experts * 4);
    scales_ = place(pairs * 4);
    gate_ = place(pairs * inner * 4);
    up_ = place(pairs * inner * 4);
    back_ = place(pairs * static_cast<size_t>(formats[2].n) * 4);
    prepared_ = place(pairs * widest * 4);
    workspace_ = end;
  }
  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const DeviceWeights& matrix : matrices_) bytes += matrix.bytes();
    return bytes;
  }
  size_t workspace() const override { return workspace_; }

  void launch(const StepContext& context) const noexcept override {
    const int count = context.tokens;
    const int pairs = count * chosen_;
    std::byte* memory = context.workspace;
    ExpertLists lists;
    lists.count = reinterpret_cast<int32_t*>(memory + count_);
    lists.experts = reinterpret_cast<int32_t*>(memory + list_);
    lists.begin = reinterpret_cast<int32_t*>(memory + begin_);
    lists.tokens = reinterpret_cast<int32_t*>(memory + tokens_);
    lists.pair_of = reinterpret_cast<int32_t*>(memory + pair_of_);
    auto* gate = reinterpret_cast<float*>(memory + gate_);
    auto* up = reinterpret_cast<float*>(memory + up_);
    auto* back = reinterpret_cast<float*>(memory + back_);
    const float* routing = context.values[routing_];
    list_experts(context.stream, routing, count, experts_, lists);
    multiply(context, lists, 0, gate, context.values[x_], count, false);
    multiply(context, lists, 1, up, context.values[x_], count, false);
    binary_values(context.stream, Binary::kSwiGlu, gate, up, false, pairs, matrices_[0].format.n, gate);
    multiply(context, lists, 2, back, gate, pairs, true);
    combine_experts(context.stream, back, routing, lists.pair_of, count, experts_,
                    static_cast<int>(matrices_[2].format.n), context.values[out_]);
  }

 private:
  // `rows` rows of x, tokens or pairs.
  void multiply(const StepContext& context, const ExpertLists& lists, size_t matrix, float* out, const float* x,
                int rows, bool by_pair) const noexcept {
    const DeviceWeights& weights = matrices_[matrix];
    StreamCall call;
    weights.add_to(call, out);
    call.lists = lists;
    call.most_experts = std::min(experts_, context.tokens * chosen_);
    call.by_pair = by_pair;
    call.tokens = std::min(context.tokens, kMostColumns / weights.copies());
    const auto k = static_cast<int>(weights.format.k);
    if (weights.is_float()) return float_linear(context.stream, call, x, k);
    auto* prepared = reinterpret_cast<uint16_t*>(context.workspace + prepared_);
    auto* scales = reinterpret_cast<float*>(context.workspace + scales_);
    prepare_rows(context.stream, {.x = x}, rows, k, weights.k_padded(), weights.activation(), prepared, scales);
    call.x = prepared;
    call.x_scale = scales;
    weights.run(context.stream, call);
  }

  ValueId x_, routing_, out_;
  int experts_ = 0;
  int chosen_ = 0;                       // experts a token
  std::vector<DeviceWeights> matrices_;  // gate, up, down
  // Byte offsets into the workspace.
  size_t count_, list_, begin_, tokens_, pair_of_, scales_, gate_, up_, back_, prepared_;
  size_t workspace_ = 0;
};

}  // namespace

std::unique_ptr<CudaOp> make_moe_op(const BuildContext& context, const Node& node) {
  return std::make_unique<MoeOp>(context, node);
}

}  // namespace edgewise::cuda
