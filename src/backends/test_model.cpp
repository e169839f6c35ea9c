#include "backends/test_model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise {
namespace {

// Adds random constants and nodes; one a graph.
class Maker {
 public:
  explicit Maker(const TestModel& model) : model_(model) {}

  Graph graph;

  ValueId constant(const std::string& name, DType dtype, const Shape& shape, float low, float high) {
    std::uniform_real_distribution<float> uniform(low, high);
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    for (float& value : values) value = uniform(random_);
    return graph.add_constant(name, Tensor::from_floats(dtype, shape, values));
  }
  ValueId norm(const std::string& name, ValueId x, int64_t d) {
    return graph.add(Op::kRmsNorm, name, {x, constant(name + ".w", DType::kBF16, {d}, 0.5f, 1.5f)},
                     {{"epsilon", 1e-5}});
  }

  // Weight, scale and zero of a matrix [n, k], stacked when `stack` is positive.
  void add_matrix(std::vector<ValueId>& inputs, const std::string& name, int64_t n, int64_t k, int64_t stack) {
    const int64_t blocks = (k + model_.block - 1) / model_.block;
    const auto shape = [&](int64_t columns) {
      Shape s = model_.transposed ? Shape{n, columns} : Shape{columns, n};
      if (stack > 0) s.insert(s.begin(), stack);
      return s;
    };
    const bool quantized = bit_width(model_.weight) <= 8;
    float high = 0.2f;
    if (quantized) high = model_.weight == DType::kI8 ? 127.0f : model_.weight == DType::kF8E4M3 ? 16.0f : 7.0f;
    const bool is_unsigned = model_.weight == DType::kU4 || model_.weight == DType::kU8;
    inputs.push_back(
        constant(name + ".w", model_.weight, shape(k), is_unsigned ? 0.0f : -high, is_unsigned ? 15.0f : high));
    inputs.push_back(quantized ? constant(name + ".s", model_.scale, shape(blocks), 0.1f / high, 0.3f / high) : kNone);
    inputs.push_back(model_.zeros ? constant(name + ".z", model_.weight, shape(blocks), 0, 7) : kNone);
  }

  std::vector<ValueId> linear(const std::string& name, ValueId x, const std::vector<int64_t>& n, bool bias) {
    std::vector<ValueId> inputs{x};
    for (size_t i = 0; i < n.size(); ++i) {
      add_matrix(inputs, fmt_name(name, i), n[i], graph.value(x).shape[1], 0);
      inputs.push_back(bias ? constant(fmt_name(name, i) + ".b", DType::kBF16, {n[i]}, -0.5f, 0.5f) : kNone);
    }
    return graph.add_node(Op::kLinear, name, inputs, weight_attributes());
  }

  Attributes weight_attributes() const {
    Attributes attributes = {{"transposed", int64_t{model_.transposed}}};
    if (bit_width(model_.weight) <= 8) {
      attributes["block"] = model_.block;
      attributes["global_scale"] = 0.75;
    }
    if (model_.token_scales) attributes["activation"] = std::string("int8");
    return attributes;
  }

 private:
  static std::string fmt_name(const std::string& name, size_t i) { return name + "." + std::to_string(i); }

  const TestModel& model_;
  std::mt19937 random_{11};
};

ValueId attention_block(Maker& m, const TestModel& t, ValueId x, ValueId cos, ValueId sin, int64_t layer) {
  const std::string name = "layer" + std::to_string(layer);
  const auto qkv =
      m.linear(name + ".qkv", x, {t.heads * t.head_dim, t.kv_heads * t.head_dim, t.kv_heads * t.head_dim}, layer == 0);
  const auto rotary = [&](const std::string& part, ValueId v, int64_t heads) {
    return m.graph.add(
        Op::kRotary, name + part, {v, cos, sin},
        {{"heads", heads}, {"head_dim", t.head_dim}, {"rotary_dim", t.head_dim - 4}, {"interleaved", layer % 2}});
  };
  const ValueId q = rotary(".rq", m.norm(name + ".qn", qkv[0], t.head_dim), t.heads);
  const ValueId k = rotary(".rk", m.norm(name + ".kn", qkv[1], t.head_dim), t.kv_heads);
  Attributes attributes = {{"layer", layer},
                           {"q_heads", t.heads},
                           {"kv_heads", t.kv_heads},
                           {"head_dim", t.head_dim},
                           {"scale", 0.3},
                           {"softcap", layer == 1 ? 5.0 : 0.0},
                           {"window", int64_t{layer == 1 ? 100 : 0}}};
  return m.graph.add(Op::kAttention, name + ".attention", {q, k, qkv[2]}, attributes);
}

}  // namespace

