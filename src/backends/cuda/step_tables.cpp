#include "backends/cuda/step_tables.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>

namespace edgewise::cuda {
StepTables::StepTables(const LoadOptions& options, size_t vocabulary, std::vector<TileShape> shapes, int partial_slots)
    : vocabulary_(vocabulary),
      most_sequences_(static_cast<size_t>(options.max_sequences)),
      most_tokens_(options.max_tokens),
      most_rows_(options.max_rows),
      most_pages_(options.max_sequences * options.kv_pages),
      most_tiles_(options.max_tokens + partial_slots),
      partial_slots_(partial_slots),
      shapes_(std::move(shapes)) {
  size_t end = 0;
  const auto place = [&](size_t bytes) {
    const size_t at = end;
    end += (bytes + 15) / 16 * 16;
    return at;
  };
  const auto n = static_cast<size_t>(most_tokens_);
  ranges_ = place(range_count() * sizeof(FetchRange));
  number_ = place(4);
  tokens_ = place(n * 4);
  positions_ = place(n * 4);
  context_ = place(n * 4);
  slots_ = place(n * 4);
  masks_ = place(n * 8);
  logits_rows_ = place(static_cast<size_t>(most_rows_) * 4);
  draws_ = place(static_cast<size_t>(most_rows_) * sizeof(DrawRow));
  changes_ = place(most_changes() * sizeof(LogitChange));
  counts_ = place(shapes_.size() * 4);
  tiles_stride_ = (static_cast<size_t>(most_tiles_) * sizeof(AttendTile) + 15) / 16 * 16;
  tiles_ = place(shapes_.size() * tiles_stride_);
  // A sequence's last tile may have any number of rows.
  int most_prompt_tiles = 0;
  for (const TileShape& shape : shapes_) {
    if (shape.prompt_rows > 0)
      most_prompt_tiles = std::max(most_prompt_tiles, most_tokens_ / shape.prompt_rows + most_tokens_ / kFewRows);
  }
  prompt_stride_ = static_cast<size_t>(most_prompt_tiles) * sizeof(PromptTile);
  prompt_tiles_ = place(shapes_.size() * prompt_stride_);
  pages_ = place(static_cast<size_t>(most_pages_) * 4);
  words_ = (vocabulary + 127) / 128 * 2;
  masked_ranges_ = place((most_sequences_ + 1) * sizeof(FetchRange));
  masked_draws_ = place(static_cast<size_t>(most_rows_) * sizeof(DrawRow));
  allowed_ = place(most_sequences_ * words_ * sizeof(uint64_t));
  masked_.reserve(most_sequences_);
  host_ = PinnedMemory(end, "pinned memory for steps");
  std::memset(host_.data(), 0, end);
  described_.resize(shapes_.size());
  tile_counts_.resize(shapes_.size());
  prompt_counts_.resize(shapes_.size());
  page_begin_.reserve(static_cast<size_t>(options.max_sequences));
}

bool StepTables::fill(const StepInput& input, std::span<int32_t> chosen, Sharing sharing) noexcept {
  ++*host<uint32_t>(number_);
  std::ranges::copy(input.tokens, host<int32_t>(tokens_));
  std::ranges::copy(input.positions, host<int32_t>(positions_));
  std::ranges::copy(input.logits_rows, host<int32_t>(logits_rows_));
  fill_draws(input, chosen);
  page_begin_.clear();
  int pages = 0;
  for (const SequenceSlice& sequence : input.sequences) {
    const int used = (sequence.kv_length + sequence.token_count + kPageTokens - 1) / kPageTokens;
    if (pages + used > most_pages_ || used > static_cast<int>(sequence.page_table.size())) return false;
    page_begin_.push_back(pages);
    std::ranges::copy(sequence.page_table.first(static_cast<size_t>(used)), host<int32_t>(pages_) + pages);
    pages += used;
    for (int i = 0; i < sequence.token_count; ++i) {
      const int row = sequence.first_token + i;
      const int slot = sequence.kv_length + i;
      host<int32_t>(context_)[row] = sequence.context_length;
      host<int32_t>(slots_)[row] =
          sequence.page_table[static_cast<size_t>(slot / kPageTokens)] * kPageTokens + slot % kPageTokens;
      host<uint64_t>(masks_)[row] = sequence.tree.empty() ? 0 : sequence.tree[static_cast<size_t>(i)];
    }
  }
  bucket_ = 1;
  several_pages_ = false;
  whole_tiles_ = true;
  for (size_t shape = 0; shape < shapes_.size(); ++shape) {
    if (!fill_tiles(input, shape, sharing)) return false;
    fill_prompt_tiles(input, shape);
  }
  list_ranges(input.positions.size(), input.logits_rows.size(), static_cast<size_t>(pages));
  return true;
}

// What this step has filled in.
void StepTables::list_ranges(size_t tokens, size_t rows, size_t pages) noexcept {
  auto* range = host<FetchRange>(ranges_);
  const auto add = [&](size_t begin, size_t bytes) {
    *range++ = {static_cast<uint32_t>(begin / 16), static_cast<uint32_t>((begin + bytes + 15) / 16)};
  };
  for (const size_t begin : {tokens_, positions_, context_, slots_}) add(begin, tokens * 4);
  add(number_, 4);
  add(masks_, tokens * 8);
  add(logits_rows_, rows * 4);
  add(draws_, rows * sizeof(DrawRow));
  for (size_t i = 0; i < kChangeRanges; ++i) {
    const size_t begin = change_count_ * i / kChangeRanges;
    add(changes_ + begin * sizeof(LogitChange),
        (change_count_ * (i + 1) / kChangeRanges - begin) * sizeof(LogitChange));
  }
  add(counts_, shapes_.size() * 4);
  add(pages_, pages * 4);
  for (size_t shape = 0; shape < shapes_.size(); ++shape) {
    add(tiles_at(shape), static_cast<size_t>(tile_counts_[shape]) * sizeof(AttendTile));
    add(prompt_tiles_at(shape), static_cast<size_t>(prompt_counts_[shape]) * sizeof(PromptTile));
  }
}

void StepTables::fetch(cudaStream_t stream) const noexcept {
  cuda::fetch(stream, host_.data(), host<const FetchRange>(ranges_), static_cast<int>(range_count()), device_.data());
}

namespace {

// Whether attention_prompt.cu takes a sequence's rows.
bool is_prompt(const SequenceSlice& sequence, const TileShape& shape) {
  return shape.prompt_rows > 0 && sequence.token_count > kFewRows && sequence.tree.empty();
}

}  // namespace

void StepTables::fill_prompt_tiles(const StepInput& input, size_t shape) noexcept {
  auto* const all = host<PromptTile>(prompt_tiles_at(shape));
  const int rows_a_tile = shapes_[shape].prompt_rows;
  int count = 0;
  for (size_t s = 0; s < input.sequences.size(); ++s) {
    const SequenceSlice& sequence = input.sequences[s];
    if (!is_prompt(sequence, shapes_[shape])) continue;
    for (int row = 0; row < sequence.token_count; row += rows_a_tile) {
      all[count++] = {sequence.first_token + row, std::min(rows_a_tile, sequence.token_count - row), page_begin_[s],
                      sequence.position(row)};
    }
  }
  // What takes longest comes first, so that the end finds few at work.
  std::sort(all, all + count, [](const PromptTile& a, const PromptTile& b) { return a.position > b.position; });
  prompt_counts_[shape] = count;
}

bool StepTables::fill_tiles(const StepInput& input, size_t shape, Sharing sharing) noexcept {
  AttendTile* const all = host<AttendTile>(tiles_at(shape));
  const int rows_a_tile = tile_rows(shapes_[shape].group);
  // Wider ranges only where the states of all would not fit.
  for (int widening = 1;; widening *= 2) {
    int count = 0;
    int slots = 0;
    bool fits = true;
    for (size_t s = 0; s < input.sequences.size() && fits; ++s) {
      const SequenceSlice& sequence = input.sequences[s];
      whole_tiles_ = whole_tiles_ && sequence.token_count <= rows_a_tile;
      if (is_prompt(sequence, shapes_[shape])) continue;
      for (int row = 0; row < sequence.token_count && fits; row += rows_a_tile) {
        AttendTile tile = {};
        tile.first_row = sequence.first_token + row;
        tile.rows = std::min(rows_a_tile, sequence.token_count - row);
        tile.page_table = page_begin_[s];
        tile.position = sequence.position(row);
        tile.sequence_row = sequence.first_token;
        tile.sequence_rows = sequence.token_count;
        tile.kv_length = sequence.kv_length;
        tile.tree_begin = sequence.tree.empty() ? INT_MAX : sequence.tree_begin;
        const int last_slot =
            sequence.tree.empty() ? sequence.kv_length + row + tile.rows : sequence.kv_length + sequence.token_count;
        const int pages = (last_slot + kPageTokens - 1) / kPageTokens;
        const int width = sequence.token_count <= kFewRows ? widening * sharing.pages_of(pages) : pages;
        tile.splits = (pages + width - 1) / width;
        several_pages_ = several_pages_ || width > 1;
        tile.first_slot = slots;
        if (tile.splits > 1) slots += tile.splits;
        fits = slots <= partial_slots_ && count + tile.splits <= most_tiles_;
        for (int split = 0; split < tile.splits && fits; ++split, ++count) {
          tile.page_begin = split * width;
          tile.page_end = std::min(pages, tile.page_begin + width);
          all[count] = tile;
          all[count].slot = tile.first_slot + split;
          const int here = std::min(AttendTile::kPagesHere, tile.page_end - tile.page_begin);
          std::ranges::copy(
              sequence.page_table.subspan(static_cast<size_t>(tile.page_begin), static_cast<size_t>(here)),
              all[count].pages);
        }
      }
    }
    if (!fits && widening > most_pages_) return false;
    if (!fits) continue;
    tile_counts_[shape] = count;
    host<int32_t>(counts_)[shape] = count;
    bucket_ = std::max(bucket_, static_cast<int>(std::bit_ceil(static_cast<unsigned>(count))));
    return true;
  }
}

void StepTables::describe(StepContext& context) noexcept {
  describe(context, bucket_);
  for (size_t shape = 0; shape < shapes_.size(); ++shape) {
    described_[shape].prompt_tiles = device_.as<const PromptTile>(prompt_tiles_at(shape));
    described_[shape].prompt_count = prompt_counts_[shape];
    if (tile_counts_[shape] == 0) described_[shape].most = 0;
  }
}

void StepTables::describe(StepContext& context, int bucket) noexcept {
  context.token_ids = device_.as<const int32_t>(tokens_);
  context.positions = device_.as<const int32_t>(positions_);
  context.context = device_.as<const int32_t>(context_);
  context.slots = device_.as<const int32_t>(slots_);
  context.masks = device_.as<const uint64_t>(masks_);
  context.logits_rows = device_.as<const int32_t>(logits_rows_);
  context.changes = device_.as<const LogitChange>(changes_);
  context.allowed = device_.as<const uint64_t>(allowed_);
  context.draws = device_.as<const DrawRow>(draws_);
  context.pages = device_.as<const int32_t>(pages_);
  for (size_t shape = 0; shape < shapes_.size(); ++shape)
    described_[shape] = {device_.as<const AttendTile>(tiles_at(shape)), device_.as<const int32_t>(counts_) + shape,
                         bucket};
  context.tiles = described_.data();
  context.shapes = shapes_.size();
  context.number = device_.as<const uint32_t>(number_);
}

}  // namespace edgewise::cuda
