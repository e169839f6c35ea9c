// Any bytes as a model's reply: taken apart whole or in pieces it comes to the same.
#include <cstdint>
#include <cstdlib>

#include "text/tool_calls.h"

namespace {

std::string taken_apart(edgewise::ToolCallForm form, bool inside, std::string_view reply, size_t piece) {
  edgewise::ToolCallParser parser(form, {"add", "f"}, inside);
  std::string content;
  std::string calls;
  const auto add = [&](const edgewise::ReplyPiece& part) {
    content += part.content;
    for (const auto& call : part.calls) calls += call.name.empty() ? call.arguments : "|" + call.name + ":";
  };
  for (size_t at = 0; at < reply.size(); at += piece) add(parser.push(reply.substr(at, piece)));
  add(parser.finish());
  return content + calls;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 4096) return 0;
  const auto form = static_cast<edgewise::ToolCallForm>(data[0] % 4);
  const bool inside = data[0] & 4;
  const std::string_view reply(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string whole = taken_apart(form, inside, reply, size);
  for (const size_t piece : {size_t{1}, size_t{7}}) {
    if (taken_apart(form, inside, reply, piece) != whole) std::abort();
  }
  return 0;
}
