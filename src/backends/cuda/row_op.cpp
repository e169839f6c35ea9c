// Every operator but kLinear, kAttention and kMoe.
#include <functional>

#include "backends/cuda/ops.h"
#include "base/error.h"
#include "graph/weight_rows.h"

namespace edgewise::cuda {
namespace {

// An operator that is one launch, with what it keeps on the device.
class RowOp final : public CudaOp {
 public:
  using Launch = std::function<void(const StepContext&, int rows, const RowOp&)>;
  explicit RowOp(Launch launch) : launch_(std::move(launch)) {}
  void launch(const StepContext& context) const noexcept override {
    const int rows = context.count(of_rows);
    if (rows > 0) launch_(context, rows, *this);
  }
  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const DeviceBytes& constant : constants) bytes += constant.size();
    return bytes;
  }
  const float* floats(size_t index) const { return constants[index].as<const float>(); }
  const float* weights() const override { return floats(0); }
  void launch_rest(const StepContext& context, Fusions::Rest rest) const noexcept override {
    const Launch& half = rest == Fusions::Rest::kSum ? sum : norm;
    if (context.count(of_rows) > 0) half(context, context.count(of_rows), *this);
  }

  std::vector<DeviceBytes> constants;
  Launch sum, norm;  // of kAddRmsNorm, each by itself

 private:
  Launch launch_;
};

std::unique_ptr<RowOp> row_op(RowOp::Launch launch) { return std::make_unique<RowOp>(std::move(launch)); }

int columns_of(const Graph& graph, ValueId id) { return static_cast<int>(graph.value(id).shape.back()); }

std::unique_ptr<CudaOp> make_embedding(const BuildContext& context, const Node& node) {
  const Graph& graph = context.graph();
  const ValueId out = node.outputs[0];
  const bool plain = node.inputs.size() < 3 || node.inputs[2] == kNone;
  const DType dtype = graph.value(node.inputs[1]).dtype;
  const int type = !plain ? 0 : dtype == DType::kF16 ? 1 : dtype == DType::kBF16 ? 2 : 0;
  const int columns = columns_of(graph, out);
  const int vocabulary = static_cast<int>(graph.value(node.inputs[1]).shape[0]);
  auto op = row_op([=](const StepContext& c, int rows, const RowOp& self) {
    embed_rows(c.stream, c.token_ids, self.constants[0].data(), type, rows, columns, vocabulary, c.values[out]);
  });
  if (type != 0) {
    op->constants.push_back(context.keep(graph.constant(node.inputs[1]).bytes()));
  } else {
    const WeightRows table(graph, node, 1);
    std::vector<float> rows(static_cast<size_t>(table.n() * table.k()));
    table.read(0, table.n(), rows);
    op->constants.push_back(context.keep(std::as_bytes(std::span(rows))));
  }
  return op;
}

std::unique_ptr<CudaOp> make_norm(const BuildContext& context, const Node& node) {
  const Graph& graph = context.graph();
  const size_t weight = node.op == Op::kAddRmsNorm ? 2 : 1;
  const int d = columns_of(graph, node.inputs[weight]);
  const int runs = columns_of(graph, node.outputs[0]) / d;
  const auto epsilon = static_cast<float>(node.number("epsilon"));
  const ValueId x = node.inputs[0];
  const ValueId y = node.inputs[1];
  const ValueId out = node.outputs[0];
  std::unique_ptr<RowOp> op;
  if (node.op == Op::kRmsNorm) {
    op = row_op([=](const StepContext& c, int rows, const RowOp& self) {
      rms_norm_rows(c.stream, c.values[x], self.floats(0), rows * runs, d, epsilon, c.values[out]);
    });
  } else if (node.op == Op::kLayerNorm) {
    op = row_op([=](const StepContext& c, int rows, const RowOp& self) {
      layer_norm_rows(c.stream, c.values[x], self.floats(0), self.floats(1), rows * runs, d, epsilon, c.values[out]);
    });
  } else {
    const ValueId normed = node.outputs[1];
    op = row_op([=](const StepContext& c, int rows, const RowOp& self) {
      add_rms_norm_rows(c.stream, c.values[x], c.values[y], self.floats(0), rows, d, epsilon, c.values[out],
                        c.values[normed]);
    });
    op->sum = [=](const StepContext& c, int rows, const RowOp&) {
      binary_values(c.stream, Binary::kAdd, c.values[x], c.values[y], false, rows, d, c.values[out]);
    };
    op->norm = [=](const StepContext& c, int rows, const RowOp& self) {
      rms_norm_rows(c.stream, c.values[out], self.floats(0), rows, d, epsilon, c.values[normed]);
    };
  }
  op->constants.push_back(float_constant(context, node, weight));
  if (node.op == Op::kLayerNorm) op->constants.push_back(float_constant(context, node, 2));
  return op;
}

