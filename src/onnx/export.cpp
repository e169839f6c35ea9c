#include "onnx/export.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "graph/weight_rows.h"
#include "onnx/onnx_file.h"

namespace edgewise {
namespace {

using Names = std::vector<std::string>;

// Rows `band` of the transpose of [rows, columns] elements, tile by tile, to keep both sides in the cache. Elements of
// a file may lie anywhere.
template <typename T>
void transpose_band(const std::byte* in, int64_t rows, int64_t columns, Range band, std::byte* out) {
  constexpr int64_t kTile = 32;
  for (int64_t j0 = band.begin; j0 < band.end; j0 += kTile) {
    for (int64_t i0 = 0; i0 < rows; i0 += kTile) {
      for (int64_t j = j0; j < std::min(band.end, j0 + kTile); ++j) {
        for (int64_t i = i0; i < std::min(rows, i0 + kTile); ++i)
          std::memcpy(out + (j * rows + i) * int64_t{sizeof(T)}, in + (i * columns + j) * int64_t{sizeof(T)},
                      sizeof(T));
      }
    }
  }
}

unsigned nibble_at(const std::byte* in, int64_t index) {
  return std::to_integer<unsigned>(in[index / 2]) >> (index % 2 * 4) & 15u;
}

// The same for nibbles, which in the result begin with whole bytes.
void transpose_nibbles(const std::byte* in, int64_t rows, int64_t columns, Range band, std::byte* out) {
  constexpr int64_t kTile = 64;
  for (int64_t j0 = band.begin; j0 < band.end; j0 += kTile) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = j0; j < std::min(band.end, j0 + kTile); ++j) {
        const int64_t to = j * rows + i;
        out[to / 2] |= static_cast<std::byte>(nibble_at(in, i * columns + j) << (to % 2 * 4));
      }
    }
  }
}

// [rows, columns] -> [columns, rows], any dtype, packed 4-bit ones included.
Tensor transpose(const Tensor& tensor) {
  const int64_t rows = tensor.dim(0);
  const int64_t columns = tensor.dim(1);
  Tensor result = Tensor::zeros(tensor.dtype(), {columns, rows});
  const std::byte* in = tensor.bytes().data();
  std::byte* out = result.mutable_bytes().data();
  const int bits = bit_width(tensor.dtype());
  ThreadPool pool(bits == 4 && rows % 2 == 1 ? 1 : 0);  // two rows of nibbles may share a byte
  pool.run([&](int worker) {
    const Range band = share_of(columns, worker, pool.size());
    if (bits == 4) return transpose_nibbles(in, rows, columns, band, out);
    if (bits == 8) return transpose_band<uint8_t>(in, rows, columns, band, out);
    if (bits == 16) return transpose_band<uint16_t>(in, rows, columns, band, out);
    if (bits == 32) return transpose_band<uint32_t>(in, rows, columns, band, out);
    transpose_band<uint64_t>(in, rows, columns, band, out);
  });
  return result;
}

class Exporter {
 public:
  Exporter(const Graph& graph, const std::filesystem::path& directory, const ExportOptions& options)
      : graph_(graph), writer_(directory / options.file), options_(options) {}

  void run();

 private:
  void declare_interface();
  void lower(const Node& node);
  void embedding(const Node& node);
  void linear(const Node& node);
  std::string linear_weight(const Node& node, DType& dtype);
  std::string dequantized_weight(const Node& node);
  std::string quantized_weight(const Node& node, DType& dtype);
  std::string round_to_int8(const std::string& x, const Node& node);
  void norm(const Node& node);
  void rotary_table(const Node& node);
  void attention(const Node& node);
  std::string window_mask(int64_t window);
  void route(const Node& node);
  void moe(const Node& node);
  void unary(const Node& node);

