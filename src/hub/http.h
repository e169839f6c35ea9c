// As much of HTTP/1.1 as downloading takes: one GET a connection, its body read piece by piece.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hub/stream.h"
#include "hub/url.h"

namespace edgewise::hub {

using Headers = std::vector<std::pair<std::string, std::string>>;

class HttpGet {
 public:
  // Sends the request and reads the response's head. Throws Error(kIo), Error(kBadFile) for what isn't HTTP.
  HttpGet(const Url& url, const Headers& headers);

  const Url& url() const { return url_; }
  int status() const { return status_; }
  // By lower-case name; empty when absent.
  const std::string& header(const std::string& name) const;
  // Bytes of the body, where the server tells.
  std::optional<uint64_t> content_length() const { return content_length_; }

  // The next piece of the body; 0 at its end. Throws Error(kIo) when the connection ends before the body does.
  size_t read(std::span<char> out);
  // The whole body; throws Error(kBadFile) past `limit`.
  std::string read_all(size_t limit);

 private:
  std::string read_line();
  void read_head();
  size_t read_raw(std::span<char> out);
  size_t read_chunked(std::span<char> out);
  void next_chunk();

  Url url_;
  std::unique_ptr<Stream> stream_;
  std::string buffer_;  // received, not yet consumed
  size_t buffer_at_ = 0;
  int status_ = 0;
  std::map<std::string, std::string> headers_;
  std::optional<uint64_t> content_length_;
  uint64_t left_ = 0;  // of the body or the chunk
  bool chunked_ = false;
  bool first_chunk_ = true;
  bool done_ = false;
};

}  // namespace edgewise::hub