std::unique_ptr<CudaOp> make_rotary_table(const BuildContext& context, const Node& node) {
  const Graph& graph = context.graph();
  RotaryTable table;
  table.half = columns_of(graph, node.outputs[0]);
  table.scale = static_cast<float>(node.number("scale", 1.0));
  table.long_scale = static_cast<float>(node.number("long_scale", node.number("scale", 1.0)));
  const ValueId cos = node.outputs[0];
  const ValueId sin = node.outputs[1];
  const auto frequencies = float_constant(context, node, 1);
  const auto long_frequencies = float_constant(context, node, 2);
  table.freq = frequencies.as<const float>();
  table.long_freq = long_frequencies.as<const float>();
  if (table.long_freq != nullptr) table.threshold = static_cast<int>(node.integer("threshold"));
  auto op = row_op([=](const StepContext& c, int rows, const RowOp&) {
    rotary_table_rows(c.stream, c.positions, c.context, table, rows, c.values[cos], c.values[sin]);
  });
  op->constants.push_back(frequencies);
  op->constants.push_back(long_frequencies);
  return op;
}

std::unique_ptr<CudaOp> make_rotary(const Graph& graph, const Node& node) {
  const auto head_dim = static_cast<int>(node.integer("head_dim"));
  const auto half = static_cast<int>(node.integer("rotary_dim") / 2);
  const bool interleaved = node.integer("interleaved", 0) != 0;
  const int columns = columns_of(graph, node.outputs[0]);
  return row_op([=, x = node.inputs[0], cos = node.inputs[1], sin = node.inputs[2], out = node.outputs[0]](
                    const StepContext& c, int rows, const RowOp&) {
    rotary_rows(c.stream, c.values[x], c.values[cos], c.values[sin], rows, columns, head_dim, half, interleaved,
                c.values[out]);
  });
}

std::unique_ptr<CudaOp> make_unary(const Graph& graph, const Node& node) {
  const int columns = columns_of(graph, node.outputs[0]);
  Unary kind = Unary::kSilu;
  float parameter = 0;
  switch (node.op) {
    case Op::kGelu:
      kind = node.text("approximate", "none") == "tanh" ? Unary::kGeluTanh : Unary::kGelu;
      break;
    case Op::kRelu:
      kind = Unary::kRelu;
      break;
    case Op::kSquare:
      kind = Unary::kSquare;
      break;
    case Op::kSoftcap:
      kind = Unary::kSoftcap;
      parameter = static_cast<float>(node.number("cap"));
      break;
    case Op::kScale:
      kind = Unary::kScale;
      parameter = static_cast<float>(node.number("factor"));
      break;
    default:
      break;
  }
  return row_op([=, x = node.inputs[0], out = node.outputs[0]](const StepContext& c, int rows, const RowOp&) {
    unary_values(c.stream, kind, parameter, c.values[x], int64_t{rows} * columns, c.values[out]);
  });
}

