// Tokens drawn from logits on the GPU: the ones that Draw (backends/draw.h) draws on the host, since weights are whole
// numbers whose sums are the same in any order, and a rule says which token a place in them means. Compiled without
// fused multiplications, as the host's part is.
//
// One kernel leaves weights where the logits were, and of each row how many, and how much weight, lie above each of a
// few edges. In the other one a block a row picks its token. Rules ask for a boundary by rank three times at most:
// where top_k ends, where top_p ends, and where the token itself is. What lies between the two edges around it is
// brought to shared memory and put in order; where that is too much, a histogram says between which closer ones it
// lies.
#include <algorithm>
#include <cstddef>

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/draw_weight.h"

namespace edgewise::cuda {
namespace {

constexpr unsigned kWeighThreads = 256;
constexpr int kWeighBlocks = 4;  // on a multiprocessor
constexpr unsigned kPickThreads = 1024;
constexpr unsigned kPickWarps = kPickThreads / 32;
constexpr unsigned kEach = 4;            // values of a chunk in a thread
constexpr unsigned kChunk = 32 * kEach;  // that a warp looks at together
constexpr unsigned kHeld = 2 * kPickThreads;
constexpr int kEdges = 8;
constexpr unsigned kBinsEach = 4;  // of a thread
constexpr int kBins = static_cast<int>(kBinsEach * kPickThreads);
constexpr int kMostShift = 13;  // so that what differs in a bin of 2^19 weights adds up in 32 bits

// Of weights from an edge on.
struct Above {
  unsigned long long mass;
  unsigned count;
  __device__ Above operator+(const Above& other) const { return {mass + other.mass, count + other.count}; }
};

// What one kernel tells the other of a row: zeros between steps. Its chunks follow in memory.
struct RowSums {
  Above above[kEdges];
};
struct ChunkSum {
  unsigned long long mass;
  float largest;
};

// So many of the tokens by rank, or so much weight of them.
struct Goal {
  bool counts;
  unsigned long long amount;
  __device__ unsigned long long of(const Above& above) const { return counts ? above.count : above.mass; }
};

// The last token that a goal asks for: the mass up to it, and the token or, where that is not known yet, which one of
// those of its weight it is, from 1 on.
struct Boundary {
  unsigned long long mass;
  int token;
  float weight;
  unsigned long long number;
};

// Where a goal lies: among `count` weights whose bits are from `low` on and below `high`.
struct Bracket {
  int low, high;
  Above base;  // of those above
  unsigned count;
};

struct Shared {
  union {
    struct {
      unsigned long long keys[kHeld];    // weight and the token's complement
      unsigned long long masses[kHeld];  // of the first ones together
    };
    struct {
      unsigned counts[kBins];  // of bins, the highest first
      unsigned rests[kBins];   // of their weights' bits, the last ones summed up
    };
  };
  Bracket bracket;
  unsigned long long of_warp[kPickWarps];
  unsigned count;
  unsigned begin, end;
  unsigned long long rest;
};

// Digits with the exponent of a weight's bits, as a whole number up to some times kMostWeight.
__device__ inline unsigned long long whole(unsigned long long digits, unsigned bits) {
  return digits << 17 >> min(127 + 40 - (bits >> 23), 63u);
}
__device__ inline unsigned long long digits_of(unsigned bits) { return bits & 0x7fffffu | 0x800000u; }
// By its bits, which is faster than the conversion.
__device__ inline unsigned long long whole(float weight) {
  const unsigned bits = __float_as_uint(weight);
  return whole(digits_of(bits), bits);
}

// They descend: no weight is above the first one, and all but zeros are above the last one.
__device__ inline float edge(int i) {
  constexpr float kFirst[kEdges + 1] = {kMostWeight * 2,        kMostWeight * 0x1p-1f,  kMostWeight * 0x1p-3f,
                                        kMostWeight * 0x1p-6f,  kMostWeight * 0x1p-9f,  kMostWeight * 0x1p-12f,
                                        kMostWeight * 0x1p-16f, kMostWeight * 0x1p-22f, 1.0f};
  return kFirst[i];
}

__device__ inline void add(Above& sum, float weight, unsigned long long mass, float edge) {
  if (weight < edge) return;
  sum.mass += mass;
  ++sum.count;
}

// Of masses below 2^54: halves of 27 bits, so that no sum is too long.
__device__ inline Above sum_of_warp(const Above& sum) {
  const auto low = static_cast<unsigned>(sum.mass) & 0x7ffffffu;
  const auto high = static_cast<unsigned>(sum.mass >> 27);
  return {(static_cast<unsigned long long>(__reduce_add_sync(~0u, high)) << 27) + __reduce_add_sync(~0u, low),
          __reduce_add_sync(~0u, sum.count)};
}

// A warp's chunk, minus infinity behind the end.
struct Chunk {
  float values[kEach];
  unsigned first;  // place of this thread's first one; the others 32 further each