  std::string in(const Node& node, size_t index) const {
    return node.inputs.at(index) == kNone ? "" : onnx_name(node.inputs[index]);
  }
  std::string out(const Node& node, size_t index = 0) const { return onnx_name(node.outputs.at(index)); }
  std::string onnx_name(ValueId id) const {
    const bool logits = !graph_.outputs().empty() && id == graph_.outputs()[0];
    return logits ? "logits" : graph_.value(id).name;
  }
  DType dtype(const Node& node) const { return graph_.value(node.outputs.at(0)).dtype; }
  // A small constant shared by name.
  std::string shared(const std::string& name, const Tensor& tensor) {
    return writer_.has(name) ? name : writer_.add_initializer(name, tensor);
  }
  std::string scalar(DType type, double value) {
    return shared(fmt::format("const.{}.{}", dtype_name(type), value),
                  Tensor::from_floats(type, {}, std::vector<float>{static_cast<float>(value)}));
  }
  std::string index_list(std::vector<int64_t> values) {
    return shared(fmt::format("const.index.{}", fmt::join(values, "_")),
                  Tensor::from_int64({static_cast<int64_t>(values.size())}, values));
  }
  std::string weight(const Node& node, size_t index) {
    const ValueId id = node.inputs.at(index);
    const std::string& name = graph_.value(id).name;
    return shared_weight(name, [&] { return graph_.constant(id); });
  }
  template <typename Load>
  std::string shared_weight(const std::string& name, Load load) {
    return writer_.has(name) ? name : writer_.add_initializer(name, load());
  }
  std::string cast(const std::string& value, DType to, const std::string& name) {
    return writer_.add_node("Cast", name, {value}, {{"to", int64_t{onnx_type(to)}}});
  }

  const Graph& graph_;
  OnnxWriter writer_;
  ExportOptions options_;
};

void Exporter::declare_interface() {
  writer_.add_input("input_ids", DType::kI64, {"batch", "sequence"});
  writer_.add_input("position_ids", DType::kI64, {"batch", "sequence"});
  const auto dims = [&](ValueId id) {
    return std::vector<std::string>{"batch", "sequence", std::to_string(graph_.value(id).shape.at(1))};
  };
  for (const ValueId id : graph_.inputs()) {
    if (is_float(graph_.value(id).dtype)) writer_.add_input(graph_.value(id).name, graph_.value(id).dtype, dims(id));
  }
  for (const ValueId id : graph_.outputs()) writer_.add_output(onnx_name(id), graph_.value(id).dtype, dims(id));
  for (const Node& node : graph_.nodes()) {
    if (node.op != Op::kAttention) continue;
    const auto layer = node.integer("layer");
    const auto heads = std::to_string(node.integer("kv_heads"));
    const auto dim = std::to_string(node.integer("head_dim"));
    for (const char* part : {"key", "value"}) {
      writer_.add_input(fmt::format("past_key_values.{}.{}", layer, part), dtype(node), {"batch", heads, "past", dim});
      writer_.add_output(fmt::format("present.{}.{}", layer, part), dtype(node), {"batch", heads, "total", dim});
    }
  }
}

void Exporter::embedding(const Node& node) {
  check_internal(node.inputs.size() == 2, "embeddings are exported as floats");
  writer_.add_node("Gather", out(node), {weight(node, 1), "input_ids"}, {{"axis", int64_t{0}}});
}

std::string Exporter::round_to_int8(const std::string& x, const Node& node) {
  const DType type = graph_.value(node.inputs[0]).dtype;
  const std::string name = x + ".int8";
  if (writer_.has(name)) return name;  // q, k and v share one input
  const auto magnitude = writer_.add_node("Abs", name + ".abs", {x});
  const auto largest =
      writer_.add_node("ReduceMax", name + ".max", {magnitude, index_list({-1})}, {{"keepdims", int64_t{1}}});
  const auto positive = writer_.add_node("Max", name + ".positive", {largest, scalar(type, 1e-30)});
  const auto scale = writer_.add_node("Div", name + ".scale", {positive, scalar(type, 127)});
  const auto divided = writer_.add_node("Div", name + ".divided", {x, scale});
  const auto rounded = writer_.add_node("Round", name + ".rounded", {divided});
  return writer_.add_node("Mul", name, {rounded, scale});
}

