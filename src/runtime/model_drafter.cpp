#include "runtime/model_drafter.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "runtime/kv_cache.h"
#include "runtime/sequence.h"

namespace edgewise {

void DraftingOptions::check() const {
  const auto require = [](bool holds, const char* flag, int value, const std::string& range) {
    if (!holds) usage_error("--{} {}: expected {}", flag, value, range);
  };
  require(top_k >= 1 && top_k <= 16, "draftingTopK", top_k, "1 (a chain) to 16");
  require(steps >= 1 && steps <= 32, "draftingStep", steps, "1 to 32");
  require(verify_tokens >= 2 && verify_tokens <= kMostTreeTokens, "verifyTreeSize", verify_tokens,
          fmt::format("2 to {}", kMostTreeTokens));
  if (!(least_chance >= 0 && least_chance < 1)) usage_error("--draftMinP {}: expected 0 to 1", least_chance);
  require((steps - 1) * top_k <= kMostTreeTokens, "draftingStep", steps,
          fmt::format("at most {} with --draftingTopK {}", kMostTreeTokens / top_k + 1, top_k));
}

int DraftingOptions::tokens(int depth) const {
  int all = depth == 0 ? 0 : top_k;
  for (int level = 1; level < depth && all < verify_tokens; ++level) all += top_k * top_k;
  return std::min(all, verify_tokens - 1);
}

ModelDrafter::ModelDrafter(Executable& model, const DraftingOptions& options, const DraftLimits& limits,
                           int step_tokens, std::vector<int32_t> targets, int root)
    : model_(model),
      options_(options),
      least_score_(static_cast<float>(std::log(options.least_chance))),
      hidden_(limits.hidden),
      targets_(std::move(targets)),
      root_(root) {
  const auto sequences = static_cast<size_t>(limits.max_sequences);
  const auto top_k = static_cast<size_t>(options.top_k);
  const auto rows = std::max(static_cast<size_t>(step_tokens), sequences * top_k);
  const auto hidden = static_cast<size_t>(limits.hidden);
  trees_.resize(sequences);
  for (Tree& tree : trees_) {
    tree.candidates.reserve(top_k + static_cast<size_t>(options.steps - 1) * top_k * top_k);
    tree.frontier.reserve(top_k + top_k * top_k);
  }
  order_.reserve(trees_[0].candidates.capacity());
  tokens_.reserve(rows);
  positions_.reserve(rows);
  inputs_.reserve(rows * hidden);
  slices_.reserve(sequences);
  rows_.reserve(sequences * top_k);
  masks_.reserve(sequences * top_k);
  logits_.resize(sequences * top_k * targets_.size());
  outputs_.resize(sequences * top_k * hidden);
}

void ModelDrafter::draft(std::span<const DraftRequest> requests, KvCache& cache) noexcept {
  int depth = 0;
  for (const DraftRequest& request : requests) depth = std::max(depth, request.depth);
  clear_step();
  growing_ = 0;
  catch_up(requests, cache);
  if (!run()) {
    for (const DraftRequest& request : requests) cache.note_followed(request.sequence->pages, 0);
  }
  for (size_t i = 0; i < growing_; ++i) add_children(trees_[i], -1, i);
  for (int level = 1; level < depth && growing_ > 0; ++level) grow(level);
  for (const Tree& tree : trees()) choose(tree);
}

void ModelDrafter::clear_step() noexcept {
  tokens_.clear();
  positions_.clear();
  inputs_.clear();
  slices_.clear();
  rows_.clear();
  masks_.clear();
}

bool ModelDrafter::run() noexcept {
  if (tokens_.empty()) return true;
  const std::span<float> outputs[] = {logits_, outputs_};
  const StepOutputs wanted = StepOutputs(outputs).first(hidden_ > 0 ? 2 : 1);
  if (model_.run({tokens_, positions_, inputs_, slices_, rows_}, wanted) == StepOutcome::kDone) return true;
  growing_ = 0;  // no guesses this time
  return false;
}

void ModelDrafter::start_tree(const DraftRequest& request) noexcept {
  rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
  Tree& tree = trees_[growing_++];
  tree.request = &request;
  tree.candidates.clear();
  tree.frontier.clear();
  tree.slots = 0;
}

// One more level for the trees that want it: the best guesses of the last one, and what the draft model says behind
// them.
void ModelDrafter::grow(int depth) noexcept {
  clear_step();
  for (Tree& tree : std::span(trees_).first(growing_)) {
    std::erase_if(tree.frontier, [&](int32_t) { return tree.request->depth <= depth; });
    if (!tree.frontier.empty()) add_level(tree);
  }
  if (tokens_.empty() || !run()) return;
  size_t row = 0;
  for (Tree& tree : std::span(trees_).first(growing_)) {
    const size_t count = tree.frontier.size();
    for (size_t i = 0; i < count; ++i, ++row) add_children(tree, tree.frontier[i], row);
    tree.frontier.erase(tree.frontier.begin(), tree.frontier.begin() + static_cast<std::ptrdiff_t>(count));
  }
}

// Rows for the best candidates of the frontier, which becomes those.
void ModelDrafter::add_level(Tree& tree) noexcept {
  const Sequence& sequence = *tree.request->sequence;
  const auto better = [&](int32_t a, int32_t b) {
    const float x = tree.candidates[static_cast<size_t>(a)].score;
    const float y = tree.candidates[static_cast<size_t>(b)].score;
    return x > y || (x == y && a < b);
  };
  std::sort(tree.frontier.begin(), tree.frontier.end(), better);
  if (tree.frontier.size() > static_cast<size_t>(options_.top_k))
    tree.frontier.resize(static_cast<size_t>(options_.top_k));
  const int begin = sequence.kv_length + root_;
  const auto count = static_cast<int32_t>(tree.frontier.size());
  SequenceSlice slice{static_cast<int32_t>(tokens_.size()), count, begin + tree.slots, sequence.length(),
                      sequence.pages};
  const size_t first_mask = masks_.size();
  for (const int32_t id : tree.frontier) {
    Candidate& candidate = tree.candidates[static_cast<size_t>(id)];
    candidate.mask = uint64_t{1} << tree.slots++;
    if (candidate.parent >= 0) candidate.mask |= tree.candidates[static_cast<size_t>(candidate.parent)].mask;
    masks_.push_back(candidate.mask);
    rows_.push_back(static_cast<int32_t>(tokens_.size()));
    tokens_.push_back(candidate.token);
    positions_.push_back(begin + candidate.depth - 1);
    const auto from = outputs_.begin() + candidate.hidden * hidden_;
    inputs_.insert(inputs_.end(), from, from + hidden_);
  }
  if (options_.top_k > 1) {
    slice.tree_begin = begin;
    slice.tree = std::span(masks_).subspan(first_mask);
  }
  slices_.push_back(slice);
}

// The best guesses of one row of logits, into the frontier.
void ModelDrafter::add_children(Tree& tree, int32_t parent, size_t row) noexcept {
  const auto logits = std::span(logits_).subspan(row * targets_.size(), targets_.size());
  const auto top_k = static_cast<size_t>(options_.top_k);
  const size_t first = tree.candidates.size();
  const int32_t depth = parent < 0 ? 1 : tree.candidates[static_cast<size_t>(parent)].depth + 1;
  const auto worse = [](const Candidate& a, const Candidate& b) { return a.score > b.score; };
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool full = tree.candidates.size() == first + top_k;
    if (full && logits[i] <= tree.candidates.back().score) continue;
    if (targets_[i] < 0) continue;
    if (full) tree.candidates.pop_back();
    const Candidate candidate{targets_[i], parent, depth, logits[i], static_cast<int32_t>(row), 0};
    const auto begin = tree.candidates.begin() + static_cast<std::ptrdiff_t>(first);
    tree.candidates.insert(std::upper_bound(begin, tree.candidates.end(), candidate, worse), candidate);
  }
  if (tree.candidates.size() == first) return;
  double sum = 0;
  const float largest = tree.candidates[first].score;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const float before = parent < 0 ? 0.0f : tree.candidates[static_cast<size_t>(parent)].score;
  for (size_t i = first; i < tree.candidates.size(); ++i) {
    tree.candidates[i].score += before - largest - static_cast<float>(std::log(sum));
    if (tree.candidates[i].score < least_score_) return tree.candidates.resize(i);
    tree.frontier.push_back(static_cast<int32_t>(i));
  }
}

// The best candidates of all levels. A child is never better than its parent, so they hang together.
void ModelDrafter::choose(const Tree& tree) noexcept {
  DraftTree& draft = tree.request->sequence->draft;
  order_.clear();
  for (size_t i = 0; i < tree.candidates.size(); ++i) order_.push_back(static_cast<int32_t>(i));
  const auto most = static_cast<size_t>(tokens(tree.request->depth));
  if (order_.size() > most) {
    std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
      const float x = tree.candidates[static_cast<size_t>(a)].score;
      const float y = tree.candidates[static_cast<size_t>(b)].score;
      return x > y || (x == y && a < b);
    });
    order_.resize(most);
    std::sort(order_.begin(), order_.end());
  }
  for (const int32_t id : order_) {
    const Candidate& candidate = tree.candidates[static_cast<size_t>(id)];
    const auto parent = std::lower_bound(order_.begin(), order_.end(), candidate.parent);
    draft.add(candidate.token, candidate.parent < 0 ? -1 : static_cast<int32_t>(parent - order_.begin()));
  }
}

}  // namespace edgewise
