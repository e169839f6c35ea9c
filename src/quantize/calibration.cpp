#include "quantize/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <sstream>

#include "backends/backend.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "formats/json.h"
#include "quantize/calibration_text.h"
#include "text/chat_template.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

std::string sample_text(const OrderedJson& line, const std::optional<LoadedChatTemplate>& chat_template,
                        const std::string& where) {
  if (line.is_object() && line.contains("text") && line.at("text").is_string())
    return line.at("text").get<std::string>();
  if (!line.is_object() || !line.contains("messages") || !line.at("messages").is_array()) {
    bad_file("{}: expected {{\"messages\": [...]}} or {{\"text\": \"...\"}}", where);
  }
  if (!chat_template) {
    std::string text;
    for (const auto& message : line.at("messages")) {
      if (message.is_object() && message.contains("content") && message.at("content").is_string()) {
        text += message.at("content").get<std::string>() + "\n\n";
      }
    }
    return text;
  }
  OrderedJson inputs = chat_template->special_tokens;
  inputs["messages"] = line.at("messages");
  inputs["add_generation_prompt"] = false;
  return chat_template->chat_template.render(inputs);
}

// Collects sums over the tokens of one activation; the second moment in pieces of many tokens.
class StatisticsCollector {
 public:
  void add(const Tensor& x) {
    const auto values = x.as<float>();
    const int64_t k = x.dim(1);
    if (statistics_.magnitude.empty()) {
      statistics_.second_moment = FloatMatrix(k, k);
      statistics_.magnitude.assign(static_cast<size_t>(k), 0.0);
      statistics_.largest.assign(static_cast<size_t>(k), 0.0f);
    }
    for (int64_t t = 0; t < x.dim(0); ++t) {
      for (int64_t j = 0; j < k; ++j) {
        const float magnitude = std::fabs(values[static_cast<size_t>(t * k + j)]);
        statistics_.magnitude[static_cast<size_t>(j)] += double{magnitude};
        statistics_.largest[static_cast<size_t>(j)] = std::max(statistics_.largest[static_cast<size_t>(j)], magnitude);
      }
    }
    statistics_.tokens += x.dim(0);
    pending_.insert(pending_.end(), values.begin(), values.end());
    if (pending_.size() >= static_cast<size_t>(k) * 4096) flush();
  }

  InputStatistics take() {
    flush();
    return std::move(statistics_);
  }

 private:
  void flush() {
    if (pending_.empty()) return;
    const int64_t k = statistics_.second_moment.rows;
    FloatMatrix x(static_cast<int64_t>(pending_.size()) / k, k);
    x.data = std::move(pending_);
    pending_.clear();
    const FloatMatrix columns = transposed(x);
    const FloatMatrix moment = TransposedProduct(columns, k)(columns);
    for (size_t i = 0; i < moment.data.size(); ++i) statistics_.second_moment.data[i] += moment.data[i];
  }

  InputStatistics statistics_;
  std::vector<float> pending_;
};

bool is_table(const Graph& graph, ValueId id) {
  const NodeId producer = graph.value(id).producer;
  return producer >= 0 && graph.nodes()[static_cast<size_t>(producer)].op == Op::kRotaryTable;
}

// The segment as a graph of its own. `names` maps its values to those of the whole graph.
Graph extract(const Graph& graph, const Segment& segment, std::map<std::string, ValueId>& names) {
  Graph part;
  std::map<ValueId, ValueId> moved;
  const auto move_node = [&](const Node& node, const auto& move_value) {
    std::vector<ValueId> inputs;
    for (const ValueId input : node.inputs) inputs.push_back(input == kNone ? kNone : move_value(input));
    const auto outputs = part.add_node(node.op, node.name, std::move(inputs), node.attributes);
    for (size_t i = 0; i < outputs.size(); ++i) {
      moved[node.outputs[i]] = outputs[i];
      names[part.value(outputs[i]).name] = node.outputs[i];
    }
  };
  if (segment.input != kNone) {
    moved[segment.input] = part.add_input(std::string(kHiddenInput), DType::kF32, graph.value(segment.input).shape);
    names[std::string(kHiddenInput)] = segment.input;
  }
  const std::function<ValueId(ValueId)> move_value = [&](ValueId id) -> ValueId {
    if (const auto known = moved.find(id); known != moved.end()) return known->second;
    const Value& value = graph.value(id);
    if (value.is_constant()) return moved[id] = part.add_constant(value.name, value.dtype, value.shape, value.constant);
    if (value.producer < 0) return moved[id] = part.add_input(value.name, value.dtype, value.shape);
    check_internal(is_table(graph, id), "a segment reads a value from outside");
    move_node(graph.nodes()[static_cast<size_t>(value.producer)], move_value);
    return moved.at(id);
  };
  for (size_t i = segment.first_node; i < segment.end_node; ++i) {
    if (graph.nodes()[i].op != Op::kRotaryTable) move_node(graph.nodes()[i], move_value);
  }
  part.mark_output(moved.at(segment.output));
  part.compact();
  return part;
}

}  // namespace

