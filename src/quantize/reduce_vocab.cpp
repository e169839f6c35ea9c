#include "quantize/reduce_vocab.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "formats/json.h"
#include "models/families.h"
#include "models/vocab_map.h"
#include "quantize/calibration_text.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

// One conversation, or a piece of text with no prompt.
struct Sample {
  std::vector<int32_t> prompt;
  std::vector<int32_t> answer;
};

void append(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

Sample read_line(const std::string& line, const std::string& where, const Tokenizer& tokenizer) {
  const Json document = parse_json(line, where);
  const JsonView view(document, where);
  Sample sample;
  if (document.is_object() && view.has("text")) {
    sample.answer = tokenizer.encode(view.string("text"), false);
    return sample;
  }
  if (!document.is_object() || !view.has("messages") || !document.at("messages").is_array())
    bad_file("{}: expected {{\"messages\": [...]}} or {{\"text\": \"...\"}}", where);
  for (const Json& message : document.at("messages")) {
    const JsonView entry(message, where + ": messages");
    if (!message.is_object()) bad_file("{}: messages: expected objects", where);
    const auto ids = tokenizer.encode(entry.string("content"), false);
    append(entry.string("role") == "assistant" ? sample.answer : sample.prompt, ids);
  }
  return sample;
}

std::vector<Sample> read_samples(const fs::path& dataset, int64_t most, const Tokenizer& tokenizer) {
  const std::string source = dataset.empty() ? "built-in chats" : dataset.string();
  const std::string text = dataset.empty() ? std::string(calibration_text()) : read_text_file(dataset);
  const bool json_lines = text.starts_with("{");
  std::vector<Sample> samples;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line) && static_cast<int64_t>(samples.size()) < most;) {
    ++number;
    if (line.empty()) continue;
    if (json_lines) {
      samples.push_back(read_line(line, fmt::format("{}:{}", source, number), tokenizer));
    } else {
      samples.push_back({{}, tokenizer.encode(line, false)});
    }
  }
  if (samples.empty()) bad_file("{}: no text in it", source);
  return samples;
}

// One character, or a byte as "<0x0A>".
bool spells(const std::string& token) {
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  return std::ranges::count_if(token, [&](char c) { return !continues(c); }) == 1 ||
         (token.size() == 6 && token.starts_with("<0x") && token.ends_with(">"));
}

std::set<int32_t> end_tokens(const fs::path& model_dir) {
  std::set<int32_t> result;
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (!fs::exists(model_dir / name)) continue;
    const Json config = read_json_file(model_dir / name);
    for (const char* field : {"eos_token_id", "bos_token_id", "pad_token_id"}) {
      if (!config.is_object() || !config.contains(field)) continue;
      const Json& ids = config.at(field);
      for (const Json& id : ids.is_array() ? ids : Json::array({ids}))
        if (id.is_number_integer()) result.insert(id.get<int32_t>());
    }
  }
  return result;
}

class Reducer {
 public:
  explicit Reducer(const ReduceVocabRequest& request);
  ReduceVocabReport run();

 private:
  void protect();
  void count(const std::vector<Sample>& samples);
  std::vector<int32_t> choose();
  Coverage cover(const std::string& source, const std::vector<Sample>& samples) const;

  const ReduceVocabRequest& request_;
  Tokenizer tokenizer_;
  size_t vocabulary_;
  std::vector<bool> kept_;
  // By token.
  std::vector<int64_t> counts_;
  std::vector<int64_t> unprompted_;  // in answers whose prompts lack it
  ReduceVocabReport report_;
};

Reducer::Reducer(const ReduceVocabRequest& request)
    : request_(request), tokenizer_(Tokenizer::load(request.model_dir / "tokenizer.json")) {
  const fs::path config = request.model_dir / "config.json";
  vocabulary_ = static_cast<size_t>(describe_model(read_json_file(config), config.string()).vocabulary);
  kept_.assign(vocabulary_, false);
  counts_.assign(vocabulary_, 0);
  unprompted_.assign(vocabulary_, 0);
  report_.vocabulary = static_cast<int64_t>(vocabulary_);
}