Graph TestModel::build() const {
  Maker m(*this);
  Graph& g = m.graph;
  const ValueId tokens = g.add_input("tokens", DType::kI32, {kTokens});
  const ValueId positions = g.add_input("positions", DType::kI32, {kTokens});
  ValueId x = g.add(Op::kEmbedding, "embed", {tokens, m.constant("table", DType::kBF16, {vocabulary, hidden}, -1, 1)});
  x = g.add(Op::kScale, "embed.scale", {x}, {{"factor", 1.25}});
  const int64_t half = (head_dim - 4) / 2;
  const auto table = g.add_node(Op::kRotaryTable, "rotary",
                                {positions, m.constant("inv_freq", DType::kF32, {half}, 0.01f, 1),
                                 m.constant("long_inv_freq", DType::kF32, {half}, 0.001f, 0.1f)},
                                {{"scale", 1.0}, {"long_scale", 1.1}, {"threshold", int64_t{500}}});
  for (int64_t layer = 0; layer < 2; ++layer) {
    const std::string name = "layer" + std::to_string(layer);
    const ValueId a = attention_block(m, *this, m.norm(name + ".norm", x, hidden), table[0], table[1], layer);
    const ValueId o = m.linear(name + ".o", a, {hidden}, true)[0];
    const auto sum =
        g.add_node(Op::kAddRmsNorm, name + ".add_norm",
                   {x, o, m.constant(name + ".norm2", DType::kF32, {hidden}, 0.5f, 1.5f)}, {{"epsilon", 1e-6}});
    ValueId y;
    if (layer == 0) {
      const auto up = m.linear(name + ".up", sum[1], {inner, inner}, false);
      const ValueId h = g.add(Op::kSwiGlu, name + ".swiglu", {up[0], up[1]});
      const ValueId h2 = g.add(Op::kGeGlu, name + ".geglu", {h, up[1]}, {{"approximate", std::string("tanh")}});
      y = m.linear(name + ".down", h2, {hidden}, false)[0];
    } else {
      const ValueId router =
          g.add(Op::kRoute, name + ".route", {m.linear(name + ".router", sum[1], {experts}, false)[0]},
                {{"top_k", int64_t{2}}, {"normalize", int64_t{1}}, {"softmax", std::string("before")}});
      std::vector<ValueId> inputs{sum[1], router};
      m.add_matrix(inputs, name + ".gate", inner, hidden, experts);
      m.add_matrix(inputs, name + ".up", inner, hidden, experts);
      m.add_matrix(inputs, name + ".down", hidden, inner, experts);
      y = g.add(Op::kMoe, name + ".moe", inputs, m.weight_attributes());
    }
    x = g.add(Op::kAdd, name + ".out", {sum[0], y});
  }
  for (const auto& [op, name] : {std::pair{Op::kSilu, "silu"}, {Op::kRelu, "relu"}, {Op::kSquare, "square"}}) {
    x = g.add(Op::kAdd, std::string(name) + ".add", {x, g.add(op, name, {x})});
    x = m.norm(std::string(name) + ".norm", x, hidden);
  }
  x = g.add(Op::kMul, "mul", {x, m.constant("mul.w", DType::kF32, {hidden}, 0.5f, 1.5f)});
  x = g.add(Op::kGelu, "gelu", {x}, {{"approximate", std::string("none")}});
  std::vector<float> order;
  for (int64_t i = 0; i < hidden; ++i) order.push_back(static_cast<float>((i * 5 + 3) % (2 * hidden)));
  x = g.add(Op::kConcat, "concat", {x, g.find_value("mul")});
  x = g.add(Op::kGatherColumns, "gather",
            {x, g.add_constant("order", Tensor::from_floats(DType::kI32, {hidden}, order))});
  x = g.add(Op::kLayerNorm, "final",
            {x, m.constant("final.w", DType::kF32, {hidden}, 0.5f, 1.5f),
             m.constant("final.b", DType::kF32, {hidden}, -1, 1)},
            {{"epsilon", 1e-5}});
  x = g.add(Op::kSelectRows, "rows", {x});
  x = m.linear("head", x, {vocabulary}, false)[0];
  x = g.add(Op::kSoftcap, "softcap", {x}, {{"cap", 8.0}});
  g.mark_output(x);
  return std::move(m.graph);
}

