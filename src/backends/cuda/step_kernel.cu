// The kernel of a step of up to four tokens (step_kernel.h). Its operators are Linears, with the norm in front and the
// gate or sum behind them, and attention.
#include "backends/cuda/step_kernel.h"

#include "backends/cuda/step_attention.cuh"
#include "backends/cuda/step_multiply.cuh"
#include "backends/cuda/step_output.cuh"

namespace edgewise::cuda {
namespace {

// The next operator's description, on its way while this one runs, and until it is there for all.
[[maybe_unused]] __device__ inline void fetch_next(const StepOp* from, StepOp* to) {
  const auto at = static_cast<size_t>(threadIdx.x) * 16;
  if (at < sizeof(StepOp))
    copy_word(shared_address(reinterpret_cast<std::byte*>(to) + at), reinterpret_cast<const std::byte*>(from) + at);
}
__device__ inline void wait_for_next() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  sync_block();
}

[[maybe_unused]] __device__ __forceinline__ void run_linear(const StepCall& call, const StepOp& op,
                                                            const StepShare* shares, const Memory& memory,
                                                            uint32_t number, Ring& ring) {
  const StepShare& share = shares[op.shape];
  const bool keeps = op.keep >= 0 && shares[op.keep].blocks > 0;
  if (share.blocks == 0 && !keeps) return wait_for_next();
  if (op.next_norm != nullptr && static_cast<int>(threadIdx.x) * 32 < op.next_k)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(op.next_norm + threadIdx.x * 32));
  Output output(call, op, share, memory);
  if (op.keep >= 0) sync_block();  // what was kept before is no longer wanted
  stage_x(call, op, shares, memory, number - 1);
  sync_block();
  if (op.norm != nullptr && static_cast<int>(threadIdx.x) >= kStepThreads - kMostDecodeTokens)
    invert_squares(op, memory, kStepThreads - 1 - static_cast<int>(threadIdx.x));
  multiply_any(call, op, share, memory, ring);
  wait_for_next();
  output.send(number);
}

// Brings words from global to shared memory; by all threads.
template <typename T>
__device__ inline void fetch(const T* from, T* to, int count) {
  const int words = count * static_cast<int>(sizeof(T) / 4);
#pragma unroll 1
  for (int i = threadIdx.x; i < words; i += kBlockThreads)
    reinterpret_cast<uint32_t*>(to)[i] = __ldg(reinterpret_cast<const uint32_t*>(from) + i);
}

// One for each type of the cache: what is not there need not be fetched.
template <typename T>
__global__ void __launch_bounds__(kBlockThreads, 1) step_kernel(const __grid_constant__ StepCall call) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  __shared__ StepShare shares[kMostShapes];
  __shared__ StepOp ops[3];  // the one under way for the slowest and the fastest warp, and the next
  __shared__ float squares[kStepWarps][kMostDecodeTokens];
  __shared__ float inverse[kMostDecodeTokens];
  __shared__ StepHere here;
  __shared__ RingBarriers barriers[kStepWarps];
  const int warp = threadIdx.x / 32;
  auto* linears = reinterpret_cast<StepLinear*>(shared + call.linears_at);
  for (int i = 0; i < call.shape_count; ++i) fetch(call.shares + i * gridDim.x + blockIdx.x, shares + i, 1);
  fetch(call.linears, linears, call.linear_count);
  fetch(reinterpret_cast<const uint32_t*>(call.slot_counts), reinterpret_cast<uint32_t*>(shared + call.slot_counts_at),
        call.slot_count_bytes / 4);
  fetch(call.ops, ops, 1);
  bring_here(call, here);
  const uint32_t first = *call.number * static_cast<uint32_t>(call.numbers);
  __syncthreads();
  if (warp == kStepWarps) {
    Feed feed(call, linears, shares, shared, barriers);
    __syncthreads();
    return feed.run();
  }
  __syncthreads();
  Ring ring(call, shared + warp * call.ring_depth * call.stage_bytes, barriers[warp]);
  const Memory memory{shared + call.scratch_at,
                      reinterpret_cast<float*>(shared + call.sums_at),
                      reinterpret_cast<float*>(shared + call.kept_at),
                      squares,
                      inverse,
                      reinterpret_cast<const uint8_t*>(shared + call.slot_counts_at)};
  for (int i = 0; i < call.op_count; ++i) {
    const StepOp& op = ops[i % 3];
    if (i + 1 < call.op_count) fetch_next(call.ops + i + 1, ops + (i + 1) % 3);
    const uint32_t number = first + static_cast<uint32_t>(i) + 1;
    if (op.is_attention) {
      attend_step<T>(call, op, here, number, memory);
      wait_for_next();
    } else {
      run_linear(call, op, shares, memory, number, ring);
    }
  }
#else
  __trap();  // no bulk copies there; the planner makes no program
#endif
}

template <typename T>
bool launch(cudaStream_t stream, const StepCall& call, int multiprocessors) {
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(step_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostStepShared) == cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors));
  config.blockDim = dim3(kBlockThreads);
  config.dynamicSmemBytes = static_cast<size_t>(call.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once, or none: they wait for each other
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, step_kernel<T>, call) == cudaSuccess;
}

}  // namespace

bool run_step(cudaStream_t stream, const StepCall& call, int multiprocessors) {
  switch (call.kv_type) {
    case KvType::kF16:
      return launch<__half>(stream, call, multiprocessors);
    case KvType::kInt8:
      return launch<int8_t>(stream, call, multiprocessors);
    case KvType::kF8:
      return launch<__nv_fp8_e4m3>(stream, call, multiprocessors);
    default:
      return launch<__nv_bfloat16>(stream, call, multiprocessors);
  }
}

}  // namespace edgewise::cuda
