// The backend "check": runs the CPU backend and the reference on every operator and stops at the first that differs,
// with its name. `edgewise build --device check`, then `run`: for finding a wrong kernel.
#include <fmt/format.h>

#include <cstdio>

#include "backends/backend.h"
#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise {
namespace {

// Differences travel from operator to operator, so this is what a whole model may gather, not one kernel's rounding.
constexpr double kTolerance = 0.05;

struct BothAdapters : PackedAdapter {
  BothAdapters(std::shared_ptr<const PackedAdapter> r, std::shared_ptr<const PackedAdapter> t)
      : reference(std::move(r)), tested(std::move(t)) {}
  std::shared_ptr<const PackedAdapter> reference;
  std::shared_ptr<const PackedAdapter> tested;
};

class CheckExecutable final : public Executable {
 public:
  CheckExecutable(const Graph& graph, const LoadOptions& options) : packed_(graph) {
    const Backend& tested = find_backend("cpu");
    for (size_t i = 0; i < packed_.nodes().size(); ++i) tested.pack(packed_, static_cast<NodeId>(i));
    packed_.compact();
    reference_ = find_backend("reference").load(graph, options);
    tested_ = tested.load(packed_, options);
    reference_->observe([this](const Node& node, std::span<const Tensor> outputs) {
      expected_[node.name] = {outputs.begin(), outputs.end()};
    });
    tested_->observe([this](const Node& node, std::span<const Tensor> outputs) { compare(node, outputs); });
  }

  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override {
    different_ = false;
    const StepOutcome outcome = reference_->run(input, outputs);
    if (outcome != StepOutcome::kDone) return outcome;
    const StepOutcome tested = tested_->run(input, outputs, chosen);
    return different_ ? StepOutcome::kDeviceFault : tested;
  }
  void copy_slots(std::span<const SlotCopy> copies) noexcept override {
    reference_->copy_slots(copies);
    tested_->copy_slots(copies);
  }
  MemoryUse memory() const override { return tested_->memory(); }
  // A page of each.
  size_t page_bytes() const override { return reference_->page_bytes() + tested_->page_bytes(); }
  void read_page(int32_t page, std::span<std::byte> to) const override {
    reference_->read_page(page, to.first(reference_->page_bytes()));
    tested_->read_page(page, to.subspan(reference_->page_bytes()));
  }
  void write_page(int32_t page, std::span<const std::byte> from) override {
    reference_->write_page(page, from.first(reference_->page_bytes()));
    tested_->write_page(page, from.subspan(reference_->page_bytes()));
  }
  void set_profiling(bool on) override { tested_->set_profiling(on); }
  std::vector<double> take_profile() override { return tested_->take_profile(); }
  std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter) const override {
    return std::make_shared<BothAdapters>(reference_->pack_adapter(adapter), tested_->pack_adapter(adapter));
  }
  using Executable::add_adapter;
  void add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) override {
    const auto& both = static_cast<const BothAdapters&>(*adapter);
    reference_->add_adapter(id, both.reference);
    tested_->add_adapter(id, both.tested);
  }
  void remove_adapter(int32_t id) noexcept override {
    reference_->remove_adapter(id);
    tested_->remove_adapter(id);
  }
  void observe(NodeObserver observer) override { outer_ = std::move(observer); }

 private:
  void compare(const Node& node, std::span<const Tensor> outputs) {
    const auto& expected = expected_.at(node.name);
    for (size_t i = 0; i < outputs.size() && !different_; ++i) {
      const double distance = relative_distance(outputs[i].as<float>(), expected.at(i).as<float>());
      if (distance <= kTolerance) continue;
      different_ = true;
      fmt::print(stderr, "check: {} \"{}\": output {} differs from the reference by {:.2g} (relative, allowed {})\n",
                 op_name(node.op), node.name, i, distance, kTolerance);
    }
    if (outer_) outer_(node, outputs);
  }

  Graph packed_;
  std::unique_ptr<Executable> reference_;
  std::unique_ptr<Executable> tested_;
  std::map<std::string, std::vector<Tensor>> expected_;
  NodeObserver outer_;
  bool different_ = false;
};

// Its engines keep weights unpacked, for both to read.
class CheckBackend final : public Backend {
 public:
  std::string_view name() const override { return "check"; }
  std::string_view layout() const override { return find_backend("reference").layout(); }
  std::optional<std::string> why_unsupported(const Graph& graph, const Node& node) const override {
    return find_backend("cpu").why_unsupported(graph, node);
  }
  void pack(Graph&, NodeId) const override {}
  std::vector<std::string> kernels(const Graph&, const Node&) const override { return {}; }
  double time_kernel(const Graph&, const Node&, const std::string&, int) const override { return 0; }
  std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const override {
    return std::make_unique<CheckExecutable>(graph, options);
  }
};

[[maybe_unused]] const bool kRegistered = [] {
  register_backend(std::make_unique<CheckBackend>(), -1);
  return true;
}();

}  // namespace
}  // namespace edgewise
