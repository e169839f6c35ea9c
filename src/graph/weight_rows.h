// Reads a Linear's or Embedding's stored weight as float32 rows, whatever its format and order.
#pragma once

#include <span>

#include "graph/graph.h"

namespace edgewise {

// One weight with its scales as they stand in the graph: value = (q - zero) * scale * global_scale.
class WeightRows {
 public:
  // Input `first` of the node is the weight, then scale and zero (kNone when absent).
  WeightRows(const Graph& graph, const Node& node, size_t first);

  int64_t n() const { return n_; }  // rows: outputs of a Linear, tokens of a table; of all experts together
  int64_t k() const { return k_; }
  // Rows [begin, end) as float32 [end - begin, k].
  void read(int64_t begin, int64_t end, std::span<float> out) const;

 private:
  void read_transposed(int64_t row, std::span<float> out) const;
  void read_columns(int64_t begin, int64_t end, std::span<float> out) const;

  Tensor weight_;
  Tensor scale_;
  Tensor zero_;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t expert_rows_ = 0;  // rows of one stacked matrix
  int64_t block_ = 0;
  float global_scale_ = 1;
  bool transposed_ = false;
};

}  // namespace edgewise
