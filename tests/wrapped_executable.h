// An executable around another one, for tests that change what its steps do.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/backend.h"

namespace edgewise {

class WrappedExecutable : public Executable {
 public:
  explicit WrappedExecutable(Executable& inner) : inner_(inner) {}
  void copy_slots(std::span<const SlotCopy> copies) noexcept override { inner_.copy_slots(copies); }
  std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter) const override {
    return inner_.pack_adapter(adapter);
  }
  using Executable::add_adapter;
  void add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) override {
    inner_.add_adapter(id, std::move(adapter));
  }
  void remove_adapter(int32_t id) noexcept override { inner_.remove_adapter(id); }
  MemoryUse memory() const override { return inner_.memory(); }
  size_t page_bytes() const override { return inner_.page_bytes(); }
  void read_page(int32_t page, std::span<std::byte> to) const override { inner_.read_page(page, to); }
  void write_page(int32_t page, std::span<const std::byte> from) override { inner_.write_page(page, from); }
  void set_profiling(bool on) override { inner_.set_profiling(on); }
  std::vector<double> take_profile() override { return inner_.take_profile(); }
  void observe(NodeObserver observer) override { inner_.observe(std::move(observer)); }

 protected:
  Executable& inner_;
};

// Leaves nothing of the logits of rows that were to give their token only, or makes no choices at all.
class PickyExecutable final : public WrappedExecutable {
 public:
  PickyExecutable(Executable& inner, int64_t vocabulary, bool picks)
      : WrappedExecutable(inner), vocabulary_(static_cast<size_t>(vocabulary)), picks_(picks) {}
  int picked = 0;
  int drawn = 0;
  int kept = 0;

  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override {
    if (!picks_) return inner_.run(input, outputs);
    const std::vector<int32_t> asked(chosen.begin(), chosen.end());
    const StepOutcome outcome = inner_.run(input, outputs, chosen);
    for (size_t row = 0; row < chosen.size(); ++row) {
      ++(chosen[row] < 0 ? kept : asked[row] == kDraw ? drawn : picked);
      if (chosen[row] >= 0) std::ranges::fill(outputs[0].subspan(row * vocabulary_, vocabulary_), NAN);
    }
    return outcome;
  }

 private:
  size_t vocabulary_;
  bool picks_;
};

}  // namespace edgewise
