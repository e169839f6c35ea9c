#include "backends/backend.h"
#include "backends/reference/executable.h"
#include "base/error.h"

namespace edgewise::reference {
namespace {

// Runs every operator on every machine, slowly and exactly: the oracle.
class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  std::string_view layout() const override { return "reference"; }
  std::optional<std::string> why_unsupported(const Graph&, const Node&) const override { return std::nullopt; }
  void pack(Graph&, NodeId) const override {}  // it reads weights as they are
  std::vector<std::string> kernels(const Graph&, const Node&) const override { return {}; }
  double time_kernel(const Graph&, const Node&, const std::string&, int) const override { return 0; }
  std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const override {
    return std::make_unique<ReferenceExecutable>(graph, options);
  }
};

[[maybe_unused]] const bool kRegistered = [] {
  register_backend(std::make_unique<ReferenceBackend>(), 0);
  return true;
}();

}  // namespace
}  // namespace edgewise::reference
