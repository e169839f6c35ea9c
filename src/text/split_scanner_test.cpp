#include "text/split_scanner.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "text/regex.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

// Text rich in what the patterns tell apart.
std::string random_text(std::mt19937& random) {
  constexpr std::string_view kParts[] = {"a",
                                         "Z",
                                         "the",
                                         "'",
                                         "'s",
                                         "'S",
                                         "'\xC5\xBF",
                                         "'ll",
                                         "'lL",
                                         "'re",
                                         "'VE",
                                         "0",
                                         "123",
                                         " ",
                                         "  ",
                                         "\t",
                                         "\n",
                                         "\r\n",
                                         "\r",
                                         "\v",
                                         ".",
                                         "!?",
                                         "_",
                                         "$",
                                         "-",
                                         "\xC2\xA0",
                                         "\xE3\x80\x80",
                                         "\xC3\xA9",
                                         "\xE4\xBD\xA0",
                                         "\xD9\xA3",
                                         "\xC2\xBD",
                                         "\xE2\x85\xA7",
                                         "\xCC\x81",
                                         "\xF0\x9F\x98\x80",
                                         "\xE2\x80\xA8",
                                         "\xC2\x85",
                                         "\xE2\x80\x8D"};
  std::string text;
  for (size_t count = random() % 24; count > 0; --count) {
    if (random() % 16 == 0) {
      // Below here PCRE2 and the scanners know the same characters; their Unicode versions differ.
      const char32_t c = random() % 0x890;
      append_utf8(text, c);
    } else {
      text += kParts[random() % std::size(kParts)];
    }
  }
  return text;
}

TEST(SplitScanner, MatchesTheRegularExpression) {
  std::mt19937 random(5);
  for (const std::string_view pattern : {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern}) {
    const SplitScanner scan = find_split_scanner(pattern);
    ASSERT_NE(scan, nullptr);
    const Regex regex(pattern, "test");
    for (int round = 0; round < 20000; ++round) {
      const std::string text = random_text(random);
      size_t pos = 0;
      Match match{};
      while (pos < text.size()) {
        ASSERT_TRUE(regex.find(text, pos, match)) << text;
        ASSERT_EQ(match.begin, pos) << text;
        const size_t end = scan(text, pos);
        ASSERT_EQ(end, match.end) << '"' << text << "\" at " << pos << ", " << pattern;
        pos = end;
      }
    }
  }
}

TEST(SplitScanner, OtherPatternsHaveNone) {
  EXPECT_EQ(find_split_scanner(""), nullptr);
  EXPECT_EQ(find_split_scanner(kGpt2Pattern.substr(1)), nullptr);
}

}  // namespace
}  // namespace edgewise::tok
