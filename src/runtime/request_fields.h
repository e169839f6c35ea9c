// The fields that request files and the API write alike. All throw Error(kUsage or kBadFile) naming the field.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "runtime/answer_format.h"
#include "runtime/sampler.h"

namespace edgewise {

// A number beyond an int stays out of every range that is checked later.
int int_field(const JsonView& object, const std::string& key, int64_t fallback);

// temperature, top_p, top_k, min_p, the penalties, num_logprobs, seed, logit_bias: those that are there.
void read_sampling(const JsonView& object, SamplingOptions& options);

// "disable_spec_decode": true for an answer without guessing ahead.
bool read_disable_spec_decode(const JsonView& object, bool fallback = false);

// "stop": a string or an array of strings.
std::vector<std::string> read_stop(const JsonView& object);

// "response_format": {"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {}}},
// and beyond OpenAI's, {"type": "regex", "regex": ""} and {"type": "grammar", "grammar": ""}. None for text. `object`
// keeps its order: properties come in the schema's.
std::optional<AnswerFormat> read_response_format(const OrderedJson& object);

// "content" of a message: a string, or parts of {"type": "text"}, which are joined.
std::string read_text_content(const JsonView& message);

}  // namespace edgewise