std::string Exporter::dequantized_weight(const Node& node) {
  const std::string name = graph_.value(node.inputs[1]).name;
  return shared_weight(name, [&] {
    const WeightRows rows(graph_, node, 1);
    std::vector<float> values(static_cast<size_t>(rows.n() * rows.k()));
    rows.read(0, rows.n(), values);
    return transpose(Tensor::from_floats(dtype(node), {rows.n(), rows.k()}, values));
  });
}

// DequantizeLinear over blocks along K of a [K, n] weight, the form that runtimes fuse into their MatMul.
std::string Exporter::quantized_weight(const Node& node, DType& dtype) {
  const std::string name = graph_.value(node.inputs[1]).name;
  const Tensor data = graph_.constant(node.inputs[1]);
  Tensor scale = graph_.constant(node.inputs[2]);
  const double global = node.number("global_scale", 1.0);
  if (global != 1.0 || !is_float(scale.dtype()) || bit_width(scale.dtype()) < 16) {
    auto values = scale.to_floats();
    for (float& value : values) value = static_cast<float>(double{value} * global);
    // The model's dtype where that is exact, else float32 with casts around the product.
    const Tensor narrow = Tensor::from_floats(dtype, scale.shape(), values);
    scale = narrow.to_floats() == values ? narrow : Tensor::from_floats(DType::kF32, scale.shape(), values);
  }
  dtype = scale.dtype();
  // One scale a row is written as repeated blocks of 128, 64 or 32 where they divide K: the fused form again.
  const int64_t k = data.dim(1);
  int64_t block = node.integer("block");
  int64_t repeat = 1;
  for (const int64_t candidate : {128, 64, 32}) {
    if (block == k && k % candidate == 0) {
      repeat = k / candidate;
      block = candidate;
      break;
    }
  }
  const auto grid = [&](const Tensor& tensor, DType type) {
    const auto values = tensor.to_floats();
    const int64_t n = tensor.dim(0);
    const int64_t groups = tensor.dim(1) * repeat;
    std::vector<float> flipped(static_cast<size_t>(n * groups));
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < n; ++i) flipped[size_t(g * n + i)] = values[size_t(i * tensor.dim(1) + g / repeat)];
    }
    return Tensor::from_floats(type, {groups, n}, flipped);
  };
  Names inputs{writer_.add_initializer(name, transpose(data)),
               writer_.add_initializer(name + ".scale", grid(scale, dtype))};
  if (node.inputs[3] != kNone) {
    inputs.push_back(writer_.add_initializer(name + ".zero", grid(graph_.constant(node.inputs[3]), data.dtype())));
  }
  return writer_.add_node("DequantizeLinear", name + ".dequantized", inputs,
                          {{"axis", int64_t{0}}, {"block_size", block}});
}

std::string Exporter::linear_weight(const Node& node, DType& dtype) {
  const ValueId id = node.inputs[1];
  const std::string& name = graph_.value(id).name;
  const bool transposed = node.integer("transposed", 0) != 0;
  check_internal(transposed, "export expects weights in checkpoint order");
  if (node.inputs[2] != kNone) return options_.dequantize ? dequantized_weight(node) : quantized_weight(node, dtype);
  if (writer_.has(name)) {  // a head tied to the embedding table
    return writer_.add_node("Transpose", node.name + ".transposed", {name}, {{"perm", std::vector<int64_t>{1, 0}}});
  }
  return writer_.add_initializer(name, transpose(graph_.constant(id)));
}

void Exporter::linear(const Node& node) {
  check_internal(node.outputs.size() == 1, "export expects unfused Linears");
  std::string x = in(node, 0);
  if (node.text("activation") == "int8" && !options_.dequantize) x = round_to_int8(x, node);
  const DType activation = dtype(node);
  DType product = activation;
  const std::string w = linear_weight(node, product);
  const bool biased = node.inputs[4] != kNone;
  const bool casts = product != activation;
  if (casts) x = cast(x, product, node.name + ".cast");
  // The product has the module's path as its name, by which adapters find it.
  std::string y = biased || casts ? node.name + ".product" : out(node);
  writer_.add_node("MatMul", node.name, {x, w}, {y}, {});
  if (casts) {
    const std::string product_name = std::exchange(y, biased ? node.name + ".uncast" : out(node));
    writer_.add_node("Cast", node.name + ".uncast", {product_name}, {y}, {{"to", int64_t{onnx_type(activation)}}});
  }
  if (biased) writer_.add_node("Add", node.name + ".biased", {y, weight(node, 4)}, {out(node)}, {});
}

