#include "text/chat_template.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/mapped_file.h"
#include "base/output_file.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(EDGEWISE_SOURCE_DIR) / "tests/data";

// [template, null, exception] rather than [template, rendered].
bool is_error(const OrderedJson& item) { return item.size() == 3; }

std::tm fixed_day() {
  std::tm day{};
  day.tm_year = 126;
  day.tm_mon = 6;
  day.tm_mday = 26;
  day.tm_hour = 0;
  std::mktime(&day);
  return day;
}

std::string render(const std::string& source, const OrderedJson& inputs = OrderedJson::object()) {
  ChatTemplate chat_template = ChatTemplate::parse(source, "test.jinja");
  chat_template.set_clock(fixed_day);
  return chat_template.render(inputs);
}

TEST(ChatTemplateGoldens, RealTemplatesMatchTransformers) {
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(kData / "chat_templates")) {
    const fs::path path = entry.path();
    if (path.extension() != ".jinja") continue;
    const std::string source = read_text_file(path);
    fs::path golden = path;
    golden.replace_extension(".golden.json");
    for (const OrderedJson& item : parse_ordered_json(read_text_file(golden), golden.string())) {
      ++cases;
      if (item.contains("error")) {
        EXPECT_THROW(render(source, item.at("inputs")), Error) << path << " " << cases;
        continue;
      }
      EXPECT_EQ(render(source, item.at("inputs")), item.at("rendered").get<std::string>()) << path;
    }
  }
  EXPECT_GE(cases, 280);
}

TEST(ChatTemplateGoldens, SmallTemplatesMatchJinja2) {
  const fs::path path = kData / "template_cases.json";
  const OrderedJson goldens = parse_ordered_json(read_text_file(path), path.string());
  const OrderedJson& inputs = goldens.at("inputs");
  for (const OrderedJson& item : goldens.at("cases")) {
    const auto source = item.at(0).get<std::string>();
    std::string found;
    try {
      found = "rendered: " + render(source, inputs);
    } catch (const Error& error) {
      found = is_error(item) ? "raised" : std::string("raised: ") + error.what();
    }
    const std::string expected = is_error(item) ? "raised" : "rendered: " + item.at(1).get<std::string>();
    EXPECT_EQ(found, expected) << source << (is_error(item) ? "  -> " + item.at(2).get<std::string>() : "");
  }
}

