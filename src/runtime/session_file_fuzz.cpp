// Any bytes as a saved session, and as document (up to the first zero byte) and pages of one whose header and checksums
// are right: refused, with the cache as it was, or loaded into it.
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/fuzz_file.h"
#include "runtime/session_file.h"

namespace edgewise {
namespace {

constexpr int kPages = 4;

// Pages of one number a token: a file of some fits an input.
Executable& small_executable() {
  static const Graph graph = [] {
    Graph made;
    const ValueId x = made.add_input(std::string(kHiddenInput), DType::kF32, {kTokens, 1});
    const int64_t one = 1;
    made.mark_output(made.add(Op::kAttention, "attention", {x, x, x},
                              {{"layer", int64_t{0}},
                               {"q_heads", one},
                               {"kv_heads", one},
                               {"head_dim", one},
                               {"scale", 1.0},
                               {"softcap", 0.0},
                               {"window", int64_t{0}}}));
    return made;
  }();
  static const auto executable = find_backend("reference").load(graph, {.kv_pages = kPages, .threads = 1});
  return *executable;
}

std::string_view bytes_of(const auto& numbers) { return {reinterpret_cast<const char*>(&numbers), sizeof(numbers)}; }

// As write_session_file() lays it out.
std::string sealed(std::string_view input, size_t page_bytes) {
  const std::string_view document = input.substr(0, input.find('\0'));
  std::string pages;
  for (size_t at = document.size() + 1; at + page_bytes <= input.size(); at += page_bytes) {
    const std::string_view page = input.substr(at, page_bytes);
    pages.append(page).append(bytes_of(XXH3_64bits(page.data(), page.size())));
  }
  uint64_t header[5] = {0, kSessionVersion, sizeof(header) + document.size() + pages.size(), document.size(),
                        XXH3_64bits(document.data(), document.size())};
  std::memcpy(header, "EDGESESS", 8);
  return std::string(bytes_of(header)).append(document).append(pages);
}

void read(const std::filesystem::path& path) {
  const CacheOwner owner = {.model = "m", .engine = 1, .vocabulary = 100};
  KvCache cache(kPages, true);
  bool loaded = false;
  try {
    loaded = read_session_file(path, owner, cache, small_executable()).is_array();
  } catch (const Error&) {
  }
  const KvCacheSnapshot after = cache.snapshot();
  if (!check_invariants(after, {}).empty() || cache.available() != kPages) std::abort();
  if (!loaded && std::ranges::any_of(after.pages, &KvCacheSnapshot::Page::shared)) std::abort();
}

}  // namespace
}  // namespace edgewise

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  static const auto path = fuzz_path("session_file_fuzz");
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  write_fuzz_file(path, input);
  read(path);
  write_fuzz_file(path, sealed(input, small_executable().page_bytes()));
  read(path);
  return 0;
}
