// A small random model with every operator, and steps to run it with; for tests of backends.
#pragma once

#include <map>
#include <random>
#include <string>
#include <vector>

#include "backends/backend.h"

namespace edgewise {

struct TestModel {
  int64_t vocabulary = 61;
  int64_t hidden = 72;
  int64_t heads = 6;
  int64_t kv_heads = 2;
  int64_t head_dim = 20;
  int64_t inner = 104;
  int64_t experts = 5;
  DType weight = DType::kF32;
  DType scale = DType::kF32;
  int64_t block = 24;
  bool zeros = false;
  bool transposed = true;
  bool token_scales = false;

  // The unpacked graph.
  Graph build() const;
  // A plain decoder, as most models are: norms, Linears, gates, sums and attention.
  Graph build_decoder(int64_t layers) const;
};

// Graph `g` with every node packed for the backend.
Graph packed(const Graph& g, const Backend& backend);

// Every node's outputs, by name.
using NodeOutputs = std::map<std::string, std::vector<std::vector<float>>>;
NodeOutputs observed(Executable& executable, const StepInput& input, int64_t vocabulary);

// The first node whose outputs are missing, of another size, or `tolerance` apart or more; "" where all are near.
std::string first_difference(const Graph& graph, const NodeOutputs& found, const NodeOutputs& expected,
                             double tolerance);

// What a sequence is fed in one step.
struct Feed {
  int sequence;
  int count;
};

// Sequences of random tokens with pages of their own, run in steps of any mix.
class StepMaker {
 public:
  StepMaker(int sequences, int length, int64_t vocabulary, uint32_t seed);
  // The next `count` tokens of each sequence named; logits for all of them. Valid until the next call.
  const StepInput& next(const std::vector<Feed>& feeds);
  int pages() const { return pages_; }
  void use_adapter(int sequence, int32_t id) { adapters_[static_cast<size_t>(sequence)] = id; }

 private:
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<std::vector<int32_t>> page_tables_;
  std::vector<int> done_;
  std::vector<int32_t> adapters_;
  int pages_ = 0;
  std::vector<int32_t> step_tokens_, step_positions_, step_rows_;
  std::vector<SequenceSlice> slices_;
  StepInput input_;
};

// For steps of up to 300 tokens of four sequences, with logits of all.
LoadOptions options_for(const StepMaker& steps, DType kv, int threads = 2);

// Logits of sequence 0's tokens, however it is fed.
std::vector<float> logits_of_first(Executable& executable, StepMaker& steps,
                                   const std::vector<std::vector<Feed>>& script, int64_t vocabulary);

// A sequence that begins with a prompt and goes on with a random tree, in any executable with its pages.
struct TreeRun {
  static constexpr int64_t kVocabulary = 61;

  TreeRun(int prompt, int nodes, uint32_t seed);
  // Logits of rows that form a chain behind kv_length.
  std::vector<float> chain(Executable& executable, int kv_length, const std::vector<int32_t>& ids);
  // Nodes [first, last), behind those before them.
  std::vector<float> tree(Executable& executable, int first, int last);
  std::vector<int32_t> ancestors(size_t node) const;
  // What brings a node's ancestors and itself to where a chain has them.
  std::vector<SlotCopy> copies_of(const std::vector<int32_t>& path) const;

  std::mt19937 random;
  int begin;
  std::vector<int32_t> tokens, node_tokens, pages;
  std::vector<uint64_t> masks;
};

}  // namespace edgewise
