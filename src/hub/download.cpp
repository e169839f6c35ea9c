#include "hub/download.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/progress.h"
#include "formats/json.h"
#include "hub/checksum.h"

namespace edgewise::hub {
namespace fs = std::filesystem;
namespace {

constexpr int kMaxRedirects = 10;
constexpr int kMaxTries = 5;  // in a row without a new byte
constexpr size_t kMaxListing = size_t{64} << 20;
constexpr size_t kPiece = size_t{1} << 20;

// A partial blob, locked against other processes that want the same.
class PartialFile {
 public:
  explicit PartialFile(fs::path path) : path_(std::move(path)) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail_here("can't create");
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) break;  // no locks here: then without
      check_interrupted();
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }
  ~PartialFile() { ::close(fd_); }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  uint64_t size() const {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) fail_here("can't read its size");
    return static_cast<uint64_t>(status.st_size);
  }
  void truncate() {
    if (::ftruncate(fd_, 0) != 0) fail_here("can't empty");
  }
  size_t read_at(uint64_t offset, std::span<char> out) const {
    const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0) fail_here("can't read");
    return static_cast<size_t>(got);
  }
  void write_at(uint64_t offset, std::span<const char> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_here("can't write");
      offset += static_cast<uint64_t>(written);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }
  void commit(const fs::path& final_path) {
    if (::fsync(fd_) != 0) fail_here("can't write");
    std::error_code error;
    fs::rename(path_, final_path, error);
    if (error) fail(ErrorKind::kIo, "{}: can't rename into place: {}", final_path.string(), error.message());
  }

 private:
  [[noreturn]] void fail_here(const char* what) const {
    fail(ErrorKind::kIo, "{}: {}: {}", path_.string(), what, std::strerror(errno));
  }

  fs::path path_;
  int fd_ = -1;
};

// A tag that serves as a file name; odd ones are hashed into one.
std::string blob_name_of(const std::string& etag) {
  const bool plain =
      !etag.empty() && etag.size() <= 128 && etag.find_first_not_of("0123456789abcdefABCDEF-_") == std::string::npos;
  return plain ? etag : sha256_hex(etag);
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// "bytes 100-199/200": where the piece starts and how long the whole is.
bool range_starts_at(const std::string& header, uint64_t from) {
  return header.starts_with(fmt::format("bytes {}-", from));
}

}  // namespace

Downloader::Downloader(ModelName model) : model_(std::move(model)), token_(hub_token()) {
  const std::string endpoint = environment("HF_ENDPOINT");
  endpoint_ = parse_url(endpoint.empty() ? "https://huggingface.co" : endpoint);
  base_ = endpoint_.target.substr(0, endpoint_.target.find('?'));
  while (base_.ends_with('/')) base_.pop_back();
}

void Downloader::refuse(const HttpGet& get, const std::string& what) const {
  const std::string& code = get.header("x-error-code");
  const int status = get.status();
  if (code == "GatedRepo" || status == 403 || (status == 401 && code != "RepoNotFound" && !token_.empty())) {
    fail(ErrorKind::kIo,
         "{}: access to {} is refused (HTTP {}): ask for it at {}, then set HF_TOKEN to a token of that account", what,
         model_.id, status, endpoint_.scheme + "://" + endpoint_.authority() + base_ + "/" + model_.id);
  }
  if (status == 401) {
    fail(ErrorKind::kIo,
         "{}: {} does not exist, or is private or gated (HTTP 401): check the name, and set HF_TOKEN to a token "
         "from {}/settings/tokens",
         what, model_.id, endpoint_.scheme + "://" + endpoint_.authority() + base_);
  }
  if (status == 404) {
    fail(ErrorKind::kIo, "{}: {} has no model {} with the revision {} (HTTP 404): check the name", what,
         endpoint_.authority(), model_.id, model_.revision);
  }
  if (status == 429)
    fail(ErrorKind::kIo, "{}: {} is asked too often (HTTP 429): try later, or set HF_TOKEN", what,
         endpoint_.authority());
  fail(ErrorKind::kIo, "{}: HTTP {} from {}", what, status, get.url().authority());
}

Downloader::Answer Downloader::open(const std::string& target, uint64_t from) {
  Answer answer;
  Url url = endpoint_;
  url.target = base_ + target;
  for (int redirects = 0; redirects <= kMaxRedirects; ++redirects) {
    check_interrupted();
    Headers headers;
    if (from > 0) headers.emplace_back("Range", fmt::format("bytes={}-", from));
    // The token is for the hub alone; where it sends us for the bytes, it must not follow.
    if (!token_.empty() && url.same_origin(endpoint_)) headers.emplace_back("Authorization", "Bearer " + token_);
    answer.get = std::make_unique<HttpGet>(url, headers);
    const HttpGet& get = *answer.get;
    if (const std::string& linked = get.header("x-linked-etag"); !linked.empty()) answer.etag = bare_etag(linked);
    if (const std::string& linked = get.header("x-linked-size");
        !linked.empty() && linked.size() < 19 && linked.find_first_not_of("0123456789") == std::string::npos) {
      answer.size = std::stoull(linked);
    }
    if (!is_redirect(get.status())) {
      if (answer.etag.empty()) answer.etag = bare_etag(get.header("etag"));
      if (!answer.size && get.content_length() && get.status() == 200) answer.size = get.content_length();
      return answer;
    }
    const Url next = resolve_location(url, get.header("location"));
    if (url.scheme == "https" && next.scheme != "https") {
      bad_file("{}: redirects from https to {}, which is refused", url.text(), next.scheme);
    }
    url = next;
  }
  bad_file("{}: more than {} redirects", endpoint_.authority() + base_ + target, kMaxRedirects);
}

