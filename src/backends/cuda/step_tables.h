// What kernels have to know of a step, written by the host into pinned memory, from which each step fetches it.
#pragma once

#include <algorithm>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/ops.h"

namespace edgewise::cuda {

// How many pages of a history one block of threads attends over where few rows look at it. Given by the history alone,
// so that what a row computes does not depend on its company.
inline constexpr int kMostSplits = 32;  // of a sequence's history
inline constexpr int kLeastPages = 10;  // of a block of kernels of their own: joining what several found takes as long
struct Sharing {
  int most_splits = kMostSplits;
  int least_pages = kLeastPages;
  int pages_of(int history) const { return std::max((history + most_splits - 1) / most_splits, least_pages); }
  // Blocks that share a history of at most so many pages.
  int splits_up_to(int pages) const { return std::min((pages + least_pages - 1) / least_pages, most_splits); }
};
// Rows of a sequence that are shared out this way; more keep the chip busy by themselves.
inline constexpr int kFewRows = 64;

// Rows of a tile for this many query heads a key head.
inline constexpr int kMostTileRows = 16;
constexpr int tile_rows(int group) { return group >= kMostTileRows ? 1 : kMostTileRows / group; }

class StepTables {
 public:
  // `shapes`: those of the attention operators' tiles.
  StepTables(const LoadOptions& options, size_t vocabulary, std::vector<TileShape> shapes, int partial_slots);

  // False when the step is larger than what was announced. Entries of `chosen` whose rows bring more than there is room
  // for become kKeepLogits.
  bool fill(const StepInput& input, std::span<int32_t> chosen, Sharing sharing) noexcept;
  // To the device, whatever was filled in: a launch that a captured graph may hold.
  void fetch(cudaStream_t stream) const noexcept;
  // Whether rows have masks, for which their tokens have to wait.
  bool any_masks() const noexcept { return !masked_.empty(); }
  // Whether rows draw their tokens, rather than take the best.
  bool any_drawn() const noexcept { return any_drawn_; }
  // Once the masks can be read: those rows, and nothing of others, to the device and into `context`.
  void send_masked(const StepInput& input, StepContext& context) noexcept;
  // Fills in the pointers, and how many tiles there are to launch for.
  void describe(StepContext& context) noexcept;
  // As for a step of so many tiles and no prompt, for a graph to be captured.
  void describe(StepContext& context, int bucket) noexcept;
  // On the device, which place() gives it.
  size_t bytes() const { return host_.size(); }
  void place(DeviceArena& arena) { device_ = arena.take(bytes()); }
  // The most tiles of a shape, rounded up to a power of two: what a captured graph launches.
  int tile_bucket() const noexcept { return bucket_; }
  // Whether some tile has more than one page.
  bool several_pages() const noexcept { return several_pages_; }
  // Whether each sequence's rows are one tile of rows, of every shape.
  bool whole_tiles() const noexcept { return whole_tiles_; }

 private:
  template <typename T>
  T* host(size_t offset) const {
    return host_.as<T>(offset);
  }
  size_t tiles_at(size_t shape) const { return tiles_ + shape * tiles_stride_; }
  size_t prompt_tiles_at(size_t shape) const { return prompt_tiles_ + shape * prompt_stride_; }
  bool fill_tiles(const StepInput& input, size_t shape, Sharing sharing) noexcept;
  void fill_draws(const StepInput& input, std::span<int32_t> chosen) noexcept;
  void fill_prompt_tiles(const StepInput& input, size_t shape) noexcept;
  size_t most_changes() const { return most_sequences_ * kChangesEach; }
  size_t range_count() const { return 10 + kChangeRanges + 2 * shapes_.size(); }
  void list_ranges(size_t tokens, size_t rows, size_t pages) noexcept;

  static constexpr size_t kChangesEach = 2048;  // logits that a sequence may change, on average
  static constexpr size_t kChangeRanges = 4;    // that share them out, as they may be long

  size_t vocabulary_;
  size_t most_sequences_;
  int most_tokens_;
  int most_rows_;
  int most_pages_;
  int most_tiles_;
  int partial_slots_;
  std::vector<TileShape> shapes_;
  // Byte offsets.
  size_t ranges_, number_, tokens_, positions_, context_, slots_, masks_, logits_rows_, draws_, changes_, counts_,
      tiles_, prompt_tiles_, pages_, masked_ranges_, masked_draws_, allowed_;
  size_t words_;                         // of a mask
  size_t tiles_stride_, prompt_stride_;  // from one shape's to the next one's
  PinnedMemory host_;
  DeviceBytes device_;
  std::vector<StepContext::Tiles> described_;
  std::vector<int> tile_counts_, prompt_counts_;
  std::vector<int32_t> page_begin_;  // of each sequence's table
  int bucket_ = 1;
  bool several_pages_ = false;
  bool whole_tiles_ = false;
  bool any_drawn_ = false;
  size_t change_count_ = 0;
  std::vector<size_t> masked_;  // rows
};

}  // namespace edgewise::cuda
