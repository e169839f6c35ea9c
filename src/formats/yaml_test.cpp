#include "formats/yaml.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace edgewise {
namespace {

Json yaml(const std::string& text) { return parse_yaml(text, "recipe.yaml"); }

std::string error_of(const std::string& text) {
  try {
    yaml(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadFile);
    return error.what();
  }
  return "no error";
}

TEST(Yaml, ReadsARecipe) {
  EXPECT_EQ(yaml("model: org/name  # comment\n"
                 "quantization:\n  format: int4_awq\n  group: 128\n  skip: [lm_head, embed]\n"
                 "limits:\n- {batch: 1, input: 4096}\n- batch: 8\n"
                 "text: |\n  two\n  lines\n"),
            Json::parse(R"({"model": "org/name", "quantization": {"format": "int4_awq", "group": 128,
                            "skip": ["lm_head", "embed"]}, "limits": [{"batch": 1, "input": 4096}, {"batch": 8}],
                            "text": "two\nlines\n"})"));
}

TEST(Yaml, TypesPlainScalarsByTheCoreSchema) {
  EXPECT_EQ(
      yaml("[null, ~, Null, , true, False, 12, -3, +7, 0x1F, 0o17, 1.5, -.5, 1e3, 1., no, yes, 1_0, 0b1, 12a, -]"),
      Json::parse(R"([null, null, null, null, true, false, 12, -3, 7, 31, 15, 1.5, -0.5, 1000.0, 1.0,
                            "no", "yes", "1_0", "0b1", "12a", "-"])"));
  EXPECT_TRUE(std::isinf(yaml("-.inf").get<double>()));
  EXPECT_TRUE(std::isnan(yaml(".nan").get<double>()));
  EXPECT_EQ(yaml("9223372036854775807"), Json(INT64_MAX));
  EXPECT_TRUE(yaml("9223372036854775808").is_number_float());
  EXPECT_EQ(yaml(""), Json());
}

TEST(Yaml, QuotedScalarsStayStrings) {
  EXPECT_EQ(yaml("a: '12'\nb: \"true\"\nc: 'null'\nd: \"\\u00e9\\n\"\ne: ''\n!!str f: !!str 5"),
            Json::parse(R"({"a": "12", "b": "true", "c": "null", "d": "é\n", "e": "", "f": "5"})"));
}

TEST(Yaml, AnchorsWorkWithinBounds) {
  EXPECT_EQ(yaml("a: &x {k: 1}\nb: *x\nc: [*x, *x]"),
            Json::parse(R"({"a":{"k":1},"b":{"k":1},"c":[{"k":1},{"k":1}]})"));
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string previous = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + previous;
    for (int k = 0; k < 9; ++k) bomb += ", " + previous;
    bomb += "]\n";
  }
  EXPECT_NE(error_of(bomb).find("aliases counted"), std::string::npos);
  std::string long_text = "- &a " + std::string(1 << 20, 'x') + "\n";
  for (int i = 0; i < 1000; ++i) long_text += "- *a\n";
  EXPECT_NE(error_of(long_text).find("aliases counted"), std::string::npos);
  EXPECT_NE(error_of("&a [*a]"), "no error");
}

TEST(Yaml, ErrorsNameFileAndLine) {
  EXPECT_EQ(error_of("a: 1\nb: [1, 2\nc: }").substr(0, 14), "recipe.yaml:3:");
  EXPECT_EQ(error_of("a: 1\na: 2"), "recipe.yaml:2: the key \"a\" stands twice");
  EXPECT_EQ(error_of("a: 1\n\n[x]: 2").substr(0, 14), "recipe.yaml:3:");
  EXPECT_EQ(error_of("a: !!python/object x").substr(0, 22), "recipe.yaml:1: the tag");
  EXPECT_EQ(error_of("ok: 1\nb: \xff"), "recipe.yaml:2: not valid UTF-8");
  EXPECT_EQ(error_of("b: \xed\xa0\x80"), "recipe.yaml:1: not valid UTF-8");
  EXPECT_EQ(error_of("a: 1\n---\nb: 2"), "recipe.yaml: more than one document");
  EXPECT_NE(error_of(std::string(100000, '[')), "no error");
  EXPECT_NE(error_of(std::string(100000, '{')), "no error");
  std::string deep;
  for (int i = 0; i < 500; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_NE(error_of(deep), "no error");
  std::string dashes;
  for (int i = 0; i < 10000; ++i) dashes += "- ";
  EXPECT_NE(error_of(dashes), "no error");
}

}  // namespace
}  // namespace edgewise