Downloader::Listing Downloader::list() {
  const std::string target = "/api/models/" + encode_path(model_.id) + "/revision/" + encode_path(model_.revision);
  Answer answer = open(target, 0);
  if (answer.get->status() != 200) refuse(*answer.get, model_.id);
  const std::string where = answer.get->url().text();
  const Json json = parse_json(answer.get->read_all(kMaxListing), where);
  const JsonView view(json, where);
  Listing listing;
  listing.commit = view.string("sha");
  if (!is_commit(listing.commit)) view.reject("sha", "a commit of 40 hexadecimal digits");
  const Json& siblings = view.at("siblings").value();
  if (!siblings.is_array()) view.reject("siblings", "a list");
  for (const Json& sibling : siblings) {
    const std::string name = JsonView(sibling, where + ": siblings").string("rfilename");
    if (!is_safe_path(name)) bad_file("{}: the file name \"{}\" would leave its directory", where, name);
    listing.files.push_back(name);
  }
  listing.files = choose_files(listing.files);
  return listing;
}

bool Downloader::fetch_once(const ModelCache& cache, const std::string& target, const std::string& file,
                            std::string& blob_name) {
  Answer answer = open(target, 0);
  if (answer.get->status() != 200) refuse(*answer.get, file);
  if (answer.etag.empty()) bad_file("{}: the server sends no ETag to name and check it by", answer.get->url().text());
  blob_name = blob_name_of(answer.etag);
  const fs::path final_path = cache.blob(blob_name);
  if (fs::exists(final_path)) return true;
  std::error_code error;
  fs::create_directories(final_path.parent_path(), error);
  if (error) fail(ErrorKind::kIo, "{}: can't create: {}", final_path.parent_path().string(), error.message());
  fs::path partial_path = final_path;
  partial_path += ".incomplete";
  PartialFile partial(partial_path);
  if (fs::exists(final_path)) {  // another process was faster while we waited for its lock
    fs::remove(partial_path, error);
    return true;
  }
  uint64_t at = partial.size();
  if (at > 0 && (!answer.size || at <= *answer.size)) {
    const std::optional<uint64_t> size = answer.size;
    const std::string etag = answer.etag;
    if (!size || at < *size) answer = open(target, at);
    const bool continues = (size && at == *size) || (answer.get->status() == 206 && answer.etag == etag &&
                                                     range_starts_at(answer.get->header("content-range"), at));
    if (!continues) {
      at = 0;
      if (answer.get->status() != 200) answer = open(target, 0);
      if (answer.get->status() != 200) refuse(*answer.get, file);
    }
    if (!answer.size) answer.size = size;
  } else {
    at = 0;
  }
  if (at == 0) partial.truncate();
  if (!answer.size) bad_file("{}: the server does not tell its size", answer.get->url().text());

  Progress progress("Downloading " + file, static_cast<int64_t>(*answer.size), "bytes");
  Checksum checksum(answer.etag, *answer.size);
  std::vector<char> piece(kPiece);
  for (uint64_t done = 0; done < at;) {
    const size_t got = partial.read_at(done, std::span(piece).first(std::min<uint64_t>(kPiece, at - done)));
    if (got == 0) break;
    checksum.update(std::span(piece).first(got));
    done += got;
    progress.advance(static_cast<int64_t>(got));
  }
  while (at < *answer.size) {
    size_t got = 0;
    try {
      got = answer.get->read(piece);
    } catch (const Error& failure) {
      if (failure.kind() != ErrorKind::kIo) throw;
      return false;  // what came so far stays for the next try
    }
    if (got == 0) return false;
    if (at + got > *answer.size)
      bad_file("{}: more than the {} bytes announced", answer.get->url().text(), *answer.size);
    partial.write_at(at, std::span(piece).first(got));
    checksum.update(std::span(piece).first(got));
    at += got;
    progress.advance(static_cast<int64_t>(got));
  }
  if (!checksum.matches()) {
    fs::remove(partial_path, error);
    bad_file("{}: the content differs from the hub's checksum {}; it was removed, try again", file, answer.etag);
  }
  partial.commit(final_path);
  return true;
}

std::string Downloader::fetch(const ModelCache& cache, const std::string& commit, const std::string& file) {
  const std::string target = "/" + encode_path(model_.id) + "/resolve/" + commit + "/" + encode_path(file);
  std::string blob_name;
  std::string reason = "the connection keeps breaking";
  uint64_t best = 0;
  for (int tries = 0; tries < kMaxTries; ++tries) {
    check_interrupted();
    try {
      if (fetch_once(cache, target, file, blob_name)) return blob_name;
    } catch (const Error& error) {
      // A host that never answered will not for the next file either; one that did may be back in a moment.
      if (error.kind() != ErrorKind::kIo || blob_name.empty()) throw;
      reason = error.what();
    }
    std::error_code ignored;
    fs::path partial = cache.blob(blob_name);
    partial += ".incomplete";
    const uint64_t size = fs::file_size(partial, ignored);
    if (!ignored && size > best) {
      best = size;
      tries = 0;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100) * (1 << tries));
  }
  fail(ErrorKind::kIo, "{}: {} ({} bytes so far are kept; run again to continue)", file, reason, best);
}

}  // namespace edgewise::hub
