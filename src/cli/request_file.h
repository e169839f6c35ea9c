// The request file of `infer`: JSON in, requests out; a bad request spoils itself only.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtime/session.h"

namespace edgewise {

struct FileRequest {
  Request request;
  std::string error;  // why it can't be run; then `request` is not used
};

struct RequestFile {
  int batch_size = 1;
  std::map<std::string, std::filesystem::path>
      adapters;  // available_lora_weights: to be loaded before the requests run
  std::vector<FileRequest> requests;
};

// Throws Error(kBadFile) when the file as a whole is malformed: no JSON, no "requests".
RequestFile parse_request_file(const std::string& text, const std::string& source, const Session& session);

// {"responses": [...]}, in the order of the requests.
OrderedJson response_document(const RequestFile& file, const std::vector<Completion>& completions);

}  // namespace edgewise
