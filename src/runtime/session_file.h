// A conversation in a file: its messages, its tokens, and the KV cache of those of them that fill pages.
//
//   offset 0    header, 40 bytes: magic, format version, file size, size and checksum of the document
//   40          the document, JSON: engine, KV dtype, adapter, tokens, messages, number and size of the pages
//   behind it   the pages, first to last, each followed by its checksum
//
// Tokens behind the last full page are computed again, which gives the same bits: no kernel's result depends on how a
// prompt is cut into chunks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "backends/backend.h"
#include "formats/json.h"
#include "runtime/adapters.h"
#include "runtime/kv_cache.h"

namespace edgewise {

// To be raised as well when a backend lays out its pages in another way.
inline constexpr uint64_t kSessionVersion = 2;

// What pages were computed with. Those of another owner mean nothing.
struct CacheOwner {
  std::string model;
  uint64_t engine = 0;  // Engine::fingerprint
  DType kv_dtype = DType::kBF16;
  int64_t vocabulary = 0;
  AdapterIdentity adapter;  // no name: none
};

// `messages`: an array of {"role", "content"}. Writes as many pages as the cache still has of `tokens`. The file is
// replaced whole or not at all; throws Error(kIo) when it can't be written.
void write_session_file(const std::filesystem::path& path, const CacheOwner& owner, std::span<const int32_t> tokens,
                        const OrderedJson& messages, KvCache& cache, const Executable& executable);

// Puts the pages into the cache's tree, as far as it has room, and returns the messages. Throws Error(kBadFile), with
// the cache as it was, when the file is foreign, torn, damaged or another owner's.
OrderedJson read_session_file(const std::filesystem::path& path, const CacheOwner& owner, KvCache& cache,
                              Executable& executable);

}  // namespace edgewise