std::vector<std::vector<int32_t>> calibration_tokens(const fs::path& model_dir, const CalibrationOptions& options) {
  if (options.samples < 1) usage_error("--calib_size {}: expected a positive number", options.samples);
  const Tokenizer tokenizer = Tokenizer::load(model_dir / "tokenizer.json");
  const auto chat_template = load_chat_template(model_dir);
  const std::string source = options.dataset.empty() ? "built-in calibration text" : options.dataset.string();
  const std::string text = options.dataset.empty() ? std::string(calibration_text()) : read_text_file(options.dataset);
  std::vector<std::vector<int32_t>> samples;
  std::vector<int32_t> stream;  // of plain text, which is cut into samples of max_tokens
  const bool json_lines = text.starts_with("{");
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line) && static_cast<int>(samples.size()) < options.samples;) {
    ++number;
    if (json_lines) {
      if (line.empty()) continue;
      const std::string where = fmt::format("{}:{}", source, number);
      auto ids = tokenizer.encode(sample_text(parse_ordered_json(line, where), chat_template, where),
                                  !chat_template.has_value());
      ids.resize(std::min(ids.size(), static_cast<size_t>(options.max_tokens)));
      if (!ids.empty()) samples.push_back(std::move(ids));
      continue;
    }
    const auto ids = tokenizer.encode(line + "\n", false);
    stream.insert(stream.end(), ids.begin(), ids.end());
    if (stream.size() >= static_cast<size_t>(options.max_tokens)) {
      stream.resize(static_cast<size_t>(options.max_tokens));
      samples.push_back(std::move(stream));
      stream.clear();
    }
  }
  if (samples.empty() && !stream.empty()) samples.push_back(std::move(stream));
  if (samples.empty()) bad_file("{}: no calibration text", source);
  return samples;
}

std::vector<Segment> cut_segments(const Graph& graph) {
  // The last node that reads each value tells what is alive after a node.
  std::vector<size_t> last_use(graph.values().size(), 0);
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    for (const ValueId input : graph.nodes()[i].inputs) {
      if (input != kNone) last_use[static_cast<size_t>(input)] = i;
    }
  }
  std::vector<Segment> segments;
  std::set<ValueId> alive;
  size_t first = 0;
  ValueId input = kNone;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op != Op::kRotaryTable) alive.insert(node.outputs.begin(), node.outputs.end());
    std::erase_if(alive,
                  [&](ValueId id) { return last_use[static_cast<size_t>(id)] <= i && id != graph.outputs()[0]; });
    if (alive.size() != 1 || node.op == Op::kRotaryTable) continue;
    segments.push_back({first, i + 1, input, *alive.begin()});
    first = i + 1;
    input = *alive.begin();
  }
  // Segments without a Linear join the next one: each boundary costs a copy of all activations.
  std::vector<Segment> merged;
  for (const Segment& segment : segments) {
    const auto begin = graph.nodes().begin();
    const auto has_linear = [&](const Segment& s) {
      return std::any_of(begin + static_cast<std::ptrdiff_t>(s.first_node),
                         begin + static_cast<std::ptrdiff_t>(s.end_node),
                         [](const Node& node) { return node.op == Op::kLinear || node.op == Op::kMoe; });
    };
    // A residual sum belongs to the block before it, a norm to the block behind it.
    const bool ends_block = graph.nodes()[segment.end_node - 1].op == Op::kAdd;
    if (!merged.empty() && (!has_linear(merged.back()) || (ends_block && !has_linear(segment)))) {
      merged.back().end_node = segment.end_node;
      merged.back().output = segment.output;
    } else {
      merged.push_back(segment);
    }
  }
  return merged;
}

CalibrationRun::CalibrationRun(const Graph& graph, std::vector<std::vector<int32_t>> samples)
    : graph_(graph), samples_(std::move(samples)), activations_(samples_.size()) {
  for (const auto& sample : samples_) longest_ = std::max(longest_, static_cast<int>(sample.size()));
}

