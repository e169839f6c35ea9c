// The kernel of a step of up to four tokens (step_kernel.h). Its operators are Linears, with the norm in front and the
// gate or sum behind them, and attention.
#include "backends/cuda/step_kernel.h"

#include "backends/cuda/step_attention.cuh"
#include "backends/cuda/step_multiply.cuh"
#include "backends/cuda/step_output.cuh"

namespace edgewise::cuda {
namespace {

__device__ __forceinline__ void run_linear(const StepCall& call, const StepOp& op, const StepShare* shares,
                                           const Memory& memory, uint32_t number, Feed& feed) {
  const StepShape& shape = call.shapes[op.shape];
  const StepShare& share = shares[op.shape];
  const auto has_work = [](const StepShare& of) { return of.warps[0] != of.warps[kStepWarps]; };
  if (!has_work(share) && (op.keep < 0 || !has_work(shares[op.keep]))) return;
  if (op.next_norm != nullptr && static_cast<int>(threadIdx.x) * 32 < op.next_k)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(op.next_norm + threadIdx.x * 32));
  if (has_work(share)) ask_rows(call, op, share, memory);
  if (shape.encoding == Encoding::kBF16)
    stage_any<true>(call, op, shares, memory, number - 1);
  else
    stage_any<false>(call, op, shares, memory, number - 1);
  __syncthreads();
  if (!has_work(share)) return;
  if (op.norm != nullptr && static_cast<int>(threadIdx.x) >= kStepThreads - kMostDecodeTokens)
    invert_squares(op, memory, kStepThreads - 1 - static_cast<int>(threadIdx.x));
  multiply_any(call, op, share, memory, feed);
  asm volatile("cp.async.wait_all;" ::: "memory");  // rows' factors
  __syncthreads();
  send_results(call, op, share, memory, number);
  feed.refill();
}

// Brings words from global to shared memory; by all threads.
template <typename T>
__device__ inline void fetch(const T* from, T* to, int count) {
  const int words = count * static_cast<int>(sizeof(T) / 4);
#pragma unroll 1
  for (int i = threadIdx.x; i < words; i += kStepThreads)
    reinterpret_cast<uint32_t*>(to)[i] = __ldg(reinterpret_cast<const uint32_t*>(from) + i);
}

// The next operator's description, on its way while this one runs.
__device__ inline void fetch_later(const StepOp* from, StepOp* to) {
  const auto at = static_cast<size_t>(threadIdx.x) * 16;
  if (at < sizeof(StepOp))
    copy_words(reinterpret_cast<std::byte*>(to) + at, reinterpret_cast<const std::byte*>(from) + at);
}

__global__ void __launch_bounds__(kStepThreads, 1) step_kernel(const __grid_constant__ StepCall call) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  __shared__ StepShare shares[kMostShapes];
  __shared__ StepOp ops[2];
  __shared__ float squares[kStepWarps][kMostDecodeTokens];
  __shared__ float inverse[kMostDecodeTokens];
  __shared__ StepTilesHere tiles[kMostStepTiles];
  __shared__ uint64_t barriers[kStepWarps][kMostRingDepth];
  const int warp = threadIdx.x / 32;
  auto* linears = reinterpret_cast<StepLinear*>(shared + call.linears_at);
  for (int i = 0; i < call.shape_count; ++i) fetch(call.shares + i * gridDim.x + blockIdx.x, shares + i, 1);
  fetch(call.linears, linears, call.linear_count);
  fetch(call.ops, ops, 1);
#pragma unroll 1
  for (int i = 0; i < kMostStepTiles; ++i) bring_tile(call, i, tiles[i]);
  const uint32_t first = *call.number * static_cast<uint32_t>(call.numbers);
  __syncthreads();
  std::byte* ring = shared + warp * call.ring_depth * kStageBytes;
  Feed feed(call, linears, shares, call.linear_count, ring, barriers[warp]);
  feed.begin();
  const Memory memory{ring,
                      shared + call.scratch_at,
                      reinterpret_cast<float*>(shared + call.sums_at),
                      reinterpret_cast<float*>(shared + call.kept_at),
                      reinterpret_cast<float*>(shared + call.rows_at),
                      reinterpret_cast<float*>(shared + call.rows_at) + call.most_blocks * kRows,
                      squares,
                      inverse,
                      reinterpret_cast<BlockWarps*>(shared + call.rows_at) + 2 * call.most_blocks * kRows};
  for (int i = 0; i < call.op_count; ++i) {
    const StepOp& op = ops[i % 2];
    // Its description is there; the other place was last read an operator ago.
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    if (i + 1 < call.op_count) fetch_later(call.ops + i + 1, ops + (i + 1) % 2);
    const uint32_t number = first + static_cast<uint32_t>(i) + 1;
    if (op.is_attention)
      attend_step(call, op, tiles[op.tiles], number, memory.scratch);
    else
      run_linear(call, op, shares, memory, number, feed);
  }
#else
  __trap();  // no bulk copies there; the planner makes no program
#endif
}

}  // namespace

bool run_step(cudaStream_t stream, const StepCall& call, int multiprocessors) {
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(step_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostStepShared) == cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors));
  config.blockDim = dim3(kStepThreads);
  config.dynamicSmemBytes = static_cast<size_t>(call.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once, or none: they wait for each other
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, step_kernel, call) == cudaSuccess;
}

}  // namespace edgewise::cuda
