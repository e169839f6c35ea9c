#include "hub/checksum.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/error.h"

namespace edgewise::hub {
namespace {

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
}

std::string finish(EVP_MD_CTX* context) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned size = 0;
  check_internal(::EVP_DigestFinal_ex(context, digest.data(), &size) == 1, "EVP_DigestFinal_ex");
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

}  // namespace

std::string bare_etag(std::string_view header) {
  if (header.starts_with("W/")) header.remove_prefix(2);
  if (header.size() >= 2 && header.front() == '"' && header.back() == '"') header = header.substr(1, header.size() - 2);
  return std::string(header);
}

Checksum::Checksum(std::string etag, uint64_t size) : etag_(std::move(etag)), context_(nullptr, ::EVP_MD_CTX_free) {
  std::transform(etag_.begin(), etag_.end(), etag_.begin(), [](unsigned char c) { return std::tolower(c); });
  const bool sha256 = etag_.size() == 64 && is_hex(etag_);
  const bool git = etag_.size() == 40 && is_hex(etag_);
  if (!sha256 && !git) return;
  context_.reset(::EVP_MD_CTX_new());
  check_internal(::EVP_DigestInit_ex(context_.get(), sha256 ? ::EVP_sha256() : ::EVP_sha1(), nullptr) == 1,
                 "EVP_DigestInit_ex");
  if (git) {
    const std::string head = fmt::format("blob {}", size);
    update({head.c_str(), head.size() + 1});  // with its final zero
  }
}

Checksum::~Checksum() = default;

void Checksum::update(std::span<const char> bytes) {
  if (context_) ::EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
}

bool Checksum::matches() { return !context_ || finish(context_.get()) == etag_; }

std::string sha256_hex(std::string_view text) {
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(::EVP_MD_CTX_new(), ::EVP_MD_CTX_free);
  ::EVP_DigestInit_ex(context.get(), ::EVP_sha256(), nullptr);
  ::EVP_DigestUpdate(context.get(), text.data(), text.size());
  return finish(context.get());
}

}  // namespace edgewise::hub