void Exporter::norm(const Node& node) {
  const DType activation = dtype(node);
  const Value& w = graph_.value(node.inputs[1]);
  const int64_t columns = graph_.value(node.inputs[0]).shape[1];
  const bool per_head = w.shape[0] != columns;
  const bool casts = w.dtype != activation;
  std::string x = in(node, 0);
  if (per_head) x = writer_.add_node("Reshape", node.name + ".heads", {x, index_list({0, 0, -1, w.shape[0]})});
  if (casts) x = cast(x, w.dtype, node.name + ".cast");
  Names inputs{x, weight(node, 1)};
  if (node.inputs.size() > 2 && node.inputs[2] != kNone) inputs.push_back(weight(node, 2));
  std::string y = writer_.add_node(node.op == Op::kRmsNorm ? "RMSNormalization" : "LayerNormalization",
                                   per_head || casts ? node.name + ".normalized" : out(node), inputs,
                                   {{"axis", int64_t{-1}}, {"epsilon", node.number("epsilon")}});
  if (casts) y = cast(y, activation, per_head ? node.name + ".uncast" : out(node));
  if (per_head) writer_.add_node("Reshape", out(node), {y, index_list({0, 0, columns})});
}

void Exporter::rotary_table(const Node& node) {
  const std::string& name = node.name;
  const auto position = cast("position_ids", DType::kF32, name + ".position");
  const auto column = writer_.add_node("Unsqueeze", name + ".column", {position, index_list({-1})});
  std::string frequency = weight(node, 1);
  std::string scale = scalar(DType::kF32, node.number("scale", 1.0));
  if (node.inputs.size() > 2 && node.inputs[2] != kNone) {
    const auto last = writer_.add_node("ReduceMax", name + ".last", {"position_ids"}, {{"keepdims", int64_t{0}}});
    const auto limit = shared(fmt::format("const.i64.{}", node.integer("threshold")),
                              Tensor::from_int64({}, std::vector<int64_t>{node.integer("threshold")}));
    const auto is_long = writer_.add_node("GreaterOrEqual", name + ".is_long", {last, limit});
    frequency = writer_.add_node("Where", name + ".frequency", {is_long, weight(node, 2), frequency});
    scale = writer_.add_node("Where", name + ".scale",
                             {is_long, scalar(DType::kF32, node.number("long_scale", 1.0)), scale});
  }
  const auto angle = writer_.add_node("Mul", name + ".angle", {column, frequency});
  for (const auto& [op, index] : {std::pair{"Cos", size_t{0}}, {"Sin", size_t{1}}}) {
    const auto wave = writer_.add_node(op, fmt::format("{}.{}", name, op), {angle});
    const auto scaled = writer_.add_node("Mul", fmt::format("{}.{}.scaled", name, op), {wave, scale});
    cast(scaled, graph_.value(graph_.nodes().back().outputs[0]).dtype, out(node, index));
  }
}

// Keys up to the query's own position and no further back than `window`: [batch, 1, sequence, total].
std::string Exporter::window_mask(int64_t window) {
  const std::string name = fmt::format("window.{}", window);
  if (writer_.has(name)) return name;
  if (!writer_.has("window.keys")) {
    const auto shape = writer_.add_node("Shape", "window.input_shape", {"input_ids"}, {{"start", int64_t{1}}});
    const auto past = writer_.add_node("Shape", "window.past", {"past_key_values.0.key"},
                                       {{"start", int64_t{2}}, {"end", int64_t{3}}});
    const auto total = writer_.add_node("Add", "window.total", {shape, past});
    const auto count = writer_.add_node("Squeeze", "window.count", {total});
    writer_.add_node("Range", "window.keys",
                     {shared("const.i64.0", Tensor::from_int64({}, std::vector<int64_t>{0})), count,
                      shared("const.i64.1", Tensor::from_int64({}, std::vector<int64_t>{1}))});
    writer_.add_node("Unsqueeze", "window.queries", {"position_ids", index_list({1, 3})});
  }
  const auto size = shared(fmt::format("const.i64.{}", window), Tensor::from_int64({}, std::vector<int64_t>{window}));
  const auto seen = writer_.add_node("LessOrEqual", name + ".causal", {"window.keys", "window.queries"});
  const auto start = writer_.add_node("Sub", name + ".start", {"window.queries", size});
  const auto near = writer_.add_node("Greater", name + ".near", {"window.keys", start});
  return writer_.add_node("And", name, {seen, near});
}