  __device__ Chunk(const float* row, unsigned number, unsigned columns) : first(number * kChunk + threadIdx.x % 32) {
#pragma unroll
    for (unsigned j = 0; j < kEach; ++j) values[j] = place(j) < columns ? __ldcg(row + place(j)) : -INFINITY;
  }
  __device__ unsigned place(unsigned j) const { return first + j * 32; }
};

// Puts weights where the logits were; the block's warps take chunks in turns.
__global__ void __launch_bounds__(kWeighThreads, kWeighBlocks)
    weigh_kernel(float* logits, unsigned columns, const DrawRow* draws, const RowChoice* choices, std::byte* scratch,
                 size_t stride) {
  wait_for_inputs();
  const unsigned row = blockIdx.y;
  const DrawRow rule = draws[row];
  if (rule.inverse == 0 || rule.later) return;
  const float largest = choices[row].logit;
  logits += static_cast<size_t>(row) * columns;
  RowSums& sums = *reinterpret_cast<RowSums*>(scratch + row * stride);
  auto* const chunks = reinterpret_cast<ChunkSum*>(&sums + 1);
  const bool some = rule.most > 0 || rule.top_p < 1;
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  constexpr unsigned kWarps = kWeighThreads / 32;
  __shared__ Above of_block[kEdges];
  if (threadIdx.x < kEdges) of_block[threadIdx.x] = {};
  __syncthreads();
  Above above[kEdges] = {};
  for (unsigned number = blockIdx.x * kWarps + warp; number * kChunk < columns; number += gridDim.x * kWarps) {
    Chunk chunk(logits, number, columns);
    Above all = {};
    float most = 0;
#pragma unroll
    for (unsigned j = 0; j < kEach; ++j) {
      const float power = (chunk.values[j] - largest) * rule.inverse;
      const float weight = where(power >= rule.floor, draw_weight(power));
      if (chunk.place(j) < columns) logits[chunk.place(j)] = weight;
      const unsigned long long mass = whole(weight);
      add(all, weight, mass, 1.0f);
      most = fmaxf(most, weight);
      if (!some || !__any_sync(~0u, weight >= edge(kEdges - 1))) continue;
#pragma unroll
      for (int i = 0; i < kEdges - 1; ++i) add(above[i], weight, mass, edge(i + 1));
    }
    above[kEdges - 1].mass += all.mass;
    above[kEdges - 1].count += all.count;
    const unsigned long long mass = sum_of_warp(all).mass;
    const float largest_weight = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
    if (lane == 0) chunks[number] = {mass, largest_weight};
  }
#pragma unroll
  for (int i = 0; i < kEdges; ++i) {
    const Above sum = sum_of_warp(above[i]);
    if (lane != 0 || sum.count == 0) continue;
    atomicAdd(&of_block[i].mass, sum.mass);
    atomicAdd(&of_block[i].count, sum.count);
  }
  __syncthreads();
  if (threadIdx.x >= kEdges || of_block[threadIdx.x].count == 0) return;
  atomicAdd(&sums.above[threadIdx.x].mass, of_block[threadIdx.x].mass);
  atomicAdd(&sums.above[threadIdx.x].count, of_block[threadIdx.x].count);
}

// The sum of this thread's value and those of the threads before it.
__device__ inline unsigned long long sum_up_to(unsigned long long value, Shared& shared) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const unsigned long long before = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += before;
  }
  __syncthreads();  // of_warp may still be read for the sum before
  if (lane == 31) shared.of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp) value += shared.of_warp[warp];
  return value;
}

