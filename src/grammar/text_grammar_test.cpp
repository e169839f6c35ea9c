// Regular expressions and grammar texts.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "grammar/grammar_test_support.h"

namespace edgewise::grammar_test {
namespace {

struct Case {
  const char* text;
  std::vector<std::string> accepted;
  std::vector<std::string> rejected;
};

const Case kRegexes[] = {
    {"abc", {"abc"}, {"", "ab", "abcd"}},
    {"^(a|b)*$", {"", "abba"}, {"abc"}},
    {"a{2,3}b+c?", {"aab", "aaabbc"}, {"ab", "aaaab", "aabcc"}},
    {"[^a-c\\d]x", {"dx", "\xE4\xBD\xA0x"}, {"ax", "1x"}},
    {"\\w+\\s\\S", {"ab_1 !"}, {"a b c", "- a"}},
    {".", {"a", "\xC3\xA9", "\xF0\x9F\x98\x80"}, {"\n", "", "ab"}},
    {"(?:x|yz){2}", {"xx", "yzx"}, {"x", "xy"}},
    {"(?<name>a)+?", {"a", "aa"}, {""}},
    {"\\u00e9\\x41\\u{1F600}\\ud83d\\ude00",
     {"\xC3\xA9"
      "A\xF0\x9F\x98\x80\xF0\x9F\x98\x80"},
     {"eA"}},
    {"[\\]\\-\\\\]+", {"]-\\"}, {"["}},
    {"[a-]+", {"a-a"}, {"b"}},
    {"a||b", {"a", "", "b"}, {"ab"}},
    {"(a*)*b", {"b", "aaab"}, {"a"}},
    {"\\d{4}-\\d{2}", {"2024-01"}, {"2024-1"}},
};

TEST(Regex, AcceptsAndRejects) {
  for (const Case& item : kRegexes) {
    const auto grammar = tiny().compiler.compile_regex(item.text);
    for (const auto& text : item.accepted) EXPECT_TRUE(matches(tiny(), grammar, text)) << item.text << "\n" << text;
    for (const auto& text : item.rejected) EXPECT_FALSE(matches(tiny(), grammar, text)) << item.text << "\n" << text;
  }
}

TEST(Regex, RefusesWithThePosition) {
  const std::pair<const char*, const char*> cases[] = {
      {"ab(?=c)", "position 2: lookahead is not supported"},
      {"(?<!a)b", "position 0: lookbehind is not supported"},
      {"(a)\\1", "position 3: backreferences are not supported"},
      {"a\\b", "position 1: \\b is not supported"},
      {"\\p{L}", "position 0: \\p is not supported"},
      {"a^b", "position 1: \"^\" is supported at the start only"},
      {"a$b", "position 1: \"$\" is supported at the end only"},
      {"(a$)", "position 2: "},
      {"(a", "position 0: \"(\" without \")\""},
      {"a)", "position 1: \")\" without \"(\""},
      {"[a", "position 0: \"[\" without \"]\""},
      {"[z-a]", "position 1: the range is out of order"},
      {"[\\d-z]", "position 1: "},
      {"*a", "position 0: nothing to repeat"},
      {"a**", "position 2: a quantifier after a quantifier"},
      {"a{3,2}", "position 1: the counts are out of order"},
      {"a{", "position 1: "},
      {"a{1000001}", "position 2: a count above"},
      {"a\\", "position 1: an unfinished escape"},
      {"\\ud800", "position 0: not a character"},
      {"a\xFF", "position 1: invalid UTF-8"},
      {"(?i)a", "position 0: this kind of group"},
      {"[^\\s\\S]", "no text satisfies this grammar"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string message = error_of([&, pattern = text] { tiny().compiler.compile_regex(pattern); });
    EXPECT_TRUE(message.starts_with(expected)) << text << "\n" << message;
  }
}

const Case kGrammars[] = {
    {"root ::= \"a\" | \"b\" root", {"a", "bba"}, {"", "b", "ab"}},
    {"root ::= pair (\", \" pair)*\npair ::= [a-z]+ \": \" num # comment\nnum ::= [0-9]{1,3} // other",
     {"a: 1", "ab: 12, c: 345"},
     {"a: 1234", "a:1", "a: 1,"}},
    {"start: word (\" \" word)* \"\\n\"\nword: /[A-Z]\\w*/ | 'quo\\'ted' ", {"Abc D\n", "quo'ted\n"}, {"abc\n", "Abc"}},
    {"root = (\"x\" \"y\"?)+ .\n", {"xyxz", "x\xC3\xA9"}, {"y", ""}},
    {"root ::= \"\\x41\\u00e9\" [^\\n\"]*", {"A\xC3\xA9 text"}, {"A\xC3\xA9\""}},
    // Balanced brackets: not regular.
    {"root ::= \"(\" root \")\" root | \"\"", {"", "(())()"}, {"(()", ")("}},
    // Left recursion: direct, through another rule, hidden behind something empty, and of a rule to itself.
    {"root ::= root \"+\" num | num\nnum ::= [0-9]+", {"1", "1+22+3"}, {"+1", "1+", "1++2"}},
    {"root ::= expr\nexpr ::= expr \"+\" term | term\nterm ::= term \"*\" atom | atom\natom ::= \"(\" expr \")\" | "
     "[a-z]",
     {"a+b*c", "(a+b)*(c)", "((a))"},
     {"a+", "(a", "ab"}},
    {"root ::= a\na ::= b \"x\" | \"1\"\nb ::= a \"y\" | \"2\"", {"1", "2x", "1yx", "2xyx"}, {"1y", "2", "x"}},
    {"root ::= opt root \"b\" | \"c\"\nopt ::= \"a\"?", {"c", "cb", "acb", "aacbb", "acbb"}, {"b", "aacb"}},
    {"root ::= root | \"a\" root | \"\"", {"", "aaa"}, {"b"}},
    {"root ::= root root | \"a\"", {"a", "aa", "aaaaa"}, {"", "b"}},
    {"root ::= (root \",\")* [0-9]{2,3}", {"12", "12,345", "12,34,56"}, {"1", "12,", "12,3"}},
    // A rule that never ends is left out.
    {"root ::= \"a\" | loop\nloop ::= \"b\" loop", {"a"}, {"b"}},
};

TEST(Ebnf, AcceptsAndRejects) {
  for (const Case& item : kGrammars) {
    const auto grammar = tiny().compiler.compile_ebnf(item.text);
    for (const auto& text : item.accepted) EXPECT_TRUE(matches(tiny(), grammar, text)) << item.text << "\n" << text;
    for (const auto& text : item.rejected) EXPECT_FALSE(matches(tiny(), grammar, text)) << item.text << "\n" << text;
  }
}

TEST(Ebnf, RefusesWithLineAndColumn) {
  const std::pair<const char*, const char*> cases[] = {
      {"root ::= pair\n", "1:10: there is no rule \"pair\""},
      {"root ::= \"a\"\n  x ::= y \"b\"", "2:9: there is no rule \"y\""},
      {"rule ::= \"a\"", "1:1: there is no rule \"root\" or \"start\""},
      {"root ::= \"a", "1:10: the string has no end"},
      {"root ::= \"a\"\nroot ::= \"b\"", "2:1: the rule \"root\" is defined twice"},
      {"root ::= (\"a\"", "1:10: \"(\" without \")\""},
      {"root ::= \"a\")", "1:13: "},
      {"root \"a\"", "1:6: expected \"::=\""},
      {"root ::= [b-a]", "1:10: in this class: "},
      {"root ::= /a(?=b)/", "1:10: in this expression: position 1: lookahead"},
      {"root ::= \"\\q\"", "1:11: this escape is not supported"},
      {"root ::= *", "1:10: expected a string"},
      {"root ::= \"a\"{2,1}", "1:13: the counts are out of order"},
      {"root ::= \"b\" root", "no text satisfies this grammar"},
      {"", "1:1: there is no rule"},
      {"root ::= \"\xFF\"", "1:11: invalid UTF-8"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string message = error_of([&, source = text] { tiny().compiler.compile_ebnf(source); });
    EXPECT_TRUE(message.starts_with(expected)) << text << "\n" << message;
  }
}

// What is small to write and enormous to expand is refused or costs nothing.
TEST(HostileGrammars, AreBounded) {
  const auto compile_regex = [](const std::string& text) { tiny().compiler.compile_regex(text); };
  EXPECT_EQ(error_of([&] { compile_regex("((((a{1000}){1000}){1000}){1000}){1000}"); }), "");
  EXPECT_EQ(error_of([&] { compile_regex("a{1,1000000}"); }), "");
  EXPECT_NE(error_of([&] { compile_regex(std::string(1000, '(') + "a" + std::string(1000, ')')); }), "");
  EXPECT_NE(error_of([&] { compile_regex(std::string(1 << 20, 'a')); }), "");

  std::string nested = R"({"type": "integer"})";
  for (int i = 0; i < 400; ++i) nested = R"({"items": )" + nested + "}";
  EXPECT_NE(error_of([&] { tiny().compiler.compile_json_schema_text(nested); }), "");
  std::string choices = R"({"allOf": [)";
  for (int i = 0; i < 20; ++i)
    choices += std::string(i > 0 ? "," : "") + R"({"anyOf": [{"minimum": 1}, {"maximum": 2}]})";
  EXPECT_NE(error_of([&] { tiny().compiler.compile_json_schema_text(choices + "]}"); }), "");

  EXPECT_NE(error_of([&] { tiny().compiler.compile_ebnf("root ::= " + std::string(5000, '(')); }), "");
  EXPECT_NE(error_of([&] { tiny().compiler.compile_ebnf("root ::= \"a\"" + std::string(5000, '?')); }), "");
  EXPECT_NE(error_of([&] { tiny().compiler.compile_ebnf("root ::= (\"a\"? root2){100}\nroot2 ::= (\"b\" root2)?"); }),
            "");
}

// States may explode only while the text is followed: the sequence fails, visibly, and nothing else.
TEST(HostileGrammars, FailWhileTheyAreFollowed) {
  const auto grammar = tiny().compiler.compile_regex("(a|b)*a(a|b){1000}");
  ConstraintState state(grammar);
  std::vector<uint64_t> bits(grammar->mask_words());
  std::mt19937 random(5);
  while (state.accepted() < 3000 && state.fill_mask(bits)) {
    const auto allowed = allowed_tokens(bits);
    const int32_t token = allowed[random() % allowed.size()];
    if (token != tiny().end && !state.accept(token)) break;
  }
  EXPECT_EQ(state.status() == ConstraintState::Status::kFailed, !state.error().empty());
  ConstraintState other(tiny().compiler.compile_regex("ab"));
  EXPECT_TRUE(other.fill_mask(bits));
}

}  // namespace
}  // namespace edgewise::grammar_test