std::unique_ptr<CudaOp> make_binary(const BuildContext& context, const Node& node) {
  const Graph& graph = context.graph();
  const int columns = columns_of(graph, node.outputs[0]);
  const bool tanh = node.text("approximate", "none") == "tanh";
  const Binary kind = node.op == Op::kAdd      ? Binary::kAdd
                      : node.op == Op::kMul    ? Binary::kMul
                      : node.op == Op::kSwiGlu ? Binary::kSwiGlu
                      : tanh                   ? Binary::kGeGluTanh
                                               : Binary::kGeGlu;
  const Value& second = graph.value(node.inputs[1]);
  const bool constant = second.is_constant();
  const bool broadcast = second.shape.size() == 1;
  auto op = row_op([=, a = node.inputs[0], b = node.inputs[1], out = node.outputs[0]](const StepContext& c, int rows,
                                                                                      const RowOp& self) {
    binary_values(c.stream, kind, c.values[a], constant ? self.floats(0) : c.values[b], broadcast, rows, columns,
                  c.values[out]);
  });
  if (constant) op->constants.push_back(float_constant(context, node, 1));
  return op;
}

std::unique_ptr<CudaOp> make_gather(const BuildContext& context, const Node& node) {
  const Graph& graph = context.graph();
  const int columns = columns_of(graph, node.inputs[0]);
  std::vector<int32_t> index;
  for (const int64_t column : graph.constant(node.inputs[1]).to_int64()) {
    if (column < 0 || column >= columns) bad_file("{}: column {} of {} does not exist", node.name, column, columns);
    index.push_back(static_cast<int32_t>(column));
  }
  const auto count = static_cast<int>(index.size());
  auto op = row_op([=, x = node.inputs[0], out = node.outputs[0]](const StepContext& c, int rows, const RowOp& self) {
    gather_columns(c.stream, c.values[x], self.constants[0].as<const int32_t>(), rows, columns, count, c.values[out]);
  });
  op->constants.push_back(context.keep(std::as_bytes(std::span(index))));
  return op;
}

std::unique_ptr<CudaOp> make_concat(const Graph& graph, const Node& node) {
  const int all = columns_of(graph, node.outputs[0]);
  std::vector<std::pair<ValueId, int>> inputs;
  for (const ValueId id : node.inputs) inputs.emplace_back(id, columns_of(graph, id));
  return row_op([=, out = node.outputs[0]](const StepContext& c, int rows, const RowOp&) {
    int first = 0;
    for (const auto& [id, columns] : inputs) {
      copy_columns(c.stream, c.values[id], rows, columns, c.values[out], all, first);
      first += columns;
    }
  });
}

std::unique_ptr<CudaOp> make_route(const Graph& graph, const Node& node) {
  const int experts = columns_of(graph, node.inputs[0]);
  const auto top_k = static_cast<int>(node.integer("top_k"));
  const bool before = node.text("softmax", "before") == "before";
  const bool normalize = node.integer("normalize", 0) != 0;
  return row_op([=, x = node.inputs[0], out = node.outputs[0]](const StepContext& c, int rows, const RowOp&) {
    route_rows(c.stream, c.values[x], rows, experts, top_k, before, normalize, c.values[out]);
  });
}

}  // namespace

std::unique_ptr<CudaOp> make_row_op(const BuildContext& context, const Node& node) {
  const Graph& graph = context.graph();
  switch (node.op) {
    case Op::kEmbedding:
      return make_embedding(context, node);
    case Op::kRmsNorm:
    case Op::kLayerNorm:
    case Op::kAddRmsNorm:
      return make_norm(context, node);
    case Op::kRotaryTable:
      return make_rotary_table(context, node);
    case Op::kRotary:
      return make_rotary(graph, node);
    case Op::kAdd:
    case Op::kMul:
    case Op::kSwiGlu:
    case Op::kGeGlu:
      return make_binary(context, node);
    case Op::kGatherColumns:
      return make_gather(context, node);
    case Op::kConcat:
      return make_concat(graph, node);
    case Op::kRoute:
      return make_route(graph, node);
    case Op::kSelectRows: {
      const int columns = columns_of(graph, node.outputs[0]);
      return row_op([=, x = node.inputs[0], out = node.outputs[0]](const StepContext& c, int rows, const RowOp&) {
        select_rows(c.stream, c.values[x], c.logits_rows, rows, columns, c.values[out]);
      });
    }
    default:
      return make_unary(graph, node);
  }
}

}  // namespace edgewise::cuda