void CalibrationRun::run(const Segment& segment,
                         const std::function<void(const Node&, std::span<const Tensor>)>& observer,
                         const std::function<void(size_t, std::vector<float>)>& keep) {
  const Backend& backend = find_backend("cpu");
  std::map<std::string, ValueId> names;
  Graph part = extract(graph_, segment, names);
  for (size_t i = 0; i < part.nodes().size(); ++i) backend.pack(part, static_cast<NodeId>(i));
  part.compact();
  const int pages = (longest_ + kPageTokens - 1) / kPageTokens;
  const auto executable =
      backend.load(part, {.max_tokens = longest_, .max_rows = 1, .kv_pages = pages, .kv_dtype = DType::kF32});
  if (observer) executable->observe(observer);
  std::vector<int32_t> page_table(static_cast<size_t>(pages));
  std::iota(page_table.begin(), page_table.end(), 0);
  const auto columns = static_cast<size_t>(graph_.value(segment.output).shape.at(1));
  for (size_t s = 0; s < samples_.size(); ++s) {
    check_interrupted();
    const auto count = static_cast<int32_t>(samples_[s].size());
    std::vector<int32_t> positions(samples_[s].size());
    std::iota(positions.begin(), positions.end(), 0);
    const SequenceSlice sequence{0, count, 0, count, page_table, -1};
    std::vector<float> output(samples_[s].size() * columns);
    const StepOutcome outcome =
        executable->run({samples_[s], positions, activations_[s], std::span(&sequence, 1), {}}, output);
    if (outcome != StepOutcome::kDone)
      fail(ErrorKind::kInternal, "calibration: a step failed: {}", outcome_name(outcome));
    if (keep) keep(s, std::move(output));
  }
}

std::map<ValueId, InputStatistics> CalibrationRun::observe(const Segment& segment) {
  std::map<std::string, ValueId> wanted;  // values that Linears of the segment read, by name
  for (size_t i = segment.first_node; i < segment.end_node; ++i) {
    const Node& node = graph_.nodes()[i];
    if (node.op == Op::kLinear) wanted[graph_.value(node.inputs[0]).name] = node.inputs[0];
  }
  std::map<ValueId, StatisticsCollector> collectors;
  // Node names carry over to the extracted graph, so a node's outputs are found by their names.
  std::map<std::string, std::vector<ValueId>> outputs_of;
  for (size_t i = segment.first_node; i < segment.end_node; ++i)
    outputs_of[graph_.nodes()[i].name] = graph_.nodes()[i].outputs;
  run(segment,
      [&](const Node& node, std::span<const Tensor> outputs) {
        const auto found = outputs_of.find(node.name);
        if (found == outputs_of.end()) return;
        for (size_t i = 0; i < outputs.size(); ++i) {
          const ValueId id = found->second[i];
          if (wanted.contains(graph_.value(id).name)) collectors[id].add(outputs[i]);
        }
      },
      {});
  std::map<ValueId, InputStatistics> result;
  for (auto& [id, collector] : collectors) result[id] = collector.take();
  return result;
}

void CalibrationRun::advance(const Segment& segment) {
  std::map<std::string, float*> ranges;  // by the name of the node that makes the keys or values
  const auto maker = [&](ValueId id) { return graph_.nodes().at(static_cast<size_t>(graph_.value(id).producer)).name; };
  for (size_t i = segment.first_node; i < segment.end_node; ++i) {
    const Node& node = graph_.nodes()[i];
    if (node.op != Op::kAttention) continue;
    KvRange& range = kv_ranges_[node.integer("layer")];
    ranges[maker(node.inputs[1])] = &range.key;
    ranges[maker(node.inputs[2])] = &range.value;
  }
  const auto widen = [&](const Node& node, std::span<const Tensor> outputs) {
    const auto found = ranges.find(node.name);
    if (found == ranges.end()) return;
    for (const float value : outputs[0].to_floats()) *found->second = std::max(*found->second, std::fabs(value));
  };
  std::vector<std::vector<float>> next(samples_.size());
  const std::function<void(const Node&, std::span<const Tensor>)> observer = widen;
  run(segment, ranges.empty() ? nullptr : observer,
      [&](size_t sample, std::vector<float> output) { next[sample] = std::move(output); });
  activations_ = std::move(next);
}

}  // namespace edgewise
