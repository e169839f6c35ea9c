// JSON Schema: what is accepted, rejected and refused.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "grammar/grammar_test_support.h"

namespace edgewise::grammar_test {
namespace {

struct Case {
  const char* schema;
  std::vector<const char*> accepted;
  std::vector<const char*> rejected;
};

const Case kCases[] = {
    {R"({"type": "string"})",
     {R"("")", R"("a b")", R"("\u00e9\n\"\ud83d\ude00")", "\"\xC3\xA9\""},
     {"a", R"("a)", R"("\x")", "\"a\nb\"", R"("\ud83d")", "1"}},
    {R"({"type": "integer"})", {"0", "-17", "123456789012345678"}, {"01", "1.0", "-0", "--1", "1e3", "\"1\"", ""}},
    {R"({"type": "number"})", {"0", "-1.5", "2e10", "1.25E-7"}, {"1.", ".5", "01", "1e", "NaN"}},
    {R"({"type": "boolean"})", {"true", "false"}, {"True", "tru", "null"}},
    {R"({"type": "null"})", {"null"}, {"nul", "0"}},
    {R"({"type": ["integer", "null"]})", {"5", "null"}, {"5.5", "\"5\""}},
    {R"({"enum": ["a", "ab", 3, null, [1, {"x": "y"}]]})",
     {"\"a\"", "\"ab\"", "3", "null", R"([1, {"x": "y"}])", R"([1,{"x":"y"}])"},
     {"\"b\"", "4", "[1]", R"([1,{"x":"z"}])"}},
    {R"({"const": {"a": [true]}})", {R"({"a": [true]})"}, {R"({"a": [false]})", "{}"}},
    {R"({"type": "string", "enum": ["a", 1, "bb"], "maxLength": 1})", {"\"a\""}, {"\"bb\"", "1"}},
    {R"({"type": "integer", "enum": [1.0, 2.5]})", {"1"}, {"2.5", "2"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]})",
     {R"({"a": 1})", R"({"a":1,"b":"x"})", "{\n  \"a\": 1,\n  \"b\": \"\"\n}"},
     {"{}", R"({"b": "x"})", R"({"b":"x","a":1})", R"({"a":1,})", R"({"a":1,"c":2})", R"({"a":1 "b":"x"})"}},
    {R"({"type": "object", "properties": {"a": true, "b": true, "c": true}})",
     {"{}", R"({"a":1})", R"({"b":[]})", R"({"c":{}})", R"({"a":1,"c":null})", R"({"b":1,"c":2})"},
     {R"({"c":1,"a":2})", R"({,"a":1})", R"({"a":1,"a":2})"}},
    {R"({"type": "object", "properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}})",
     {"{}", R"({"ab":1})", R"({"a":true})", R"({"ab":1,"abc":false,"b":true})", R"({"":true})"},
     {R"({"ab":true})", R"({"a":1})", R"({"a":true,"ab":1})", R"({"\u0061b":true})"}},
    {R"({"type": "object", "additionalProperties": false})", {"{}", "{ }"}, {R"({"a":1})"}},
    {R"({"required": ["x"], "additionalProperties": {"type": "integer"}})",
     {R"({"x":1})", R"({"x":1,"y":2})"},
     {R"({"y":2})", R"({"x":""})"}},
    {R"({"type": "array", "items": {"type": "integer"}})",
     {"[]", "[1]", "[1, 2,3]", "[\n  1,\n  2\n]"},
     {"[1,]", "[,1]", "[1 2]", "[\"\"]"}},
    {R"({"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "integer"}})",
     {"[1,2]", "[1,2,3]"},
     {"[]", "[1]", "[1,2,3,4]"}},
    {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
    {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "boolean"}})",
     {"[]", "[1]", "[1,\"\"]", "[1,\"\",true,false]"},
     {"[\"\"]", "[1,true]", "[1,\"\",1]"}},
    {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false, "minItems": 1})",
     {"[1]", "[1,\"\"]"},
     {"[]", "[1,\"\",1]"}},
    {R"({"type": "string", "minLength": 2, "maxLength": 4})",
     {"\"ab\"", "\"abcd\"", R"("\u00e9\n")", "\"\xC3\xA9\xE4\xBD\xA0\""},
     {"\"a\"", "\"abcde\"", "\"\xC3\xA9\"", "\"\""}},
    {R"({"type": "string", "pattern": "^[a-c]+$"})", {"\"abc\""}, {"\"\"", "\"d\"", "\"abcd\""}},
    {R"({"type": "string", "pattern": "b"})", {"\"b\"", "\"abc\"", R"("\nb\"")"}, {"\"\"", "\"ac\""}},
    {R"({"type": "string", "pattern": "^a|b$"})", {"\"ax\"", "\"xb\"", "\"a\""}, {"\"xa\"", "\"bx\""}},
    {R"({"type": "string", "pattern": "^\"\\\\\\n$"})", {R"("\"\\\n")"}, {R"("\\\n")"}},
    {R"({"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 3})",
     {"\"aa\"", "\"aaa\""},
     {"\"a\"", "\"aaaa\"", "\"ab\""}},
    {R"({"type": "string", "format": "date"})",
     {"\"2024-02-29\"", "\"1999-12-31\"", "\"0001-01-01\""},
     {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-04-31\"", "\"0000-01-01\"", "\"2024-1-1\""}},
    {R"({"type": "string", "format": "date-time"})",
     {"\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.5+01:00\""},
     {"\"2024-01-01\"", "\"2024-01-01T24:00:00Z\"", "\"2024-01-01T00:00:00\""}},
    {R"({"type": "string", "format": "ipv4"})", {"\"255.0.10.1\""}, {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""}},
    {R"({"type": "string", "format": "ipv6"})",
     {"\"::\"", "\"::1\"", "\"2001:db8::ff00:42:8329\"", "\"1:2:3:4:5:6:7:8\""},
     {"\"1::2::3\"", "\"1:2\"", "\":1\""}},
    {R"({"type": "string", "format": "email"})",
     {"\"a.b+c@example.com\""},
     {"\"a@\"", "\"@b\"", "\".a@b\"", "\"a..b@c\""}},
    {R"({"type": "string", "format": "uri"})",
     {"\"https://a.b/c?d=%20#e\""},
     {"\"a.b/c\"", "\"http://\"", "\"http://a b\""}},
    {R"({"type": "string", "format": "uuid"})",
     {"\"3f2504e0-4f89-11d3-9a0c-0305e82c3301\""},
     {"\"3f2504e04f8911d39a0c0305e82c3301\""}},
    {R"({"type": "integer", "minimum": -3, "maximum": 12})", {"-3", "0", "12", "9"}, {"-4", "13", "100", "-12", "1.5"}},
    {R"({"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 101})",
     {"10", "99", "100"},
     {"9", "101", "0", "-10"}},
    {R"({"type": "integer", "maximum": -10})", {"-10", "-999"}, {"-9", "10", "0"}},
    {R"({"type": "number", "minimum": 0.5, "maximum": 1.25})",
     {"0.5", "1", "1.25", "1.250", "0.75"},
     {"0.49", "1.26", "1.251", "0", "-1", "2"}},
    {R"({"type": "number", "exclusiveMinimum": 0})", {"0.001", "5", "1.5"}, {"0", "0.0", "-1", "-0.5"}},
    {R"({"type": "number", "maximum": -0.25})", {"-0.25", "-1", "-0.3"}, {"-0.2", "0", "0.25"}},
    {R"({"type": "number", "minimum": 1e3})", {"1000", "1000.5"}, {"999.9", "1e3"}},
    {R"({"type": "integer", "multipleOf": 7, "minimum": -14})", {"0", "7", "-14", "700"}, {"1", "-21", "13"}},
    {R"({"type": "number", "multipleOf": 0.01})", {"1.25", "3", "-0.5"}, {"1.255"}},
    {R"({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]})",
     {"1", "[]", "[1,[2,[]]]"},
     {"[\"\"]", "[[1]"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})",
     {R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"},
     {"{}"}},
    {R"({"allOf": [{"type": "integer", "minimum": 3}, {"type": ["integer", "string"], "maximum": 5}]})",
     {"3", "5"},
     {"2", "6", "\"\""}},
    {R"({"allOf": [{"properties": {"a": {"minimum": 2}}, "type": "object"}, {"properties": {"a": {"type": "integer", "maximum": 3}, "b": {"type": "null"}}, "required": ["b"]}]})",
     {R"({"a":2,"b":null})", R"({"b":null})"},
     {R"({"a":1,"b":null})", R"({"a":2})"}},
    {R"({"allOf": [{"type": "object", "properties": {"a": {}}, "additionalProperties": false}, {"properties": {"b": {}}}]})",
     {"{}", R"({"a":1})"},
     {R"({"b":1})"}},
    {R"({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}, {"type": "string", "minLength": 4}]})",
     {"1", "\"ab\"", "\"abcd\""},
     {"\"abc\""}},
    {R"({"$ref": "#/$defs/a~1b/items", "$defs": {"a/b": {"items": {"const": 1}}}})", {"1"}, {"2"}},
    {R"({"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer", "minimum": 2}}})",
     {"2", "5"},
     {"1", "6"}},
    {R"(true)", {"1", "[{}]", R"({"a":[null,true,"x",-1.5e3]})"}, {"", "{", "a"}},
    {R"({"title": "t", "description": "d", "default": 1, "examples": [], "$schema": "s", "$id": "i", "$comment": "c", "deprecated": true, "readOnly": true, "type": "null"})",
     {"null"},
     {"1"}},
};

