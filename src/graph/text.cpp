// The text form of a graph, for `inspect`, for tests of passes, and for reading.
//   graph NAME
//   input %tokens : i32[tokens]
//   const %w : bf16[8192, 384]
//   %x = embedding(%tokens, %w) : bf16[tokens, 384]
//   output %x
#include <charconv>
#include <sstream>

#include "base/error.h"
#include "graph/graph.h"

namespace edgewise {
namespace {

std::string type_text(const Value& value) {
  std::string dims;
  for (const int64_t dim : value.shape) {
    if (!dims.empty()) dims += ", ";
    dims += dim == kTokens ? "tokens" : dim == kRows ? "rows" : std::to_string(dim);
  }
  return fmt::format("{}[{}]", dtype_name(value.dtype), dims);
}

std::string attribute_text(const Attribute& attribute) {
  if (const auto* i = std::get_if<int64_t>(&attribute)) return std::to_string(*i);
  if (const auto* d = std::get_if<double>(&attribute)) {
    std::string text = fmt::format("{}", *d);
    return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
  }
  if (const auto* s = std::get_if<std::string>(&attribute)) return fmt::format("\"{}\"", *s);
  return fmt::format("[{}]", fmt::join(std::get<std::vector<int64_t>>(attribute), ", "));
}

// Reads one line; every failure names it.
class LineReader {
 public:
  LineReader(std::string_view line, int number) : rest_(line), number_(number) {}

  [[noreturn]] void reject(std::string_view expected) const {
    bad_file("graph text, line {}: expected {} at \"{}\"", number_, expected, rest_.substr(0, 40));
  }
  void skip_spaces() {
    while (!rest_.empty() && rest_[0] == ' ') rest_.remove_prefix(1);
  }
  bool accept(std::string_view token) {
    skip_spaces();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void expect(std::string_view token) {
    if (!accept(token)) reject(token);
  }
  bool done() {
    skip_spaces();
    return rest_.empty();
  }
  std::string word() {
    skip_spaces();
    size_t length = 0;
    while (length < rest_.size() && rest_.find_first_of(" ,()[]={}\"", length) != length) ++length;
    if (length == 0) reject("a name");
    std::string result(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return result;
  }
  std::string name() {
    expect("%");
    return word();
  }
  std::string quoted() {
    expect("\"");
    const size_t end = rest_.find('"');
    if (end == std::string_view::npos) reject("a closing quote");
    std::string result(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return result;
  }
  int64_t integer() {
    const std::string text = word();
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) reject("an integer");
    return value;
  }
  ValueType type() {
    ValueType result{dtype_from_name(word()), {}};
    expect("[");
    while (!accept("]")) {
      if (!result.shape.empty()) expect(",");
      if (accept("tokens")) {
        result.shape.push_back(kTokens);
      } else if (accept("rows")) {
        result.shape.push_back(kRows);
      } else {
        result.shape.push_back(integer());
        if (result.shape.back() < 0) reject("a dimension");
      }
    }
    return result;
  }
  Attribute attribute() {
    skip_spaces();
    if (rest_.starts_with("\"")) return quoted();
    if (accept("[")) {
      std::vector<int64_t> values;
      while (!accept("]")) {
        if (!values.empty()) expect(",");
        values.push_back(integer());
      }
      return values;
    }
    const std::string text = word();
    if (text.find_first_of(".en") == std::string::npos) {
      int64_t value = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error == std::errc{} && end == text.data() + text.size()) return value;
    }
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) reject("a number");
    return value;
  }