Graph TestModel::build_decoder(int64_t layers) const {
  Maker m(*this);
  Graph& g = m.graph;
  const ValueId tokens = g.add_input("tokens", DType::kI32, {kTokens});
  const ValueId positions = g.add_input("positions", DType::kI32, {kTokens});
  ValueId x = g.add(Op::kEmbedding, "embed", {tokens, m.constant("table", DType::kBF16, {vocabulary, hidden}, -1, 1)});
  const auto table =
      g.add_node(Op::kRotaryTable, "rotary",
                 {positions, m.constant("inv_freq", DType::kF32, {(head_dim - 4) / 2}, 0.01f, 1)}, {{"scale", 1.0}});
  ValueId normed = m.norm("norm", x, hidden);
  const auto add = [&](const std::string& name, ValueId y) {
    const auto sum = g.add_node(
        Op::kAddRmsNorm, name, {x, y, m.constant(name + ".w", DType::kF32, {hidden}, 0.5f, 1.5f)}, {{"epsilon", 1e-6}});
    x = sum[0];
    normed = sum[1];
  };
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string name = "layer" + std::to_string(layer);
    const ValueId a = attention_block(m, *this, normed, table[0], table[1], layer);
    add(name + ".add", m.linear(name + ".o", a, {hidden}, layer == 0)[0]);
    const auto up = m.linear(name + ".up", normed, {inner, inner}, false);
    const Attributes tanh = {{"approximate", std::string("tanh")}};
    const ValueId h = layer % 2 == 0 ? g.add(Op::kSwiGlu, name + ".gate", {up[0], up[1]})
                                     : g.add(Op::kGeGlu, name + ".gate", {up[0], up[1]}, tanh);
    const ValueId down = m.linear(name + ".down", h, {hidden}, false)[0];
    if (layer + 1 < layers)
      add(name + ".out", down);
    else
      x = g.add(Op::kAdd, name + ".out", {x, down});
  }
  x = m.norm("final", g.add(Op::kSelectRows, "rows", {x}), hidden);
  g.mark_output(m.linear("head", x, {vocabulary}, false)[0]);
  return std::move(m.graph);
}

Graph packed(const Graph& g, const Backend& backend) {
  Graph result = g;
  for (size_t i = 0; i < result.nodes().size(); ++i) backend.pack(result, static_cast<NodeId>(i));
  verify_graph(result);
  return result;
}

NodeOutputs observed(Executable& executable, const StepInput& input, int64_t vocabulary) {
  NodeOutputs outputs;
  executable.observe([&](const Node& node, std::span<const Tensor> tensors) {
    for (const Tensor& tensor : tensors) outputs[node.name].push_back(tensor.to_floats());
  });
  std::vector<float> logits(input.logits_rows.size() * static_cast<size_t>(vocabulary));
  check_internal(executable.run(input, logits) == StepOutcome::kDone, "a step of a test failed");
  executable.observe({});
  return outputs;
}

std::string first_difference(const Graph& graph, const NodeOutputs& found, const NodeOutputs& expected,
                             double tolerance) {
  if (found.size() != expected.size()) return fmt::format("{} nodes of {}", found.size(), expected.size());
  for (const Node& node : graph.nodes()) {
    if (!found.contains(node.name) || !expected.contains(node.name)) return node.name + ": no outputs";
    const auto& a = found.at(node.name);
    const auto& b = expected.at(node.name);
    if (a.size() != b.size()) return fmt::format("{}: {} outputs of {}", node.name, a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      if (a[i].size() != b[i].size()) return fmt::format("{}: {} values of {}", node.name, a[i].size(), b[i].size());
      const double distance = relative_distance(a[i], b[i]);
      if (!(distance < tolerance)) return fmt::format("{}: {} apart, not below {}", node.name, distance, tolerance);
    }
  }
  return "";
}

StepMaker::StepMaker(int sequences, int length, int64_t vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  const int each = (length + kPageTokens - 1) / kPageTokens;
  pages_ = each * sequences;
  std::vector<int32_t> pages;
  for (int i = 0; i < pages_; ++i) pages.push_back(i);
  std::shuffle(pages.begin(), pages.end(), random);
  for (int s = 0; s < sequences; ++s) {
    auto& tokens = tokens_.emplace_back();
    for (int i = 0; i < length; ++i)
      tokens.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary)));
    page_tables_.emplace_back(pages.begin() + s * each, pages.begin() + (s + 1) * each);
  }
  done_.assign(static_cast<size_t>(sequences), 0);
  adapters_.assign(static_cast<size_t>(sequences), -1);
}

