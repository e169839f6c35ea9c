// tokenize and template: the text side by itself, and against golden files.
#include <sstream>

#include "base/error.h"
#include "base/mapped_file.h"
#include "cli/command.h"
#include "cli/standard_input.h"
#include "formats/json.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;
constexpr int kShownDifferences = 5;

// Counts comparisons and prints the first differences.
class GoldenReport {
 public:
  void compare(const std::string& what, const std::string& expected, const std::string& found) {
    ++count_;
    if (expected == found) return;
    if (++different_ <= kShownDifferences) fmt::print("{}\n  expected: {}\n  found:    {}\n", what, expected, found);
  }
  int finish() const {
    fmt::print("{} of {} equal\n", count_ - different_, count_);
    return different_ == 0 ? 0 : 1;
  }

 private:
  int count_ = 0;
  int different_ = 0;
};

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

int check_tokenizer(const Tokenizer& tokenizer, const fs::path& golden) {
  const Json document = read_json_file(golden);
  const Json& cases = document.is_object() && document.contains("cases") ? document.at("cases") : document;
  GoldenReport report;
  for (const Json& entry : cases) {
    const JsonView view(entry, golden.string());
    const std::string text = view.string("text");
    for (const auto& [key, special] : {std::pair{"ids", false}, {"ids_with_special", true}}) {
      if (view.has(key))
        report.compare(fmt::format("{} of {}", key, dump(text)), dump(entry.at(key)),
                       dump(Json(tokenizer.encode(text, special))));
    }
    for (const auto& [key, skip] : {std::pair{"decoded", false}, {"decoded_skip_special", true}}) {
      if (!view.has(key) || !view.has("ids")) continue;
      report.compare(fmt::format("{} of {}", key, dump(text)), dump(entry.at(key)),
                     dump(Json(tokenizer.decode(entry.at("ids").get<std::vector<int32_t>>(), skip))));
    }
  }
  return report.finish();
}

int check_template(ChatTemplate chat_template, const fs::path& golden) {
  const Json document = read_json_file(golden);
  const OrderedJson ordered = parse_ordered_json(read_text_file(golden), golden.string());
  chat_template.set_clock([] {
    std::tm day{};
    day.tm_year = 126;  // the goldens' 26 July 2026
    day.tm_mon = 6;
    day.tm_mday = 26;
    return day;
  });
  const OrderedJson& cases = ordered.is_object() && ordered.contains("cases") ? ordered.at("cases") : ordered;
  GoldenReport report;
  for (size_t i = 0; i < cases.size(); ++i) {
    const OrderedJson& entry = cases.at(i);
    const std::string what = fmt::format("case {}", i);
    std::string found;
    bool raised = false;
    try {
      found = chat_template.render(entry.at("inputs"));
    } catch (const Error& error) {
      raised = true;
      found = fmt::format("raised: {}", error.what());
    }
    if (entry.contains("error") && !entry.at("error").is_null()) {
      report.compare(what, "an error", raised ? "an error" : found);
    } else {
      report.compare(what, entry.at("rendered").get<std::string>(), found);
    }
  }
  return report.finish();
}

ChatTemplate open_template(const fs::path& path) {
  if (fs::is_regular_file(path)) return ChatTemplate::parse(read_text_file(path), path.filename().string());
  auto loaded = load_chat_template(path);
  if (!loaded) bad_file("{}: no chat template in tokenizer_config.json or chat_template.jinja", path.string());
  return std::move(loaded->chat_template);
}

}  // namespace

void add_tokenize(Commands& commands) {
  CLI::App& command =
      commands.add("tokenize", "text from standard input to ids, or ids to text, or a check of a golden file",
                   "echo \"Hello world\" | edgewise tokenize models/edge-tiny-16m");
  auto directory = std::make_shared<fs::path>();
  auto golden = std::make_shared<fs::path>();
  auto decode = std::make_shared<bool>(false);
  auto plain = std::make_shared<bool>(false);
  command.add_option("dir", *directory, "directory with tokenizer.json")->required();
  add_flag(command, "golden", *golden, "golden file; exit 1 and the first differences when it does not hold");
  command.add_flag("--decode", *decode, "ids from standard input to text");
  command.add_flag("--no_special", *plain, "without the special tokens around a text");
  commands.on_run(command, [=] {
    const Tokenizer tokenizer =
        Tokenizer::load(fs::is_directory(*directory) ? *directory / "tokenizer.json" : *directory);
    if (!golden->empty()) return check_tokenizer(tokenizer, *golden);
    if (*decode) {
      std::vector<int32_t> ids;
      std::istringstream input(read_standard_input());
      for (int32_t id = 0; input >> id;) ids.push_back(id);
      if (!input.eof()) usage_error("expected token ids on standard input");
      fmt::print("{}\n", tokenizer.decode(ids, false));
      return 0;
    }
    std::string text = read_standard_input();
    if (text.ends_with('\n')) text.pop_back();
    fmt::print("{}\n", fmt::join(tokenizer.encode(text, !*plain), " "));
    return 0;
  });
}

void add_template(Commands& commands) {
  CLI::App& command =
      commands.add("template", "messages (JSON on standard input) to the prompt text, or a check of a golden file",
                   "echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": "
                   "true}' | edgewise template models/edge-tiny-16m");
  auto path = std::make_shared<fs::path>();
  auto golden = std::make_shared<fs::path>();
  command.add_option("path", *path, "model directory or .jinja file")->required();
  add_flag(command, "golden", *golden, "golden file; exit 1 and the first differences when it does not hold");
  commands.on_run(command, [=] {
    ChatTemplate chat_template = open_template(*path);
    if (!golden->empty()) return check_template(std::move(chat_template), *golden);
    OrderedJson inputs = parse_ordered_json(read_standard_input(), "standard input");
    if (fs::is_directory(*path)) {
      const auto loaded = load_chat_template(*path);
      for (const auto& [key, value] : loaded->special_tokens.items()) {
        if (!inputs.contains(key)) inputs[key] = value;
      }
    }
    fmt::print("{}", chat_template.render(inputs));
    return 0;
  });
}

}  // namespace edgewise
