// Any bytes as a request file of the embedded model: an error for the file, for one request, or ids to run.
#include "base/error.h"
#include "cli/fuzz_session.h"
#include "cli/request_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const RequestFile file = parse_request_file(text, "fuzz.json", fuzz_session());
    std::vector<Completion> completions;
    for (const FileRequest& entry : file.requests) {
      if (entry.error.empty()) completions.emplace_back();
    }
    (void)response_document(file, completions).dump();
  } catch (const Error&) {
  }
  return 0;
}
