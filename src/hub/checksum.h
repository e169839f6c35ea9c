// The hub's two checksums: SHA-256 of large files, the git blob id (SHA-1) of small ones.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace edgewise::hub {

// An entity tag without quotes and the mark of weak ones.
std::string bare_etag(std::string_view header);

class Checksum {
 public:
  // `etag` tells which: 64 hexadecimal digits or 40; other tags can't be checked. `size` is the whole file's.
  Checksum(std::string etag, uint64_t size);
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(std::span<const char> bytes);
  // True also when the tag is none that can be checked.
  bool matches();

 private:
  std::string etag_;
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

std::string sha256_hex(std::string_view text);

}  // namespace edgewise::hub
