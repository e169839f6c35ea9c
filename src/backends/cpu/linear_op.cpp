// kLinear.
#include <algorithm>

#include "backends/cpu/low_rank.h"
#include "backends/cpu/packed_matrix.h"
#include "base/error.h"

namespace edgewise::cpu {
namespace {

// From this many tokens on, decoding weights into the cache pays.
constexpr const char* kDefaultTactics = "1:direct,9:blocked";

class LinearOp final : public CpuOp {
 public:
  LinearOp(const BuildContext& context, const Node& node)
      : kernels_(vector_kernels(context.isa)),
        x_(node.inputs[0]),
        outputs_(node.outputs),
        k_(node.integer("k")),
        matrices_(load_matrices(context, node, 1, 4, true, 1)),
        tactics_(node.text("tactics", kDefaultTactics)) {
    const bool rows = context.graph->value(x_).shape[0] == kRows;
    const int most = rows ? context.options->max_rows : context.options->max_tokens;
    const bool wide = wants_wide_rows(context.isa);
    for (const PackedMatrix& matrix : matrices_) {
      panels_ += matrix.format.panels;
      if (!is_integer(matrix.format.encoding) || integer_ != nullptr) continue;
      integer_ = &matrix.format;
      one_ = QuantizedBuffer(matrix.format, 1, wide);
      many_ = QuantizedBuffer(matrix.format, most, wide);
    }
    workspace_ = std::max(one_.bytes() * static_cast<size_t>(context.workers), many_.bytes());
  }
  size_t workspace() const override { return workspace_; }
  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const PackedMatrix& matrix : matrices_) bytes += matrix.weights.bytes().size() + matrix.bias.bytes().size();
    return bytes;
  }

  void run(const StepContext& context, int worker, int workers) noexcept override {
    const int count = context.count(of_rows);
    if (count == 0) return;
    const float* x = context.values[x_];
    const AdapterSet* adapters = context.adapters;
    if (adapters != nullptr && !adapters->touches(node, of_rows)) adapters = nullptr;
    QuantizedRows rows;
    if (count == 1) {
      // Every worker prepares the row for itself: less work than meeting at a barrier.
      if (adapters != nullptr) adapters->multiply_a(node, of_rows, x, k_, {0, 1}, worker);
      if (integer_ != nullptr) {
        rows = one_.at(context.workspace + one_.bytes() * static_cast<size_t>(worker), 0);
        kernels_.quantize_row(*integer_, x, 0, integer_->groups, rows);
      }
    } else if (adapters != nullptr || integer_ != nullptr) {
      if (adapters != nullptr) adapters->multiply_a(node, of_rows, x, k_, share_of(count, worker, workers), 0);
      if (integer_ != nullptr) {
        quantize_share(kernels_, *integer_, x, k_, count, many_, context.workspace, worker, workers);
        rows = many_.at(context.workspace, 0);
      }
      context.pool->barrier();
    }
    // Where there are too few panels for all workers, tokens are dealt out with them.
    int across = 1;
    while (across < workers && panels_ * across < 2 * workers && count >= 16 * (across + 1)) ++across;
    take_panels(*context.pool, across, panels_, [&](int64_t part, Range panels) {
      const Range tokens = share_of(count, static_cast<int>(part), across);
      run_share(context, tokens, panels, rows, count);
      if (adapters != nullptr) add_low_rank(context, tokens, panels, count == 1 ? worker : 0);
    });
  }

 private:
  void run_share(const StepContext& context, Range tokens, Range panels, QuantizedRows rows, int count) noexcept {
    LinearCall call;
    call.tokens = static_cast<int>(tokens.end - tokens.begin);
    call.x = context.values[x_] + tokens.begin * k_;
    call.x_stride = k_;
    const Walk walk = tactics_.walk(count);
    if (integer_ != nullptr) {
      rows.q += tokens.begin * integer_->k_padded;
      if (rows.wide != nullptr) rows.wide += tokens.begin * integer_->k_padded;
      rows.scale += tokens.begin * integer_->groups;
      rows.sum += tokens.begin * integer_->groups;
      call.quantized = rows;
    }
    int64_t first = 0;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const PackedMatrix& matrix = matrices_[i];
      const int64_t begin = std::max<int64_t>(panels.begin - first, 0);
      const int64_t end = std::min(panels.end - first, matrix.format.panels);
      first += matrix.format.panels;
      if (begin >= end) continue;
      call.format = &matrix.format;
      call.weights = matrix.data();
      call.bias = matrix.bias.empty() ? nullptr : matrix.bias.as<float>().data();
      call.out_stride = matrix.format.n;
      call.out = context.values[outputs_[i]] + tokens.begin * call.out_stride;
      call.panel_begin = begin;
      call.panel_end = end;
      matrix.kernel(walk)(call);
    }
  }

  // On the part of the outputs that run_share() has just written.
  void add_low_rank(const StepContext& context, Range tokens, Range panels, int64_t slot) const noexcept {
    int64_t first = 0;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const PackedFormat& format = matrices_[i].format;
      const Range share{std::max<int64_t>(panels.begin - first, 0), std::min(panels.end - first, format.panels)};
      first += format.panels;
      if (share.begin >= share.end) continue;
      context.adapters->add_b(node, of_rows, i, tokens, share, slot, context.values[outputs_[i]], format.n);
    }
  }

  const VectorKernels& kernels_;
  ValueId x_;
  std::vector<ValueId> outputs_;
  int64_t k_;
  std::vector<PackedMatrix> matrices_;
  Tactics tactics_;
  int64_t panels_ = 0;
  const PackedFormat* integer_ = nullptr;  // the format rows are rounded for; equal for all integer parts
  QuantizedBuffer one_;
  QuantizedBuffer many_;
  size_t workspace_ = 0;
};

}  // namespace

Tactics::Tactics(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string entry = text.substr(at, end - at);
    at = end + 1;
    const size_t colon = entry.find(':');
    const std::string name = colon == std::string::npos ? "" : entry.substr(colon + 1);
    if (name != "direct" && name != "blocked")
      bad_file("tactics \"{}\": \"{}\" is not a kernel of this backend", text, entry);
    entries_.push_back({std::atoi(entry.c_str()), name == "direct" ? Walk::kDirect : Walk::kBlocked});
  }
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.tokens < b.tokens; });
}

std::unique_ptr<CpuOp> make_linear_op(const BuildContext& context, const Node& node) {
  return std::make_unique<LinearOp>(context, node);
}

}  // namespace edgewise::cpu
