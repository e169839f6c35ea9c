// /v1/embeddings (https://platform.openai.com/docs/api-reference/embeddings): for each text the final hidden state of
// its last token, scaled to length 1, as vLLM pools decoder models.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/session.h"
#include "serve/http.h"

namespace edgewise {

struct EmbeddingCall {
  std::string model;
  std::vector<Request> requests;  // one a text
  bool base64 = false;            // little-endian float32 in base64 instead of numbers
};

// Throws Error(kUsage) naming the field.
EmbeddingCall parse_embedding_call(const std::string& body, const Session& session);

// Collects the embeddings and sends them when all are there. Its callbacks come from the service's thread.
class EmbeddingAnswer {
 public:
  EmbeddingAnswer(EmbeddingCall call, std::shared_ptr<HttpReply> reply);

  const std::vector<Request>& requests() const { return call_.requests; }
  bool progress(size_t index, const Completion& so_far);

 private:
  void finish();

  const EmbeddingCall call_;
  const std::shared_ptr<HttpReply> reply_;
  std::vector<Completion> completions_;
  size_t left_;
};

}  // namespace edgewise
