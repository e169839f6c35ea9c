#include "serve/embeddings.h"

#include <cstring>
#include <set>

#include "base/error.h"
#include "serve/openai_reply.h"
#include "serve/openai_request.h"

namespace edgewise {
namespace {

constexpr size_t kMostTexts = 256;  // as many as may wait by default

std::string to_base64(std::span<const float> values) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<unsigned char> bytes(values.size_bytes());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t there = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < there ? bytes[i + j] : 0u);
    for (size_t j = 0; j < 4; ++j) text += j <= there ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

}  // namespace

EmbeddingCall parse_embedding_call(const std::string& text, const Session& session) {
  const Json document = parse_json(text, "the request");
  if (!document.is_object()) usage_error("the request: expected a JSON object");
  const JsonView body(document, "the request");
  static const std::set<std::string> kKnown = {"input", "model", "encoding_format", "user"};
  for (const auto& [key, value] : document.items()) {
    if (!kKnown.contains(key) && !value.is_null()) usage_error("the field \"{}\" is not supported", key);
  }
  EmbeddingCall call;
  call.model = body.string("model", "");
  const std::string format = body.string("encoding_format", "float");
  if (format != "float" && format != "base64") body.reject("encoding_format", "\"float\" or \"base64\"");
  call.base64 = format == "base64";
  Request request;
  request.max_tokens = 1;
  request.embed = true;
  for (auto& prompt : read_texts(body, "input", session)) {
    request.prompt = std::move(prompt);
    call.requests.push_back(request);
  }
  if (call.requests.size() > kMostTexts) usage_error("input: expected at most {} texts", kMostTexts);
  return call;
}

EmbeddingAnswer::EmbeddingAnswer(EmbeddingCall call, std::shared_ptr<HttpReply> reply)
    : call_(std::move(call)),
      reply_(std::move(reply)),
      completions_(call_.requests.size()),
      left_(call_.requests.size()) {}

bool EmbeddingAnswer::progress(size_t index, const Completion& so_far) {
  if (so_far.finish == FinishReason::kNone) return true;
  completions_[index] = so_far;
  if (--left_ == 0) finish();
  return true;
}

void EmbeddingAnswer::finish() {
  OrderedJson data = OrderedJson::array();
  int64_t tokens = 0;
  for (size_t i = 0; i < completions_.size(); ++i) {
    const Completion& completion = completions_[i];
    if (completion.finish != FinishReason::kStop)
      return reply_->send(500, "application/json", error_body(completion.error, "server_error"));
    data.push_back({{"object", "embedding"}, {"index", i}});
    if (call_.base64) {
      data.back()["embedding"] = to_base64(completion.embedding);
    } else {
      data.back()["embedding"] = completion.embedding;
    }
    tokens += completion.prompt_tokens;
  }
  const OrderedJson result = {{"object", "list"},
                              {"data", std::move(data)},
                              {"model", call_.model},
                              {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
  reply_->send(200, "application/json", result.dump());
}

}  // namespace edgewise
