// What each operator means: plain float32 loops with float64 sums. Every other kernel is tested against these.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.h"
#include "base/thread_pool.h"
#include "graph/weight_rows.h"

namespace edgewise::reference {

// A float32 activation [rows, columns].
struct Matrix {
  std::span<float> data;
  int64_t rows = 0;
  int64_t columns = 0;
  std::span<float> row(int64_t i) const {
    return data.subspan(static_cast<size_t>(i * columns), static_cast<size_t>(columns));
  }
  float& at(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * columns + j)]; }
};

// out = x * weight^T + bias; bias may be empty. Rows of the weight are shared out over the pool.
void linear(ThreadPool& pool, Matrix x, const WeightRows& weight, std::span<const float> bias, Matrix out);
// out += scale * B (A x), one row.
void low_rank_row(std::span<const float> x, const LowRank& weights, std::span<float> out);
// Rounds each row to 127 steps of its largest magnitude and back.
void round_rows_to_int8(Matrix x);

void embedding(const WeightRows& table, std::span<const int32_t> tokens, Matrix out);
void rms_norm(Matrix x, std::span<const float> weight, double epsilon, Matrix out);
void layer_norm(Matrix x, std::span<const float> weight, std::span<const float> bias, double epsilon, Matrix out);
void softmax_row(std::span<float> row);

// One row of cos and sin: angle = position * inv_freq in float32, as transformers computes it.
void rotary_table_row(int32_t position, std::span<const float> inv_freq, float scale, std::span<float> cos,
                      std::span<float> sin);
void rotary(Matrix x, Matrix cos, Matrix sin, const Node& node, Matrix out);

// K and V of one layer for one sequence, addressed by position.
class KvReader {
 public:
  virtual ~KvReader() = default;
  virtual std::span<const float> key(int64_t position, int64_t head) const = 0;
  virtual std::span<const float> value(int64_t position, int64_t head) const = 0;
};
// One query row, all heads, at absolute position kv_position (it sees keys up to and including that).
void attention_row(const Node& node, std::span<const float> q, int64_t kv_position, const KvReader& kv,
                   std::span<float> out);

void route(Matrix logits, const Node& node, Matrix out);
void moe(ThreadPool& pool, Matrix x, Matrix routing, const WeightRows& gate, const WeightRows& up,
         const WeightRows& down, Matrix out);

float activation(Op op, const Node& node, float x);

}  // namespace edgewise::reference