 private:
  std::string_view rest_;
  int number_;
};

ValueId lookup(const Graph& graph, const LineReader& line, const std::string& name) {
  if (name == "none") return kNone;
  const ValueId id = graph.find_value(name);
  if (id == kNone) line.reject("a value defined above, not %" + name);
  return id;
}

void parse_node(Graph& graph, LineReader& line) {
  std::vector<std::string> outputs;
  do {
    outputs.push_back(line.name());
  } while (line.accept(","));
  line.expect("=");
  Op op{};
  if (!op_from_name(line.word(), op)) line.reject("an operator");
  std::vector<ValueId> inputs;
  line.expect("(");
  while (!line.accept(")")) {
    if (!inputs.empty()) line.expect(",");
    inputs.push_back(lookup(graph, line, line.name()));
  }
  Attributes attributes;
  if (line.accept("{")) {
    while (!line.accept("}")) {
      if (!attributes.empty()) line.expect(",");
      std::string key = line.word();
      line.expect("=");
      attributes.emplace(std::move(key), line.attribute());
    }
  }
  std::string node_name = outputs[0];
  if (outputs.size() > 1 && node_name.ends_with(":0")) node_name.resize(node_name.size() - 2);
  const auto made = graph.add_node(op, node_name, std::move(inputs), std::move(attributes));
  if (made.size() != outputs.size()) line.reject(fmt::format("{} outputs", made.size()));
  for (size_t i = 0; i < made.size(); ++i) {
    if (graph.value(made[i]).name != outputs[i]) line.reject("output names that derive from the node's");
  }
}

}  // namespace

std::string print_graph(const Graph& graph) {
  std::string text = fmt::format("graph {}\n", graph.name);
  for (const ValueId id : graph.inputs()) {
    text += fmt::format("input %{} : {}\n", graph.value(id).name, type_text(graph.value(id)));
  }
  for (const Value& value : graph.values()) {
    if (value.is_constant()) text += fmt::format("const %{} : {}\n", value.name, type_text(value));
  }
  for (const Node& node : graph.nodes()) {
    std::string line;
    for (const ValueId output : node.outputs) {
      line += fmt::format("{}%{}", line.empty() ? "" : ", ", graph.value(output).name);
    }
    line += fmt::format(" = {}(", op_name(node.op));
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId input = node.inputs[i];
      line += fmt::format("{}%{}", i == 0 ? "" : ", ", input == kNone ? "none" : graph.value(input).name);
    }
    line += ")";
    if (!node.attributes.empty()) {
      std::string list;
      for (const auto& [key, value] : node.attributes) {
        list += fmt::format("{}{}={}", list.empty() ? "" : ", ", key, attribute_text(value));
      }
      line += fmt::format(" {{{}}}", list);
    }
    text += line + fmt::format(" : {}\n", type_text(graph.value(node.outputs[0])));
  }
  for (const ValueId id : graph.outputs()) text += fmt::format("output %{}\n", graph.value(id).name);
  return text;
}

Graph parse_graph(std::string_view text) {
  Graph graph;
  std::istringstream lines{std::string(text)};
  std::string content;
  for (int number = 1; std::getline(lines, content); ++number) {
    // The type behind the last " : " is checked against what the node infers.
    LineReader line(content, number);
    if (line.done() || line.accept("#")) continue;
    if (line.accept("graph ")) {
      graph.name = line.word();
    } else if (line.accept("input ")) {
      const std::string name = line.name();
      line.expect(":");
      ValueType type = line.type();
      graph.add_input(name, type.dtype, std::move(type.shape));
    } else if (line.accept("const ")) {
      const std::string name = line.name();
      line.expect(":");
      ValueType type = line.type();
      graph.add_constant(name, type.dtype, type.shape, [type] { return Tensor::zeros(type.dtype, type.shape); });
    } else if (line.accept("output ")) {
      graph.mark_output(lookup(graph, line, line.name()));
    } else {
      parse_node(graph, line);
      line.expect(":");
      const ValueType type = line.type();
      const Value& made = graph.value(graph.nodes().back().outputs[0]);
      if (made.dtype != type.dtype || made.shape != type.shape) line.reject(type_text(made));
    }
    if (!line.done()) line.reject("the end of the line");
  }
  return graph;
}

}  // namespace edgewise
