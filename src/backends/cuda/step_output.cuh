// The results of a Linear within the kernel of a step: sums over warps, with what belongs to a row, as packets.
#pragma once

#include "backends/cuda/step_feed.cuh"
#include "backends/cuda/step_stage.cuh"

namespace edgewise::cuda {

// silu(x) up, or the tanh form of gelu, which is x sigmoid(2 y) too.
__device__ inline float gated(Source gate, float x, float up) {
  const float z = gate == Source::kSwiGlu ? x : 1.5957691216057308f * (x + 0.044715f * x * x * x);
  return x * up / (1.0f + __expf(-z));
}

// A load that stays where it stands, ahead of what the value is wanted behind.
__device__ inline uint32_t load_early(const void* from) {
  uint32_t word;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(word) : "l"(from));
  return word;
}

// A row of a block: where the warps that have a part in it have left their sums, and what belongs to it.
struct ResultRow {
  int first = 0;  // of this lane, among all sums
  int others = 0;
  int count = 0;  // from this lane on
  float factor = 0;
  float bias = 0;
};

// What a thread does with the results of a Linear: rows of units, which are blocks, or pairs of them. All that can be
// known of the first row is looked up before x is there.
class Output {
 public:
  __device__ Output(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory)
      : call_(call),
        op_(op),
        share_(share),
        memory_(memory),
        shape_(call.shapes[op.shape]),
        paired_(shape_.paired ? 1 : 0),
        rows_((share.blocks >> paired_) * kRows),
        lanes_(rows_ * kMostLanes <= kStepThreads ? kMostLanes : 1),
        of_warp_(call.most_sums * call.most_rows * kRows) {
    ask(static_cast<int>(threadIdx.x) / lanes_);
  }

  __device__ void send(uint32_t number) {
    const int step = kStepThreads / lanes_;
#pragma unroll 1
    for (int index = static_cast<int>(threadIdx.x) / lanes_; index < rows_; index += step) {
#pragma unroll 1
      for (int token = 0; token < (op_.of_rows ? call_.rows : call_.tokens); ++token) send_row(token, number);
      if (index + step < rows_) ask(index + step);
    }
  }

 private:
  // That add up a row together, where there are more threads than rows.
  static constexpr int kMostLanes = 4;

  __device__ void ask(int index) {
    if (index >= rows_) return;
    const int unit = index / kRows;
    const int row = index % kRows;
    ask_row(unit << paired_, row, row_[0]);
    if (paired_ != 0) ask_row((unit << paired_) + 1, row, row_[1]);
    column_ = ((share_.first[0] >> paired_) + unit) * kRows + row;
    kept_ = index;
  }
  // `local`: of this multiprocessor's blocks.
  __device__ void ask_row(int local, int row, ResultRow& to) {
    const BlockPlace place = place_of(shape_, share_.first[0] + local);
    const int n = place.block * kRows + row;
    const std::byte* factors = op_.parts[place.part] + static_cast<int64_t>(shape_.factors_at[place.part]) * 256;
    to.factor = __uint_as_float(load_early(factors + n * 4));
    const float* bias = op_.bias[place.part];
    const bool has_bias = bias != nullptr && n < shape_.rows[place.part];
    const uint32_t bits = load_early(call_.block_parts + share_.parts_at + local);
    const auto part = *reinterpret_cast<const BlockPart*>(&bits);
    const int lane = lanes_ == 1 ? 0 : static_cast<int>(threadIdx.x) % kMostLanes;
    to.others = part.first * of_warp_ + row;
    to.first = to.others + lane * of_warp_ + (lane == 0 ? part.index * call_.most_rows * kRows : 0);
    to.others += (lane + lanes_) * of_warp_;
    to.count = part.count - lane;
    slot_ = part.slot;
    to.bias = has_bias && part.slot == 0 ? __uint_as_float(load_early(bias + n)) : 0.0f;
  }

  __device__ float sum_warps(const ResultRow& row, int token) const {
    float sum = row.count > 0 ? memory_.sums[row.first + token * kRows] : 0.0f;
    const float* other = memory_.sums + row.others + token * kRows;
#pragma unroll 2
    for (int i = lanes_; i < row.count; i += lanes_, other += lanes_ * of_warp_) sum += *other;
    if (lanes_ > 1) {
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
    }
    return sum;
  }

  __device__ void send_row(int token, uint32_t number) {
    const float inverse = op_.norm != nullptr ? memory_.inverse[token] : 1.0f;
    float value = fmaf(sum_warps(row_[0], token), row_[0].factor * inverse, row_[0].bias);
    if (paired_ != 0)
      value = gated(op_.gate, value, fmaf(sum_warps(row_[1], token), row_[1].factor * inverse, row_[1].bias));
    if (op_.residual && slot_ == 0) value += memory_.kept[token * call_.kept_columns + kept_];
    if (lanes_ > 1 && threadIdx.x % kMostLanes != 0) return;
    if (op_.result == nullptr)
      edgewise::cuda::send(place_in(op_.out, slot_, token, column_), value, number);
    else if (column_ < shape_.rows[0])
      op_.result[static_cast<int64_t>(token) * shape_.rows[0] + column_] = value;
  }

  const StepCall& call_;
  const StepOp& op_;
  const StepShare& share_;
  const Memory& memory_;
  const StepShape& shape_;
  int paired_;
  int rows_;
  int lanes_;
  int of_warp_;  // floats between the sums of two warps
  ResultRow row_[2];
  int column_ = 0;
  int kept_ = 0;  // column of what was kept
  int slot_ = 0;
};

// By a thread a token: what the norm multiplies with.
__device__ inline void invert_squares(const StepOp& op, const Memory& memory, int token) {
  float squares = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) squares += memory.squares[w][token];
  memory.inverse[token] = rsqrtf(squares / static_cast<float>(op.k) + op.epsilon) * (1.0f / kNormedUnit);
}

}  // namespace edgewise::cuda