// The message of the error that rendering ends in.
std::string error_of(const std::string& source, const OrderedJson& inputs = OrderedJson::object()) {
  try {
    render(source, inputs);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplate, ErrorsNameFileAndLine) {
  EXPECT_EQ(error_of("a\n\n{{ b.c }}"), "test.jinja:3: UndefinedError: 'b' is undefined");
  EXPECT_EQ(error_of("a\n{% if x %}\n"),
            "test.jinja:2: the template ends, but 'if' was opened and wants 'elif' or 'else' or 'endif'");
  EXPECT_EQ(error_of("{% include 'x' %}"),
            "test.jinja:1: 'include': a chat template is one file and can't refer to others");
  EXPECT_EQ(error_of("{{ n + 1 }}", {{"n", INT64_MAX}}), "test.jinja:1: OverflowError: an integer beyond 64 bits");
}

TEST(ChatTemplate, KindsTellBrokenTemplatesFromRefusedInputs) {
  try {
    render("\n{{ raise_exception('no ' ~ 5) }}");
    FAIL();
  } catch (const TemplateRaised& raised) {
    EXPECT_EQ(raised.message(), "no 5");
    EXPECT_EQ(raised.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(raised.what(), "test.jinja:2: the chat template refuses its input: no 5");
  }
  try {
    render("{{ ");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadFile);
  }
}

TEST(ChatTemplate, ClockIsSettable) { EXPECT_EQ(render("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2026"); }

TEST(ChatTemplate, BadInputsAreErrors) {
  EXPECT_THROW(render("x", OrderedJson::array()), Error);
  EXPECT_THROW(render("x", {{"s", "\xff"}}), Error);
  EXPECT_THROW(render("x", {{"n", UINT64_MAX}}), Error);
  EXPECT_THROW(render("\xff"), Error);
}

TEST(ChatTemplateHostile, EndsInAnError) {
  const auto times = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  const std::vector<std::string> templates = {
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
      "{% set n = namespace(x=['a']) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x=1) %}{% for i in range(100000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
      "{% set n = namespace(x=[1]) %}{% for i in range(1000) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
      "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x == n.x + [] "
      "}}{{ n.x|tojson }}",
      "{% set n = namespace(x=[1]) %}{% for i in range(100000) %}{% set n.x = n.x|map('string') %}{% endfor %}{{ "
      "n.x|list }}",
      "{% set n = namespace() %}{% set n.x = [n] %}{{ n }}",
      "{{ 'a' * 1000000000000 }}",
      "{{ [1] * 1000000000000 }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '{:1000000000}'.format(1) }}",
      "{{ 'a'.center(99999999999) }}",
      "{{ 'a'|center(99999999999) }}",
      "{{ 'a'|indent(99999999999, true) }}",
      "{{ [1]|batch(99999999999, 1)|list }}",
      "{{ []|slice(99999999999)|list }}",
      "{{ range(9223372036854775807) }}",
      "{{ '\\t'.expandtabs(9999999999) }}",
      "{{ ('a' * 60000000).replace('a', 'bbbbbbbb') }}",
      "{{ ('a' * 60000000)|replace('', 'bbbbbbbb') }}",
      "{{ ('a' * 30000000).split('a') }}",
      "{{ 2 ** 9223372036854775807 }}",
      "{{ -9223372036854775807 - 2 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ (-9223372036854775807 - 1)|abs }}",
      "{% set n = namespace(l=[]) %}{% for i in range(100000) %}{% set n.l = n.l + ['a' * 100000] %}{% endfor %}",
      times("{{ ", 1) + times("(", 100000) + "1",
      "{{ " + times("[", 100000),
      "{{ " + times("not ", 100000) + "1 }}",
      "{{ " + times("-", 100000) + "1 }}",
      "{{ 1" + times(" + 1", 100000) + " }}",
      "{{ x" + times("|d", 100000) + " }}",
      "{{ x" + times(".x", 100000) + " }}",
      "{{ 1" + times(" if 1 else 1", 100000) + " }}",
      times("{% if 1 %}", 100000),
      times("{% for x in y %}", 100000),
  };
  for (const std::string& source : templates) EXPECT_NE(error_of(source), "no error") << source.substr(0, 150);
}

TEST(ChatTemplateHostile, CyclesAreFreed) {
  EXPECT_EQ(
      render("{% set n = namespace() %}{% set n.self = n %}{% set n.l = [n] %}{% macro m() %}{{ n }}{% endmacro %}"
             "{% set n.m = m %}{% for i in [1] %}{% set n.loop = loop %}{{ loop.changed(loop, n) }}{% endfor %}"
             "{{ n.loop.changed(n.loop) }}"),
      "TrueTrue");
  EXPECT_EQ(
      render("{% set n = namespace(x=0) %}{% for i in range(20000) %}{% set n.x = namespace(x=n.x) %}{% endfor %}ok"),
      "ok");
}

class LoadTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("edgewise-template-" + std::to_string(::getpid()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  void write(const std::string& name, const std::string& text) { write_text_file(directory_ / name, text); }
  std::string load(const std::string& variant = "default") {
    const auto loaded = load_chat_template(directory_, variant);
    return loaded ? loaded->chat_template.render(loaded->special_tokens) : "absent";
  }
  fs::path directory_;
};

TEST_F(LoadTest, FindsTheTemplateWhereTransformersDoes) {
  EXPECT_EQ(load(), "absent");
  write(
      "tokenizer_config.json",
      R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "chat_template": "config {{ bos_token }}"})");
  EXPECT_EQ(load(), "config <s>");
  EXPECT_EQ(load("tool_use"), "absent");
  write("chat_template.json", R"({"chat_template": "json {{ eos_token }}"})");
  EXPECT_EQ(load(), "json </s>");
  write("chat_template.jinja", "file {{ eos_token }}{{ pad_token }}");
  EXPECT_EQ(load(), "file </s>");
}

TEST_F(LoadTest, PicksAmongSeveral) {
  write("special_tokens_map.json", R"({"bos_token": "<b>"})");
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "d{{ bos_token }}"}, {"name": "tool_use", "template": "t"}]})");
  EXPECT_EQ(load(), "d<b>");
  EXPECT_EQ(load("tool_use"), "t");
  EXPECT_EQ(load("other"), "absent");
}

TEST_F(LoadTest, BrokenFilesAreErrors) {
  write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THROW(load(), Error);
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_THROW(load(), Error);
  write("tokenizer_config.json", "[]");
  EXPECT_THROW(load(), Error);
}

}  // namespace
}  // namespace edgewise