// A block's look at a row.
class RowPick {
 public:
  __device__ RowPick(const float* weights, unsigned columns, const RowSums& sums, Shared& shared)
      : weights_(weights),
        columns_(columns),
        chunk_count_((columns + kChunk - 1) / kChunk),
        sums_(sums),
        chunks_(reinterpret_cast<const ChunkSum*>(&sums + 1)),
        shared_(shared) {}

  __device__ int draw_of_all(double uniform) {
    const unsigned each = (chunk_count_ + kPickThreads - 1) / kPickThreads;
    const unsigned begin = min(threadIdx.x * each, chunk_count_);
    const unsigned end = min(begin + each, chunk_count_);
    unsigned long long mine = 0;
    for (unsigned i = begin; i < end; ++i) mine += chunks_[i].mass;
    keep_if_here(mine, place_in(all().mass, uniform) + 1, begin * kChunk, min(end * kChunk, columns_));
    return find([](float weight) { return whole(weight); });
  }

  __device__ int draw_of_some(const DrawRow& rule) {
    unsigned long long mass = all().mass;
    if (rule.most > 0 && static_cast<unsigned>(rule.most) < all().count)
      mass = settle({true, static_cast<unsigned>(rule.most)}).mass;
    if (rule.top_p < 1) mass = settle({false, share_of(mass, rule.top_p)}).mass;
    const Boundary found = settle({false, place_in(mass, rule.uniform) + 1});
    if (found.token >= 0) return found.token;
    if (threadIdx.x == 0) {
      shared_.begin = 0;
      shared_.end = columns_;
      shared_.rest = found.number;
    }
    __syncthreads();
    return find([&](float weight) -> unsigned long long { return weight == found.weight; });
  }

  __device__ Above all() const { return sums_.above[kEdges - 1]; }

 private:
  // Calls `take` with each weight that may be at least `low`, and its place; whole warps take part together.
  template <typename Take>
  __device__ void for_weights(float low, Take take) const {
    const unsigned warp = threadIdx.x / 32;
    const unsigned lane = threadIdx.x % 32;
    for (unsigned first = warp; first < chunk_count_; first += 32 * kPickWarps) {
      const unsigned mine = first + lane * kPickWarps;
      for (unsigned left = __ballot_sync(~0u, mine < chunk_count_ && chunks_[mine].largest >= low); left != 0;
           left &= left - 1) {
        const unsigned number = first + static_cast<unsigned>(__ffs(static_cast<int>(left)) - 1) * kPickWarps;
        const Chunk chunk(weights_, number, columns_);
#pragma unroll
        for (unsigned j = 0; j < kEach; ++j) take(chunk.values[j], chunk.place(j));
      }
    }
  }

  // Of a thread that finds its amount to end between the threads before it and the one behind it.
  __device__ void keep_if_here(unsigned long long mine, unsigned long long amount, unsigned begin, unsigned end) {
    const unsigned long long upto = sum_up_to(mine, shared_);
    if (upto - mine < amount && amount <= upto) {
      shared_.begin = begin;
      shared_.end = end;
      shared_.rest = amount - (upto - mine);
    }
    __syncthreads();
  }

  // The first place of [shared.begin, shared.end) that has shared.rest with those before it.
  template <typename Amount>
  __device__ int find(Amount amount) {
    while (shared_.end - shared_.begin > 1) {
      const unsigned each = (shared_.end - shared_.begin + kPickThreads - 1) / kPickThreads;
      const unsigned begin = min(shared_.begin + threadIdx.x * each, shared_.end);
      const unsigned end = min(begin + each, shared_.end);
      const unsigned long long rest = shared_.rest;
      unsigned long long mine = 0;
      for (unsigned i = begin; i < end; ++i) mine += amount(__ldcg(weights_ + i));
      keep_if_here(mine, rest, begin, end);
    }
    return static_cast<int>(shared_.begin);
  }

  __device__ Boundary settle(Goal goal) {
    if (held_ > 0 && goal.of(held_base_) < goal.amount && goal.of(held_base_) + held_of(goal) >= goal.amount)
      return boundary_in_held(goal);
    __syncthreads();  // what is held has been read
    held_ = 0;
    for (Bracket around = first_bracket(goal);; narrow(around, goal)) {
      if (around.count <= kHeld) {
        hold(around);
        return boundary_in_held(goal);
      }
      if (around.high - around.low > 1) continue;
      // All of them weigh the same.
      const float weight = __int_as_float(around.low);
      const unsigned long long each = goal.counts ? 1 : whole(weight);
      const unsigned long long number = (goal.amount - goal.of(around.base) + each - 1) / each;
      return {around.base.mass + number * whole(weight), -1, weight, number};
    }
  }

