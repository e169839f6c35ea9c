// A block's way to a row's token, once weights and their sums are there (draw.cu). Rules ask for a boundary by rank
// three times at most: where top_k ends, where top_p ends, and where the token itself is. What lies between the two
// edges around it is brought to shared memory and put in order; where that is too much, a histogram says between which
// closer ones it lies.
#pragma once

#include "backends/cuda/draw_sums.cuh"

namespace edgewise::cuda {

inline constexpr unsigned kPickThreads = 1024;
inline constexpr unsigned kPickWarps = kPickThreads / 32;
inline constexpr unsigned kHeld = 2 * kPickThreads;
inline constexpr unsigned kBinsEach = 4;  // of a thread
inline constexpr int kBins = static_cast<int>(kBinsEach * kPickThreads);
inline constexpr int kMostShift = 13;  // so that what differs in a bin of 2^19 weights adds up in 32 bits

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

struct PickMemory {
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

// The sum of this thread's value and those of the threads before it.
__device__ inline unsigned long long sum_up_to(unsigned long long value, PickMemory& shared) {
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
  __device__ RowPick(const float* weights, unsigned columns, const RowSums& sums, PickMemory& shared)
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
  PickMemory& shared_;
  unsigned held_ = 0;
  Above held_base_ = {};
};

}  // namespace edgewise::cuda