void Exporter::attention(const Node& node) {
  const auto layer = node.integer("layer");
  const int64_t window = node.integer("window", 0);
  Attributes attributes{{"q_num_heads", node.integer("q_heads")},
                        {"kv_num_heads", node.integer("kv_heads")},
                        {"scale", node.number("scale")},
                        {"is_causal", int64_t{window == 0}}};
  if (node.number("softcap", 0.0) > 0) attributes["softcap"] = node.number("softcap");
  writer_.add_node("Attention", node.name,
                   {in(node, 0), in(node, 1), in(node, 2), window == 0 ? "" : window_mask(window),
                    fmt::format("past_key_values.{}.key", layer), fmt::format("past_key_values.{}.value", layer)},
                   {out(node), fmt::format("present.{}.key", layer), fmt::format("present.{}.value", layer)},
                   attributes);
}

void Exporter::route(const Node& node) {
  const std::string& name = node.name;
  const bool before = node.text("softmax", "before") == "before";
  const auto logits = cast(in(node, 0), DType::kF32, name + ".logits");
  const Attributes last{{"axis", int64_t{-1}}};
  const auto scores = before ? writer_.add_node("Softmax", name + ".scores", {logits}, last) : logits;
  writer_.add_node("TopK", name + ".top", {scores, index_list({node.integer("top_k")})},
                   {name + ".top.values", name + ".top.indices"}, last);
  std::string chosen = name + ".top.values";
  if (!before) chosen = writer_.add_node("Softmax", name + ".chosen", {chosen}, last);
  if (node.integer("normalize", 0) != 0) {
    const auto sum =
        writer_.add_node("ReduceSum", name + ".sum", {chosen, index_list({-1})}, {{"keepdims", int64_t{1}}});
    chosen = writer_.add_node("Div", name + ".normalized", {chosen, sum});
  }
  const auto zeros = writer_.add_node("Mul", name + ".zeros", {scores, scalar(DType::kF32, 0)});
  writer_.add_node("ScatterElements", out(node), {zeros, name + ".top.indices", chosen}, last);
}

// All experts as one batched product; those a token did not choose have routing weight zero.
void Exporter::moe(const Node& node) {
  const std::string& name = node.name;
  const auto stacked = [&](size_t index) {
    const Value& value = graph_.value(node.inputs[index]);
    return shared_weight(value.name, [&] {
      const Tensor all = graph_.constant(node.inputs[index]);
      Tensor flipped = Tensor::zeros(all.dtype(), {all.dim(0), all.dim(2), all.dim(1)});
      auto bytes = flipped.mutable_bytes();
      for (int64_t e = 0; e < all.dim(0); ++e) {
        const Tensor one = transpose(all.rows(e, e + 1).reshaped({all.dim(1), all.dim(2)}));
        std::copy(one.bytes().begin(), one.bytes().end(), bytes.begin());
        bytes = bytes.subspan(one.bytes().size());
      }
      return flipped;
    });
  };
  const auto x = writer_.add_node("Unsqueeze", name + ".x", {in(node, 0), index_list({1})});
  const auto gate = writer_.add_node("MatMul", name + ".gate", {x, stacked(2)});
  const auto up = writer_.add_node("MatMul", name + ".up", {x, stacked(5)});
  const auto sigmoid = writer_.add_node("Sigmoid", name + ".sigmoid", {gate});
  const auto silu = writer_.add_node("Mul", name + ".silu", {gate, sigmoid});
  const auto hidden = writer_.add_node("Mul", name + ".hidden", {silu, up});
  const auto down = writer_.add_node("MatMul", name + ".down", {hidden, stacked(8)});
  const auto by_expert =
      writer_.add_node("Transpose", name + ".by_expert", {in(node, 1)}, {{"perm", std::vector<int64_t>{0, 2, 1}}});
  const auto column = writer_.add_node("Unsqueeze", name + ".column", {by_expert, index_list({-1})});
  const auto weights = cast(column, dtype(node), name + ".weights");
  const auto weighted = writer_.add_node("Mul", name + ".weighted", {down, weights});
  writer_.add_node("ReduceSum", out(node), {weighted, index_list({1})}, {{"keepdims", int64_t{0}}});
}

