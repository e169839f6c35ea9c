// Calibration: texts through the model, segment by segment, with a look at what each Linear reads.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "graph/graph.h"
#include "quantize/awq.h"
#include "text/tokenizer.h"

namespace edgewise {

struct CalibrationOptions {
  std::filesystem::path dataset;  // JSON lines with "messages" or "text", or plain text; empty: built in
  int samples = 128;
  int max_tokens = 512;  // of one sample
};

// Token ids of the samples. Chats go through the model's template when it has one.
std::vector<std::vector<int32_t>> calibration_tokens(const std::filesystem::path& model_dir,
                                                     const CalibrationOptions& options);

// A run of nodes between two points where one activation is all that lives, so that a segment's weights are all that
// is in memory: in a transformer, an attention or an MLP block.
struct Segment {
  size_t first_node;
  size_t end_node;
  ValueId input;  // kNone: starts from tokens
  ValueId output;
};
std::vector<Segment> cut_segments(const Graph& graph);

// Largest magnitudes of a layer's keys, as they go into the cache, and values.
struct KvRange {
  float key = 0;
  float value = 0;
};

// Holds the activations of all samples at one segment boundary.
class CalibrationRun {
 public:
  CalibrationRun(const Graph& graph, std::vector<std::vector<int32_t>> samples);

  // Runs the segment on the stored activations with the graph's present constants and keeps nothing but statistics of
  // the inputs of its Linears, by value.
  std::map<ValueId, InputStatistics> observe(const Segment& segment);
  // Runs it and moves on to its output.
  void advance(const Segment& segment);
  // By layer, of the segments left behind.
  const std::map<int64_t, KvRange>& kv_ranges() const { return kv_ranges_; }

 private:
  void run(const Segment& segment, const std::function<void(const Node&, std::span<const Tensor>)>& observer,
           const std::function<void(size_t, std::vector<float>)>& keep);

  const Graph& graph_;
  std::vector<std::vector<int32_t>> samples_;
  std::vector<std::vector<float>> activations_;  // by sample, [tokens, columns]
  std::map<int64_t, KvRange> kv_ranges_;
  int longest_ = 1;
};

}  // namespace edgewise
