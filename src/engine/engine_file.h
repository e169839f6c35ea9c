// The engine file, the one format of our own: a compiled graph and its packed weights, mapped at load.
//
//   offset 0     header, 64 bytes: magic, format version, file size, where the plan is and its checksum
//   4096 ...     weight segments, each at a multiple of 4096
//   last         the plan (FlatBuffers, engine.fbs)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "graph/graph.h"

namespace edgewise {

inline constexpr uint32_t kEngineVersion = 2;
inline constexpr const char* kEngineFileName = "model.engine";
// A draft head of the model beside it, and the tokens that its vocabulary stands for.
inline constexpr const char* kDraftEngineFileName = "draft.engine";

struct EngineInfo {
  std::string model;
  std::string device;   // backend it was built for
  std::string layout;   // class of its packed weights
  std::string machine;  // fingerprint of where its kernels were timed
  int max_batch_size = 1;
  int max_input_length = 1024;
  int kv_capacity = 2048;  // tokens of a sequence; 0: what memory has room for when the engine is loaded
  std::string kv_policy = "linear";
  DType kv_dtype = DType::kBF16;
};

struct Engine {
  EngineInfo info;
  Graph graph;               // constants read the mapped file
  uint64_t fingerprint = 0;  // of the plan, and so of all weights: their checksums stand in it
};

// Writes constant by constant: one weight in memory at a time. Returns the file's size in bytes.
uint64_t write_engine(const Graph& graph, const EngineInfo& info, const std::filesystem::path& path);

// Maps the file and checks header, plan and graph. Throws Error(kBadFile) with the reason when the file is foreign,
// truncated, of another version or inconsistent. Weights are not read; check_engine_segments() does that.
Engine read_engine(const std::filesystem::path& path);
// A file of header and plan alone, with sizes and checksum that hold: what tests and fuzzing start from.
std::vector<std::byte> seal_engine_plan(std::span<const std::byte> plan);
// Throws Error(kBadFile) naming the first constant whose bytes are not those that were written.
void check_engine_segments(const std::filesystem::path& path);

}  // namespace edgewise