void Exporter::unary(const Node& node) {
  const DType type = dtype(node);
  const std::string x = in(node, 0);
  switch (node.op) {
    case Op::kScale:
      writer_.add_node("Mul", out(node), {x, scalar(type, node.number("factor"))});
      return;
    case Op::kSilu:
      writer_.add_node("Mul", out(node), {x, writer_.add_node("Sigmoid", node.name + ".sigmoid", {x})});
      return;
    case Op::kGelu:
      writer_.add_node("Gelu", out(node), {x}, {{"approximate", node.text("approximate", "none")}});
      return;
    case Op::kRelu:
      writer_.add_node("Relu", out(node), {x});
      return;
    case Op::kSquare:
      writer_.add_node("Mul", out(node), {x, x});
      return;
    case Op::kSoftcap: {
      const auto cap = scalar(type, node.number("cap"));
      const auto divided = writer_.add_node("Div", node.name + ".divided", {x, cap});
      writer_.add_node("Mul", out(node), {writer_.add_node("Tanh", node.name + ".tanh", {divided}), cap});
      return;
    }
    default:
      fail(ErrorKind::kInternal, "{} {} has no ONNX form", op_name(node.op), node.name);
  }
}

void Exporter::lower(const Node& node) {
  switch (node.op) {
    case Op::kEmbedding:
      return embedding(node);
    case Op::kLinear:
      return linear(node);
    case Op::kRmsNorm:
    case Op::kLayerNorm:
      return norm(node);
    case Op::kRotaryTable:
      return rotary_table(node);
    case Op::kRotary: {
      const bool whole = node.integer("rotary_dim") == node.integer("head_dim");
      writer_.add_node("RotaryEmbedding", out(node), {in(node, 0), in(node, 1), in(node, 2)},
                       {{"num_heads", node.integer("heads")},
                        {"interleaved", node.integer("interleaved", 0)},
                        {"rotary_embedding_dim", whole ? int64_t{0} : node.integer("rotary_dim")}});
      return;
    }
    case Op::kAttention:
      return attention(node);
    case Op::kAdd:
    case Op::kMul:
      writer_.add_node(node.op == Op::kAdd ? "Add" : "Mul", out(node),
                       {in(node, 0), graph_.value(node.inputs[1]).is_constant() ? weight(node, 1) : in(node, 1)});
      return;
    case Op::kGatherColumns:
      writer_.add_node("Gather", out(node), {in(node, 0), weight(node, 1)}, {{"axis", int64_t{-1}}});
      return;
    case Op::kConcat: {
      Names parts;
      for (size_t i = 0; i < node.inputs.size(); ++i) parts.push_back(in(node, i));
      writer_.add_node("Concat", out(node), parts, {{"axis", int64_t{-1}}});
      return;
    }
    case Op::kRoute:
      return route(node);
    case Op::kMoe:
      return moe(node);
    default:
      return unary(node);
  }
}

void Exporter::run() {
  declare_interface();
  Progress progress("export", static_cast<int64_t>(graph_.nodes().size()), "operators");
  for (const Node& node : graph_.nodes()) {
    lower(node);
    progress.advance(1, node.name);
  }
  writer_.commit();
}

}  // namespace

void export_onnx(const Graph& graph, const std::filesystem::path& directory, const ExportOptions& options) {
  Exporter(graph, directory, options).run();
}

}  // namespace edgewise
