// Any bytes as the body of an API call: an error, or requests whose answers can be worded.
#include "base/error.h"
#include "cli/fuzz_session.h"
#include "serve/openai_reply.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  if (size == 0) return 0;
  const ApiKind kind = data[0] % 2 == 0 ? ApiKind::kChat : ApiKind::kText;
  const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const Session& session = fuzz_session();
    const ApiCall call = parse_api_call(kind, body, session);
    const std::vector<Completion> completions(call.requests.size());
    const std::vector<ReplyText> texts(call.requests.size(), {"text", {{"id", "name", "{}"}}});
    (void)reply_body(call, {}, completions, texts, session.tokenizer());
    for (size_t i = 0; i < call.requests.size(); ++i) (void)first_event(call, {}, i);
  } catch (const Error&) {
  }
  return 0;
}
