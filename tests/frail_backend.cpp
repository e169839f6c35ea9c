#include "frail_backend.h"

#include <csignal>

#include "backends/backend.h"
#include "wrapped_executable.h"
#ifdef EDGEWISE_FRAIL_CUDA
#include "bad_address.h"
#endif

namespace edgewise {

std::atomic<bool> device_burns{false};

namespace {

struct Owned {
  std::unique_ptr<Executable> executable;
};

class FrailExecutable : Owned, public WrappedExecutable {
 public:
  explicit FrailExecutable(std::unique_ptr<Executable> inner)
      : Owned{std::move(inner)}, WrappedExecutable(*Owned::executable) {}
  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override {
    if (device_burns && !burnt_) burn();
    burnt_ = burnt_ || device_burns;
    return fault().empty() ? inner_.run(input, outputs, chosen) : StepOutcome::kDeviceFault;
  }
  std::string fault() const override { return burnt_ ? kBurntDown : ""; }

 protected:
  virtual void burn() noexcept {}

 private:
  bool burnt_ = false;
};

#ifdef EDGEWISE_FRAIL_CUDA
class FrailGpuExecutable final : public FrailExecutable {
 public:
  using FrailExecutable::FrailExecutable;
  std::string fault() const override { return inner_.fault(); }

 private:
  void burn() noexcept override { write_to_bad_address(); }
};
#endif

template <typename Frail>
class FrailBackend final : public Backend {
 public:
  explicit FrailBackend(std::string inner) : inner_(std::move(inner)), name_("frail-" + inner_) {}
  std::string_view name() const override { return name_; }
  std::string_view layout() const override { return inner().layout(); }
  std::optional<std::string> why_unsupported(const Graph& graph, const Node& node) const override {
    return inner().why_unsupported(graph, node);
  }
  void pack(Graph& graph, NodeId node) const override { inner().pack(graph, node); }
  std::vector<std::string> kernels(const Graph&, const Node&) const override { return {}; }
  double time_kernel(const Graph&, const Node&, const std::string&, int) const override { return 0; }
  std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const override {
    return std::make_unique<Frail>(inner().load(graph, options));
  }

 private:
  const Backend& inner() const { return find_backend(inner_); }

  std::string inner_, name_;
};

const bool registered = [] {
  register_backend(std::make_unique<FrailBackend<FrailExecutable>>("cpu"), -1);
#ifdef EDGEWISE_FRAIL_CUDA
  register_backend(std::make_unique<FrailBackend<FrailGpuExecutable>>("cuda"), -1);
#endif
  std::signal(SIGUSR1, [](int) { device_burns = true; });
  return true;
}();

}  // namespace
}  // namespace edgewise
