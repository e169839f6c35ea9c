#include "backends/cuda/step_shapes.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>

namespace edgewise::cuda {
namespace {

constexpr int kMostColumnsOfX = 5120;  // of four tokens, in shared memory
constexpr int kMostSlots = 31;
constexpr int kMostSums = 255;  // blocks of a warp
// Where whole blocks give every multiprocessor almost the same, sums need not be joined.
constexpr double kEvenEnough = 0.95;

// Of so many chunks with the scales that may go with them.
int stage_bytes(const WeightFormat& format, int chunks) {
  const bool row = format.scaling == Scaling::kRow;
  const int64_t columns = row ? 1 : (chunks * kChunkColumns - 1) / format.block + 2;
  const int64_t scale = row ? 0 : format.scaling == Scaling::kChunks ? 4 : 2;
  return static_cast<int>(chunks * format.chunk_bytes() + columns * kBlockRows * (scale + (format.zeros ? 2 : 0)));
}

StepShape shape_of(std::span<const DeviceWeights> matrices, bool paired) {
  const WeightFormat& format = matrices[0].format;
  StepShape shape;
  shape.encoding = format.encoding;
  shape.scaling = format.scaling;
  shape.zeros = format.zeros;
  shape.paired = paired;
  shape.chunks = static_cast<int32_t>(format.chunks());
  shape.chunk_bytes = static_cast<int32_t>(format.chunk_bytes());
  shape.scale_columns = static_cast<int32_t>(format.scale_columns());
  shape.scale_magic = format.scale_magic();
  shape.even_scales = format.block % (2 * kChunkColumns) == 0;
  shape.stage_chunks = kStageWeights / shape.chunk_bytes;
  while (shape.stage_chunks > 1 && stage_bytes(format, shape.stage_chunks) > kMostStageBytes) --shape.stage_chunks;
  std::ranges::fill(shape.first_block, INT_MAX);
  for (size_t i = 0; i < matrices.size(); ++i) {
    const WeightFormat& f = matrices[i].format;
    shape.first_block[i] = shape.blocks;
    shape.rows[i] = static_cast<int32_t>(f.n);
    shape.blocks += static_cast<int32_t>(f.row_blocks());
    shape.scales_at[i] = static_cast<uint32_t>(f.scales_offset() / 256);
    shape.zeros_at[i] = static_cast<uint32_t>(f.zeros_offset() / 256);
    shape.factors_at[i] = static_cast<uint32_t>(f.factors_offset() / 256);
  }
  return shape;
}

int out_columns(const StepShape& shape) {
  return (shape.paired ? shape.blocks / 2 : shape.blocks) * static_cast<int>(kBlockRows);
}

}  // namespace

int StepShapes::add(std::span<const DeviceWeights> matrices, const Use& use) {
  const StepShape shape = shape_of(matrices, use.paired);
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (std::memcmp(&entry.shape, &shape, sizeof(shape)) == 0 && entry.use.is_head == use.is_head &&
        entry.use.whole_x == use.whole_x)
      return static_cast<int>(i);
  }
  const int bytes = stage_bytes(matrices[0].format, shape.stage_chunks);
  if (bytes > kMostStageBytes || entries_.size() == size_t{kMostShapes}) return -1;
  if (use.paired && (shape.first_block[1] * 2 != shape.blocks || shape.rows[0] != shape.rows[1])) return -1;
  int slices = 1;
  const auto columns = [&] { return (shape.chunks + slices - 1) / slices * static_cast<int>(kChunkColumns); };
  while (columns() > kMostColumnsOfX) ++slices;
  if (slices > 1 && (use.whole_x || use.paired || use.is_head)) return -1;
  int whole = use.paired ? 2 : use.is_head ? 1 : 0;
  if (whole == 0) {
    const double share = static_cast<double>(shape.blocks) / (multiprocessors_ / slices);
    if (share / std::ceil(share) >= kEvenEnough) whole = 1;
  }
  Entry entry;
  entry.shape = shape;
  entry.use = use;
  entry.plan = share_out(shape.blocks, shape.chunks, multiprocessors_, slices, whole);
  if (entry.plan.most_slots > kMostSlots || entry.plan.most_sums > kMostSums) return -1;
  if (entry.plan.most_slots > 1) {
    entry.counts_at = static_cast<int>(slot_counts_.size());
    slot_counts_.insert(slot_counts_.end(), entry.plan.slots.begin(), entry.plan.slots.end());
  }
  const auto words = static_cast<size_t>(entry.plan.most_slots * kMostDecodeTokens * out_columns(shape));
  if (!use.is_head) entry.packets = {packets(words), packets(words)};
  most_columns_ = std::max(most_columns_, columns());
  most_stage_bytes_ = std::max(most_stage_bytes_, bytes);
  entries_.push_back(std::move(entry));
  return static_cast<int>(entries_.size() - 1);
}

Packets StepShapes::next_packets(int number) {
  Entry& entry = entries_[static_cast<size_t>(number)];
  return {entry.packets[static_cast<size_t>(entry.uses++ % 2)], entry.counts_at, out_columns(entry.shape),
          entry.plan.most_slots};
}

Packets StepShapes::attention_packets(int columns) {
  uint64_t*& words = attention_[columns];
  if (words == nullptr) words = packets(static_cast<size_t>(kMostDecodeTokens * columns));
  return {words, -1, columns, 1};
}

uint64_t* StepShapes::partial_packets(int slots, int64_t state) {
  uint64_t*& words = partial_[state];
  if (words == nullptr) words = packets(static_cast<size_t>(slots * kMostDecodeTokens * state));
  return words;
}

uint64_t* StepShapes::packets(size_t count) {
  memory_.emplace_back(count * sizeof(uint64_t), "packets");
  check_cuda(cudaMemset(memory_.back().data(), 0, count * sizeof(uint64_t)), "clear packets");
  return memory_.back().as<uint64_t>();
}

void StepShapes::fill(StepCall& call) {
  std::vector<StepShare> shares;
  std::vector<BlockPart> block_parts;
  for (size_t i = 0; i < entries_.size(); ++i) {
    SharePlan& plan = entries_[i].plan;
    for (StepShare& share : plan.shares) share.parts_at += static_cast<int32_t>(block_parts.size());
    shares.insert(shares.end(), plan.shares.begin(), plan.shares.end());
    block_parts.insert(block_parts.end(), plan.block_parts.begin(), plan.block_parts.end());
    call.shapes[i] = entries_[i].shape;
    call.most_sums = std::max(call.most_sums, plan.most_sums);
  }
  call.shape_count = static_cast<int>(entries_.size());
  call.shares = keep<StepShare>(shares, "shares of a step");
  call.block_parts = keep<BlockPart>(block_parts, "shares of a step");
  slot_counts_.resize((slot_counts_.size() + 3) / 4 * 4);
  call.slot_count_bytes = static_cast<int>(slot_counts_.size());
  if (!slot_counts_.empty()) call.slot_counts = keep<uint8_t>(slot_counts_, "slots of packets");
}

}  // namespace edgewise::cuda
