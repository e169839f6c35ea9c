#include "hub/http.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstring>

#include "base/error.h"

namespace edgewise::hub {
namespace {

constexpr size_t kMaxLine = 32 << 10;
constexpr size_t kMaxHeaders = 200;

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::optional<uint64_t> parse_number(std::string_view text, int base) {
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

HttpGet::HttpGet(const Url& url, const Headers& headers) : url_(url), stream_(connect_to(url)) {
  std::string request = fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: edgewise\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
      "Connection: close\r\n",
      url.target, url.authority());
  for (const auto& [name, value] : headers) {
    if (value.find_first_of("\r\n") != std::string::npos) usage_error("the header {} holds a line break", name);
    request += name + ": " + value + "\r\n";
  }
  stream_->write(request + "\r\n");
  read_head();
}

const std::string& HttpGet::header(const std::string& name) const {
  static const std::string kNone;
  const auto found = headers_.find(name);
  return found == headers_.end() ? kNone : found->second;
}

std::string HttpGet::read_line() {
  while (true) {
    const size_t end = buffer_.find('\n', buffer_at_);
    if (end != std::string::npos) {
      std::string line = buffer_.substr(buffer_at_, end - buffer_at_);
      buffer_at_ = end + 1;
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    buffer_.erase(0, std::exchange(buffer_at_, 0));
    if (buffer_.size() > kMaxLine) bad_file("{}: not an HTTP answer: a line without end", url_.text());
    std::array<char, 4096> piece;
    const size_t got = stream_->read(piece);
    if (got == 0) fail(ErrorKind::kIo, "{}: the connection ended before the answer did", url_.text());
    buffer_.append(piece.data(), got);
  }
}

void HttpGet::read_head() {
  int heads = 0;
  do {  // 1xx answers announce the real one
    if (++heads > 10) bad_file("{}: announces an answer again and again", url_.text());
    headers_.clear();
    const std::string first = read_line();
    const auto status = first.size() >= 12 && first.starts_with("HTTP/1.")
                            ? parse_number(std::string_view(first).substr(9, 3), 10)
                            : std::nullopt;
    if (!status) bad_file("{}: not an HTTP answer: \"{}\"", url_.text(), first.substr(0, 60));
    status_ = static_cast<int>(*status);
    for (std::string line = read_line(); !line.empty(); line = read_line()) {
      if (headers_.size() >= kMaxHeaders) bad_file("{}: more than {} headers", url_.text(), kMaxHeaders);
      const size_t colon = std::min(line.find(':'), line.size());
      std::string name = line.substr(0, colon);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      headers_.emplace(std::move(name), trimmed(std::string_view(line).substr(std::min(colon + 1, line.size()))));
    }
  } while (status_ >= 100 && status_ < 200);
  std::string encoding = header("transfer-encoding");
  std::transform(encoding.begin(), encoding.end(), encoding.begin(), [](unsigned char c) { return std::tolower(c); });
  chunked_ = encoding == "chunked";
  if (!chunked_ && !header("content-length").empty()) {
    content_length_ = parse_number(header("content-length"), 10);
    if (!content_length_) bad_file("{}: a bad Content-Length \"{}\"", url_.text(), header("content-length"));
    left_ = *content_length_;
  }
  const std::string& compression = header("content-encoding");
  if (!compression.empty() && compression != "identity") {
    bad_file("{}: a body encoded as {}, which was not asked for", url_.text(), compression);
  }
  done_ = status_ == 204 || status_ == 304;
}

size_t HttpGet::read_raw(std::span<char> out) {
  if (buffer_at_ < buffer_.size()) {
    const size_t size = std::min(out.size(), buffer_.size() - buffer_at_);
    std::memcpy(out.data(), buffer_.data() + buffer_at_, size);
    buffer_at_ += size;
    return size;
  }
  return stream_->read(out);
}

void HttpGet::next_chunk() {
  if (!std::exchange(first_chunk_, false)) read_line();  // the line end behind the last chunk
  const std::string line = read_line();
  const auto size = parse_number(trimmed(std::string_view(line).substr(0, line.find(';'))), 16);
  if (!size) bad_file("{}: a bad chunk size \"{}\"", url_.text(), line.substr(0, 40));
  left_ = *size;
  if (left_ == 0) {
    for (size_t trailers = 0; !read_line().empty();) {
      if (++trailers > kMaxHeaders) bad_file("{}: more than {} trailers", url_.text(), kMaxHeaders);
    }
    done_ = true;
  }
}

size_t HttpGet::read_chunked(std::span<char> out) {
  if (left_ == 0) next_chunk();
  if (done_) return 0;
  const size_t got = read_raw(out.first(static_cast<size_t>(std::min<uint64_t>(out.size(), left_))));
  if (got == 0) fail(ErrorKind::kIo, "{}: the connection was cut", url_.text());
  left_ -= got;
  return got;
}

size_t HttpGet::read(std::span<char> out) {
  if (done_ || out.empty()) return 0;
  if (chunked_) return read_chunked(out);
  if (content_length_ && left_ == 0) {
    done_ = true;
    return 0;
  }
  const size_t limit = content_length_ ? static_cast<size_t>(std::min<uint64_t>(out.size(), left_)) : out.size();
  const size_t got = read_raw(out.first(limit));
  if (got == 0 && content_length_)
    fail(ErrorKind::kIo, "{}: the connection was cut, {} bytes early", url_.text(), left_);
  left_ -= std::min<uint64_t>(left_, got);
  done_ = got == 0;
  return got;
}

std::string HttpGet::read_all(size_t limit) {
  std::string body;
  std::array<char, 1 << 14> piece;
  while (const size_t got = read(piece)) {
    body.append(piece.data(), got);
    if (body.size() > limit) bad_file("{}: an answer of more than {} bytes", url_.text(), limit);
  }
  return body;
}

}  // namespace edgewise::hub