const StepInput& StepMaker::next(const std::vector<Feed>& feeds) {
  step_tokens_.clear();
  step_positions_.clear();
  step_rows_.clear();
  slices_.clear();
  for (const Feed& feed : feeds) {
    const auto s = static_cast<size_t>(feed.sequence);
    SequenceSlice slice;
    slice.first_token = static_cast<int32_t>(step_tokens_.size());
    slice.token_count = feed.count;
    slice.kv_length = done_[s];
    slice.context_length = static_cast<int32_t>(tokens_[s].size()) - (s == 1 ? 300 : 0);
    slice.page_table = page_tables_[s];
    slice.adapter = adapters_[s];
    slices_.push_back(slice);
    for (int i = 0; i < feed.count; ++i, ++done_[s]) {
      step_rows_.push_back(static_cast<int32_t>(step_tokens_.size()));
      step_tokens_.push_back(tokens_[s].at(static_cast<size_t>(done_[s])));
      step_positions_.push_back(done_[s]);
    }
  }
  input_ = {step_tokens_, step_positions_, {}, slices_, step_rows_};
  return input_;
}

LoadOptions options_for(const StepMaker& steps, DType kv, int threads) {
  LoadOptions options;
  options.max_tokens = 300;
  options.max_sequences = 4;
  options.max_rows = 300;
  options.kv_pages = steps.pages();
  options.kv_dtype = kv;
  options.threads = threads;
  return options;
}

std::vector<float> logits_of_first(Executable& executable, StepMaker& steps,
                                   const std::vector<std::vector<Feed>>& script, int64_t vocabulary) {
  std::vector<float> result;
  for (const auto& feeds : script) {
    const StepInput& input = steps.next(feeds);
    std::vector<float> logits(input.logits_rows.size() * static_cast<size_t>(vocabulary));
    check_internal(executable.run(input, logits) == StepOutcome::kDone, "a step of a test failed");
    auto row = logits.begin();
    for (const Feed& feed : feeds) {
      const auto end = row + feed.count * vocabulary;
      if (feed.sequence == 0) result.insert(result.end(), row, end);
      row = end;
    }
  }
  return result;
}

TreeRun::TreeRun(int prompt, int nodes, uint32_t seed) : random(seed), begin(prompt) {
  const auto pick = [&](int64_t below) { return static_cast<int32_t>(random() % static_cast<uint32_t>(below)); };
  for (int i = 0; i < prompt; ++i) tokens.push_back(pick(kVocabulary));
  for (int i = 0; i < nodes; ++i) {
    node_tokens.push_back(pick(kVocabulary));
    const int parent = pick(i + 1) - 1;
    masks.push_back((parent < 0 ? 0 : masks[static_cast<size_t>(parent)]) | uint64_t{1} << i);
  }
  for (int i = 0; i < 8; ++i) pages.push_back(i);
  std::shuffle(pages.begin(), pages.end(), random);
}

namespace {

std::vector<float> run_slice(Executable& executable, const SequenceSlice& slice, const std::vector<int32_t>& ids) {
  std::vector<int32_t> positions, rows;
  for (int32_t i = 0; i < slice.token_count; ++i) {
    positions.push_back(slice.position(i));
    rows.push_back(i);
  }
  std::vector<float> logits(ids.size() * TreeRun::kVocabulary);
  const StepOutcome outcome = executable.run({ids, positions, {}, {&slice, 1}, rows}, logits);
  check_internal(outcome == StepOutcome::kDone, "a step of a test failed");
  return logits;
}

}  // namespace

std::vector<float> TreeRun::chain(Executable& executable, int kv_length, const std::vector<int32_t>& ids) {
  return run_slice(executable, {0, static_cast<int32_t>(ids.size()), kv_length, begin + 64, pages}, ids);
}

std::vector<float> TreeRun::tree(Executable& executable, int first, int last) {
  SequenceSlice slice{0, last - first, begin + first, begin + 64, pages, -1, begin, {}};
  slice.tree = std::span(masks).subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
  return run_slice(executable, slice, {node_tokens.begin() + first, node_tokens.begin() + last});
}

std::vector<int32_t> TreeRun::ancestors(size_t node) const {
  std::vector<int32_t> result;
  for (uint64_t mask = masks[node]; mask != 0; mask &= mask - 1) result.push_back(std::countr_zero(mask));
  return result;
}

std::vector<SlotCopy> TreeRun::copies_of(const std::vector<int32_t>& path) const {
  std::vector<SlotCopy> copies;
  const auto page = [&](int slot) { return pages[static_cast<size_t>(slot / kPageTokens)]; };
  for (size_t i = 0; i < path.size(); ++i) {
    const int from = begin + path[i];
    const int to = begin + static_cast<int>(i);
    copies.push_back({page(from), from % kPageTokens, page(to), to % kPageTokens});
  }
  return copies;
}

}  // namespace edgewise