  __device__ Bracket first_bracket(Goal goal) const {
    int i = 0;
    while (goal.of(sums_.above[i]) < goal.amount) ++i;
    const unsigned count = sums_.above[i].count;
    const int low = __float_as_int(edge(i + 1));
    // If all above fits, later goals find theirs there too.
    if (i == 0 || count <= kHeld) return {low, __float_as_int(edge(0)), {}, count};
    return {low, __float_as_int(edge(i)), sums_.above[i - 1], count - sums_.above[i - 1].count};
  }

  // Bins are of weights whose bits share all but the last `shift` ones, so that all of a bin have one exponent. Where
  // there are not enough of them, they begin at the upper end.
  __device__ void narrow(Bracket& around, Goal goal) {
    int shift = 0;
    while (shift < kMostShift && ((around.high - 1) >> shift) - (around.low >> shift) >= kBins) ++shift;
    const int top = (around.high - 1) >> shift;
    const int low = max(around.low, (top - kBins + 1) << shift);
    for (unsigned i = threadIdx.x; i < static_cast<unsigned>(kBins); i += kPickThreads)
      shared_.counts[i] = shared_.rests[i] = 0;
    __syncthreads();
    for_weights(__int_as_float(low), [&](float weight, unsigned) {
      const int bits = __float_as_int(weight);
      if (bits < low || bits >= around.high) return;
      const int bin = top - (bits >> shift);
      atomicAdd(&shared_.counts[bin], 1u);
      atomicAdd(&shared_.rests[bin], static_cast<unsigned>(bits & ((1 << shift) - 1)));
    });
    __syncthreads();
    const int first = static_cast<int>(threadIdx.x * kBinsEach);
    Above bins[kBinsEach];
    Above sum = {};
#pragma unroll
    for (int j = 0; j < static_cast<int>(kBinsEach); ++j) {
      const auto bits = static_cast<unsigned>(max(top - first - j, 0) << shift);
      const unsigned count = shared_.counts[first + j];
      bins[j] = {whole(count * digits_of(bits) + shared_.rests[first + j], bits), count};
      sum = sum + bins[j];
    }
    const unsigned long long mass = sum_up_to(sum.mass, shared_);
    const auto count = static_cast<unsigned>(sum_up_to(sum.count, shared_));
    Above above = around.base + Above{mass - sum.mass, count - sum.count};
    if (threadIdx.x == kPickThreads - 1 && goal.of(above + sum) < goal.amount)
      shared_.bracket = {around.low, low, above + sum, around.count - count};
    if (goal.of(above) < goal.amount && goal.amount <= goal.of(above + sum)) {
      int j = 0;
      while (goal.of(above + bins[j]) < goal.amount) above = above + bins[j++];
      const int bin = top - first - j;
      shared_.bracket = {max(low, bin << shift), min(around.high, (bin + 1) << shift), above, bins[j].count};
    }
    __syncthreads();
    around = shared_.bracket;
  }

  // Brings a bracket's weights to shared memory, in order.
  __device__ void hold(const Bracket& around) {
    held_ = around.count;
    held_base_ = around.base;
    unsigned size = 2;
    while (size < held_) size *= 2;
    for (unsigned i = threadIdx.x; i < size; i += kPickThreads) shared_.keys[i] = 0;
    if (threadIdx.x == 0) shared_.count = 0;
    __syncthreads();
    const unsigned lane = threadIdx.x % 32;
    for_weights(__int_as_float(around.low), [&](float weight, unsigned i) {
      const bool mine = __float_as_int(weight) >= around.low && __float_as_int(weight) < around.high;
      const unsigned together = __ballot_sync(~0u, mine);
      if (together == 0) return;
      unsigned first = 0;
      if (lane == 0) first = atomicAdd(&shared_.count, static_cast<unsigned>(__popc(together)));
      first = __shfl_sync(~0u, first, 0) + static_cast<unsigned>(__popc(together & ((1u << lane) - 1)));
      if (mine) shared_.keys[first] = static_cast<unsigned long long>(__float_as_uint(weight)) << 32 | ~i;
    });
    __syncthreads();
    sort(size);
    const unsigned at = 2 * threadIdx.x;
    const unsigned long long a = at < size ? mass_of(at) : 0;
    const unsigned long long b = at < size ? mass_of(at + 1) : 0;
    const unsigned long long upto = sum_up_to(a + b, shared_);
    shared_.masses[at] = upto - b;
    shared_.masses[at + 1] = upto;
    __syncthreads();
  }