void Reducer::protect() {
  const auto ends = end_tokens(request_.model_dir);
  for (size_t i = 0; i < vocabulary_; ++i) {
    const auto id = static_cast<int32_t>(i);
    const auto token = tokenizer_.id_to_token(id);
    kept_[i] = ends.contains(id) || tokenizer_.is_special(id) || (token && spells(*token));
    report_.protected_tokens += kept_[i];
  }
  const int64_t least = report_.protected_tokens;
  if (request_.size < least || request_.size > report_.vocabulary) {
    usage_error("--reduced_vocab_size {}: expected {} (special tokens and single characters) to {}", request_.size,
                least, report_.vocabulary);
  }
}

void Reducer::count(const std::vector<Sample>& samples) {
  const auto known = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < vocabulary_; };
  int64_t prompts = 0;
  for (const Sample& sample : samples) {
    const std::set<int32_t> prompt(sample.prompt.begin(), sample.prompt.end());
    prompts += !prompt.empty();
    for (const int32_t id : sample.prompt) {
      if (known(id)) ++counts_[static_cast<size_t>(id)];
    }
    for (const int32_t id : sample.answer) {
      if (!known(id)) continue;
      ++counts_[static_cast<size_t>(id)];
      unprompted_[static_cast<size_t>(id)] += !prompt.contains(id);
    }
  }
  if (request_.method == "input_aware" && prompts == 0)
    usage_error("--method input_aware: the dataset has no prompts; it needs chats, as JSON lines with \"messages\"");
  report_.seen = std::ranges::count_if(counts_, [](int64_t n) { return n > 0; });
}

std::vector<int32_t> Reducer::choose() {
  std::vector<size_t> order(vocabulary_);
  std::iota(order.begin(), order.end(), size_t{0});
  const bool input_aware = request_.method == "input_aware";
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    if (input_aware && (unprompted_[a] > 0) != (unprompted_[b] > 0)) return unprompted_[a] > 0;
    if (input_aware && unprompted_[a] != unprompted_[b]) return unprompted_[a] > unprompted_[b];
    return counts_[a] > counts_[b];
  });
  int64_t left = request_.size - report_.protected_tokens;
  for (const size_t token : order) {
    if (left == 0) break;
    if (kept_[token]) continue;
    kept_[token] = true;
    --left;
  }
  std::vector<int32_t> result;
  for (size_t i = 0; i < vocabulary_; ++i) {
    if (kept_[i]) result.push_back(static_cast<int32_t>(i));
  }
  return result;
}

Coverage Reducer::cover(const std::string& source, const std::vector<Sample>& samples) const {
  Coverage coverage{source, 0, 0, 0, 0};
  for (const Sample& sample : samples) {
    const auto covered = std::ranges::count_if(sample.answer, [&](int32_t id) {
      return id >= 0 && static_cast<size_t>(id) < vocabulary_ && kept_[static_cast<size_t>(id)];
    });
    coverage.tokens += static_cast<int64_t>(sample.answer.size());
    coverage.covered += covered;
    coverage.answers += !sample.answer.empty();
    coverage.complete += !sample.answer.empty() && covered == static_cast<int64_t>(sample.answer.size());
  }
  return coverage;
}

ReduceVocabReport Reducer::run() {
  if (request_.method != "frequency" && request_.method != "input_aware")
    usage_error("--method {}: expected frequency or input_aware", request_.method);
  protect();
  const auto samples = read_samples(request_.dataset, request_.max_samples, tokenizer_);
  count(samples);
  const auto kept = choose();
  report_.kept = static_cast<int64_t>(kept.size());
  report_.coverage.push_back(
      cover(request_.dataset.empty() ? "the built-in chats" : request_.dataset.string(), samples));
  if (!request_.coverage_text.empty()) {
    report_.coverage.push_back(
        cover(request_.coverage_text.string(), read_samples(request_.coverage_text, request_.max_samples, tokenizer_)));
  }
  OutputDirectory out(request_.output_dir, kVocabMapFile);
  write_vocab_map(out.path() / kVocabMapFile, kept);
  out.commit();
  return report_;
}

}  // namespace

ReduceVocabReport reduce_vocabulary(const ReduceVocabRequest& request) { return Reducer(request).run(); }

}  // namespace edgewise
