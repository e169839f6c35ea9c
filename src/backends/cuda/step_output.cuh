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

// What multiplies the rows of this multiprocessor's blocks and what is added to them: asked for before x is there,
// needed in the end. [blocks][16] each.
__device__ inline void ask_rows(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory) {
  const StepShape& shape = call.shapes[op.shape];
#pragma unroll 1
  for (int i = threadIdx.x; i < share.blocks * kRows; i += kStepThreads) {
    const BlockPlace place = place_of(shape, share.first[0] + i / kRows);
    const int n = place.block * kRows + i % kRows;
    copy_word(memory.factors + i,
              op.parts[place.part] + (static_cast<int64_t>(shape.factors_at[place.part]) * 256 + n * 4));
    const float* bias = op.bias[place.part];
    if (bias == nullptr || n >= shape.rows[place.part])
      memory.bias[i] = 0;
    else
      copy_word(memory.bias + i, bias + n);
    if (i % kRows == 0)
      copy_word(reinterpret_cast<float*>(memory.block_warps + i / kRows),
                call.block_warps + share.words_at + i / kRows);
  }
}

// What the warps found of a row of a block: it went through the hands of neighbours.
__device__ inline float sum_warps(const StepCall& call, const Memory& memory, int token, int local, int row) {
  const BlockWarps warps = memory.block_warps[local];
  const int step = call.most_sums * call.most_rows * kRows;
  const float* sums = memory.sums + token * kRows + row;
  float sum = sums[warps.first * step + warps.index * call.most_rows * kRows];
#pragma unroll
  for (int w = 1; w < kStepWarps; ++w) {
    if (w > warps.first && (warps.warps >> w & 1) != 0) sum += sums[w * step];
  }
  return sum;
}

// The block's results on their way: [token][block or pair][row].
__device__ inline void send_results(const StepCall& call, const StepOp& op, const StepShare& share,
                                    const Memory& memory, uint32_t number) {
  const StepShape& shape = call.shapes[op.shape];
  const int units = shape.paired ? share.blocks / 2 : share.blocks;
  const int items = units * kRows * (op.of_rows ? call.rows : call.tokens);
#pragma unroll 1
  for (int index = threadIdx.x; index < items; index += kStepThreads) {
    int unit = index / kRows;
    int token = 0;
    for (; unit >= units; unit -= units) ++token;
    const int row = index % kRows;
    const int local = shape.paired ? 2 * unit : unit;  // of this multiprocessor's blocks
    const int block = share.first[0] + local;
    const int slot = local == 0 ? share.first_slot : share.slot;
    const float inverse = op.norm != nullptr ? memory.inverse[token] : 1.0f;
    float value = 0;
    float gate = 0;
#pragma unroll 1
    for (int i = 0; i <= (shape.paired ? 1 : 0); ++i) {
      gate = value;
      const int at = (local + i) * kRows + row;
      value = sum_warps(call, memory, token, local + i, row) * (memory.factors[at] * inverse);
      if (slot == 0) value += memory.bias[at];
    }
    if (op.residual && slot == 0) value += memory.kept[token * call.kept_columns + local * kRows + row];
    if (shape.paired) value = gated(op.gate, gate, value);
    const int column = (shape.paired ? block / 2 : block) * kRows + row;
    if (op.result == nullptr)
      send(place_in(op.out, slot, token, column), value, number);
    else if (column < shape.rows[0])
      op.result[static_cast<int64_t>(token) * shape.rows[0] + column] = value;
  }
}

// By a thread a token: what the norm multiplies with.
__device__ inline void invert_squares(const StepOp& op, const Memory& memory, int token) {
  float squares = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) squares += memory.squares[w][token];
  memory.inverse[token] = rsqrtf(squares / static_cast<float>(op.k) + op.epsilon) * (1.0f / kNormedUnit);
}

}  // namespace edgewise::cuda