  __device__ unsigned long long mass_of(unsigned i) const {
    return whole(__uint_as_float(static_cast<unsigned>(shared_.keys[i] >> 32)));
  }

  // Descending (Batcher's bitonic network).
  __device__ void sort(unsigned size) {
    for (unsigned length = 2; length <= size; length *= 2) {
      for (unsigned gap = length / 2; gap > 0; gap /= 2) {
        const unsigned i = 2 * threadIdx.x - (threadIdx.x & (gap - 1));
        if (i + gap < size) {
          const unsigned long long a = shared_.keys[i];
          const unsigned long long b = shared_.keys[i + gap];
          if (((i & length) == 0) == (a < b)) {
            shared_.keys[i] = b;
            shared_.keys[i + gap] = a;
          }
        }
        __syncthreads();
      }
    }
  }

  __device__ unsigned long long held_of(Goal goal) const { return goal.counts ? held_ : shared_.masses[held_ - 1]; }

  __device__ Boundary boundary_in_held(Goal goal) const {
    const unsigned long long amount = goal.amount - goal.of(held_base_);
    unsigned i = static_cast<unsigned>(amount) - 1;
    if (!goal.counts) {
      i = 0;
      for (unsigned end = held_ - 1; i < end;) {
        const unsigned middle = (i + end) / 2;
        if (shared_.masses[middle] >= amount)
          end = middle;
        else
          i = middle + 1;
      }
    }
    const int token = static_cast<int>(~static_cast<unsigned>(shared_.keys[i]));
    return {held_base_.mass + shared_.masses[i], token, 0, 0};
  }

  const float* weights_;
  unsigned columns_;
  unsigned chunk_count_;
  const RowSums& sums_;
  const ChunkSum* chunks_;
  Shared& shared_;
  unsigned held_ = 0;
  Above held_base_ = {};
};

__global__ void __launch_bounds__(kPickThreads)
    pick_kernel(const float* weights, unsigned columns, const DrawRow* draws, const RowChoice* choices,
                std::byte* scratch, size_t stride, volatile int32_t* tokens) {
  wait_for_inputs();
  const unsigned row = blockIdx.x;
  const DrawRow rule = draws[row];
  if (rule.inverse == 0 || rule.later) return;
  __shared__ Shared shared;
  RowSums& sums = *reinterpret_cast<RowSums*>(scratch + row * stride);
  RowPick pick(weights + static_cast<size_t>(row) * columns, columns, sums, shared);
  int token = choices[row].index;
  if (pick.all().mass > 0)
    token = rule.most > 0 || rule.top_p < 1 ? pick.draw_of_some(rule) : pick.draw_of_all(rule.uniform);
  if (threadIdx.x == 0) tokens[row] = token;
  __syncthreads();
  if (threadIdx.x < kEdges) sums.above[threadIdx.x] = {};
}

}  // namespace

size_t draw_bytes(int columns) {
  return sizeof(RowSums) + (static_cast<size_t>(columns) + kChunk - 1) / kChunk * sizeof(ChunkSum);
}

void draw_rows(cudaStream_t stream, float* logits, int rows, int columns, int multiprocessors, const DrawRow* draws,
               const RowChoice* choices, void* scratch, int32_t* tokens) {
  constexpr int kLeast = static_cast<int>(kWeighThreads * kEach);
  const int blocks = std::min((columns + kLeast - 1) / kLeast, std::max(kWeighBlocks * multiprocessors / rows, 1));
  auto* const bytes = static_cast<std::byte*>(scratch);
  launch(weigh_kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows)), kWeighThreads, 0, stream,
         logits, static_cast<unsigned>(columns), draws, choices, bytes, draw_bytes(columns));
  launch(pick_kernel, dim3(static_cast<unsigned>(rows)), kPickThreads, 0, stream, logits,
         static_cast<unsigned>(columns), draws, choices, bytes, draw_bytes(columns), tokens);
}

}  // namespace edgewise::cuda