TEST(JsonSchema, AcceptsAndRejects) {
  for (const Case& item : kCases) {
    for (const char* text : item.accepted) EXPECT_TRUE(schema_allows(item.schema, text)) << item.schema << "\n" << text;
    for (const char* text : item.rejected)
      EXPECT_FALSE(schema_allows(item.schema, text)) << item.schema << "\n" << text;
  }
}

struct Refusal {
  const char* schema;
  const char* message;  // its beginning
};

const Refusal kRefusals[] = {
    {R"({"properties": {"a": {"not": {}}}})", "/properties/a/not: the keyword is not supported"},
    {R"({"type": "object", "patternProperties": {"a": {}}})", "/patternProperties: the keyword is not supported"},
    {R"({"items": {"uniqueItems": true}})", "/items/uniqueItems: the keyword is not supported"},
    {R"({"minProperties": 1})", "/minProperties: "},
    {R"({"if": {}})", "/if: "},
    {R"({"type": "object", "propertyNames": {}})", "/propertyNames: "},
    {R"({"contains": {}})", "/contains: "},
    {R"({"dependentRequired": {}})", "/dependentRequired: "},
    {R"({"unevaluatedProperties": false})", "/unevaluatedProperties: "},
    {R"({"type": "string", "contentEncoding": "base64"})", "/contentEncoding: "},
    {R"({"x-extension": 1})", "/x-extension: "},
    {R"({"$dynamicRef": "#a"})", "/$dynamicRef: "},
    {R"({"anyOf": [{"type": "null"}, {"a/b~c": 1}]})", "/anyOf/1/a~1b~0c: "},
    {R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"nope": 1}}}}})", "/$defs/a/properties/b/nope: "},
    {R"({"type": "string", "format": "iri"})", "/format: the format \"iri\" is not supported"},
    {R"x({"type": "string", "pattern": "(?=a)"})x", "/pattern: position 0: lookahead is not supported"},
    {R"x({"type": "string", "pattern": "(a)\\1"})x", "/pattern: position 3: backreferences are not supported"},
    {R"({"type": "number", "multipleOf": 0.3})", "/multipleOf: "},
    {R"({"type": "integer", "multipleOf": 1001})", "/multipleOf: "},
    {R"({"type": "integer", "multipleOf": 0})", "/multipleOf: expected a positive number"},
    {R"({"type": "str"})", "/type: expected a type's name, found \"str\""},
    {R"({"type": ["string", 1]})", "/type/1: "},
    {R"({"minLength": -1})", "/minLength: expected a count, found -1"},
    {R"({"minimum": "1"})", "/minimum: expected a number"},
    {R"({"exclusiveMinimum": true})", "/exclusiveMinimum: expected a number, found true"},
    {R"({"properties": []})", "/properties: expected an object"},
    {R"({"properties": {"a": 1}})", "/properties/a: expected a schema"},
    {R"({"items": [{}]})", "/items: expected a schema"},
    {R"({"required": "a"})", "/required: "},
    {R"({"enum": 1})", "/enum: expected an array"},
    {R"({"anyOf": []})", "/anyOf: "},
    {R"({"$ref": "other.json"})", "/$ref: \"other.json\": only references within the schema"},
    {R"({"$ref": "#/$defs/x"})", "/$ref: \"#/$defs/x\": there is nothing"},
    {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "/oneOf: alternatives 0 and 1 may both be satisfied"},
    {R"({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]})", "/oneOf: "},
    {R"({"oneOf": [{"type": "string", "maxLength": 4}, {"type": "string", "minLength": 4}]})", "/oneOf: "},
    {R"({"type": "object", "enum": [{}], "required": ["a"]})", "/: enum or const with objects"},
    {R"([])", "/: expected a schema"},
    {R"(false)", "no text satisfies this grammar"},
    {R"({"type": "integer", "minimum": 5, "maximum": 4})", "no text satisfies this grammar"},
    {R"({"type": "string", "pattern": "^a+$", "maxLength": 0})", "no text satisfies this grammar"},
    {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", "no text satisfies this grammar"},
    {R"({"type": "array", "minItems": 3, "maxItems": 2})", "no text satisfies this grammar"},
    {R"({"a)", "JSON schema: "},
};

TEST(JsonSchema, RefusesWithThePointer) {
  for (const Refusal& refusal : kRefusals) {
    const std::string message = error_of([&] { tiny().compiler.compile_json_schema_text(refusal.schema); });
    EXPECT_TRUE(message.starts_with(refusal.message)) << refusal.schema << "\n" << message;
  }
}

TEST(JsonSchema, OtherPropertiesOnRequest) {
  constexpr std::string_view kSchema = R"({"type": "object", "properties": {"a": {"type": "integer"}}})";
  const auto closed = tiny().compiler.compile_json_schema_text(kSchema);
  const auto open = tiny().compiler.compile_json_schema_text(kSchema, {.additional_properties = true});
  EXPECT_FALSE(matches(tiny(), closed, R"({"a":1,"b":"x"})"));
  EXPECT_TRUE(matches(tiny(), open, R"({"a":1,"b":"x"})"));
  EXPECT_FALSE(matches(tiny(), open, R"({"a":"x"})"));
}

TEST(JsonSchema, AnyObjectAndAnyValue) {
  const auto object = tiny().compiler.compile_json_object();
  EXPECT_TRUE(matches(tiny(), object, R"({"a": [1, {"b": null}], "": "x"})"));
  EXPECT_TRUE(matches(tiny(), object, "{}"));
  EXPECT_FALSE(matches(tiny(), object, "[]"));
  const auto value = tiny().compiler.compile_json_value();
  EXPECT_TRUE(matches(tiny(), value, "[[[]], 1e5, \"\"]"));
  EXPECT_FALSE(matches(tiny(), value, "[[]"));
}

TEST(JsonSchema, WhitespaceIsBounded) {
  const auto grammar = tiny().compiler.compile_json_schema_text(R"({"type": "array", "items": {"type": "integer"}})");
  EXPECT_TRUE(matches(tiny(), grammar, "[\n\t\t1, 2,\n" + std::string(40, ' ') + "3 ]"));
  EXPECT_FALSE(matches(tiny(), grammar, "[\n" + std::string(41, ' ') + "1]"));
  EXPECT_FALSE(matches(tiny(), grammar, "[  1]"));
  EXPECT_FALSE(matches(tiny(), grammar, "[\n\n1]"));
  EXPECT_FALSE(matches(tiny(), grammar, "[1] "));
}

}  // namespace
}  // namespace edgewise::grammar_test
