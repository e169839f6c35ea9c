#include "text/tool_calls.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/mapped_file.h"

namespace edgewise {
namespace {

// The pieces of a reply put together: content, then "name(arguments)" for each call.
struct Parsed {
  std::string content;
  std::vector<std::string> names;
  std::vector<std::string> arguments;

  void add(const ReplyPiece& piece) {
    content += piece.content;
    for (const ToolCallPiece& call : piece.calls) {
      if (!call.name.empty()) {
        ASSERT_EQ(static_cast<size_t>(call.index), names.size());
        ASSERT_TRUE(call.arguments.empty());
        names.push_back(call.name);
        arguments.emplace_back();
      } else {
        ASSERT_EQ(static_cast<size_t>(call.index) + 1, names.size());
        arguments.back() += call.arguments;
      }
    }
  }
  std::string text() const {
    std::string out = content;
    for (size_t i = 0; i < names.size(); ++i) out += "|" + names[i] + "(" + arguments[i] + ")";
    return out;
  }
};

std::string parse_pieces(ToolCallForm form, const std::vector<std::string>& pieces, bool inside) {
  ToolCallParser parser(form, {"add", "get_weather"}, inside);
  Parsed parsed;
  for (const std::string& piece : pieces) parsed.add(parser.push(piece));
  parsed.add(parser.finish());
  EXPECT_EQ(static_cast<size_t>(parser.calls()), parsed.names.size());
  return parsed.text();
}

// Whole, byte by byte, and cut at random: always the same.
std::string parse(ToolCallForm form, const std::string& reply, bool inside = false) {
  const std::string whole = parse_pieces(form, {reply}, inside);
  std::mt19937 random(1);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<std::string> pieces;
    for (size_t at = 0; at < reply.size();) {
      const size_t length = trial == 0 ? 1 : 1 + random() % 9;
      pieces.push_back(reply.substr(at, length));
      at += length;
    }
    EXPECT_EQ(parse_pieces(form, pieces, inside), whole);
  }
  return whole;
}

using enum ToolCallForm;

TEST(ToolCalls, Hermes) {
  EXPECT_EQ(parse(kHermes, "No tools needed."), "No tools needed.");
  EXPECT_EQ(
      parse(kHermes, "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, \"}\"]}}\n</tool_call>"),
      "|add({\"a\": 1, \"b\": [2, \"}\"]})");
  EXPECT_EQ(
      parse(kHermes,
            "I'll look. <tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>\n"
            "<tool_call>{\"arguments\": {\"x\": \"<tool_call>\"}, \"name\": \"get_weather\"}</tool_call> Done it."),
      "I'll look. Done it.|add({})|get_weather({\"x\": \"<tool_call>\"})");
  EXPECT_EQ(parse(kHermes, "a < b, <tool, <tool_cal"), "a < b, <tool, <tool_cal");
  EXPECT_EQ(parse(kHermes, "<tool_call>{\"name\": \"other\"}</tool_call>"), "|other({})");
  EXPECT_EQ(parse(kHermes, "{\"name\": \"add\", \"arguments\": {}}"), "{\"name\": \"add\", \"arguments\": {}}");
  EXPECT_EQ(parse(kHermes, "\n{\"name\": \"add\", \"arguments\": {\"a\": \"\\u00e9\"}}", true),
            "|add({\"a\": \"\\u00e9\"})");
}

TEST(ToolCalls, Llama3) {
  EXPECT_EQ(parse(kLlama3, "{\"name\": \"add\", \"parameters\": {\"a\": \"1\"}}"), "|add({\"a\": \"1\"})");
  EXPECT_EQ(
      parse(kLlama3,
            "<|python_tag|>{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"add\", \"parameters\": {\"a\": 2}}"),
      "|add({})|add({\"a\": 2})");
  EXPECT_EQ(parse(kLlama3, " {\"name\": \"Paris\", \"people\": 2}"), " {\"name\": \"Paris\", \"people\": 2}");
  EXPECT_EQ(parse(kLlama3, "{1}"), "{1}");
  EXPECT_EQ(parse(kLlama3, "The set {a, b} is"), "The set {a, b} is");
}

TEST(ToolCalls, Mistral) {
  EXPECT_EQ(parse(kMistral,
                  "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, "
                  "{\"name\": \"get_weather\", \"arguments\": \"{\\\"city\\\": \\\"Oslo\\\"}\"}]"),
            "|add({\"a\": 1})|get_weather({\"city\": \"Oslo\"})");
  EXPECT_EQ(parse(kMistral, "[1, 2] is a list"), "[1, 2] is a list");
}

TEST(ToolCalls, Json) {
  EXPECT_EQ(parse(kJson, "{\"name\": \"add\", \"arguments\": {\"a\": 1}}"), "|add({\"a\": 1})");
  EXPECT_EQ(parse(kJson, "[{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"add\"}] "), "|add({})|add({})");
  EXPECT_EQ(parse(kJson, "[1, 2]"), "[1, 2]");
  EXPECT_EQ(parse(kJson, "{\"name\": \"Bob\"}"), "{\"name\": \"Bob\"}");
}

// What was streamed stands.
TEST(ToolCalls, TheFirstOfTwoArgumentsCounts) {
  EXPECT_EQ(parse(ToolCallForm::kJson, R"([{"name": "add", "arguments": {"a": 1}, "arguments": {"a": 2, "b": 3}}])"),
            R"(|add({"a": 1}))");
}

TEST(ToolCalls, CutOffReplies) {
  EXPECT_EQ(parse(kHermes, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": [1, "), "|add({\"a\": [1, )");
  EXPECT_EQ(parse(kHermes, "<tool_call>{\"na"), "<tool_call>{\"na");
  EXPECT_EQ(parse(kJson, "{\"name\": \"ad"), "{\"name\": \"ad");
  EXPECT_EQ(parse(kHermes, "<tool_call>{\"name\" \"add\"} more"), "<tool_call>{\"name\" \"add\"} more");
  EXPECT_EQ(parse(kJson, ""), "");
}

TEST(ToolCalls, FormsOfRealTemplates) {
  const auto form_of = [](const char* name) {
    const auto directory = std::filesystem::path(EDGEWISE_SOURCE_DIR) / "tests/data/chat_templates";
    return tool_call_form(read_text_file(directory / name));
  };
  EXPECT_EQ(form_of("Qwen-Qwen2.5-7B-Instruct.jinja"), kHermes);
  EXPECT_EQ(form_of("NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja"), kHermes);
  EXPECT_EQ(form_of("meta-llama-Llama-3.1-8B-Instruct.jinja"), kLlama3);
  EXPECT_EQ(form_of("meta-llama-Llama-3.2-3B-Instruct.jinja"), kLlama3);
  EXPECT_EQ(form_of("mistralai-Mistral-Nemo-Instruct-2407.jinja"), kMistral);
  EXPECT_EQ(form_of("microsoft-Phi-3.5-mini-instruct.jinja"), kJson);
  EXPECT_EQ(form_of("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja"), kJson);
  EXPECT_EQ(form_of("meetkai-functionary-medium-v3.1.jinja"), std::nullopt);
  EXPECT_EQ(form_of("fireworks-ai-llama-3-firefunction-v2.jinja"), kJson);
}

}  // namespace
}  // namespace edgewise
