// Any bytes as an adapter, its configuration up to the first zero byte and its matrices behind that, and those also as
// the channel scales of another one: an error, or something that fits a graph or not.
#include <algorithm>

#include "base/error.h"
#include "base/fuzz_file.h"
#include "models/adapter.h"

namespace edgewise {
namespace {

// A module under its own name, one in parts in one Linear, and one with its columns in another order.
Graph small_graph() {
  constexpr std::string_view kText = R"(graph g
input %hidden_states : f32[tokens, 2]
const %w : f32[2, 2]
const %order : i32[2]
%plain = linear(%hidden_states, %w, %none, %none, %none) {transposed=1} : f32[tokens, 2]
%fused:0, %fused:1 = linear(%plain, %w, %none, %none, %none, %w, %none, %none, %none) {modules="m.gate m.up", transposed=1} : f32[tokens, 2]
%gather = gather_columns(%fused:0, %order) : f32[tokens, 2]
%last = linear(%gather, %w, %none, %none, %none) {transposed=1} : f32[tokens, 2]
output %last
)";
  Graph graph = parse_graph(kText);
  graph.value(graph.find_value("order")).constant = [] {
    return Tensor::from_floats(DType::kI32, {2}, std::vector<float>{1, 0});
  };
  return graph;
}

template <typename Function>
void allow_errors(const Function& function) {
  try {
    function();
  } catch (const Error&) {
  }
}

}  // namespace
}  // namespace edgewise

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  static const auto directory = fuzz_path("adapter_fuzz");
  static const Graph graph = small_graph();
  std::filesystem::create_directories(directory);
  const auto matrices = directory / "adapter_model.safetensors";
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(text.find('\0'), size);
  write_fuzz_file(directory / "adapter_config.json", text.substr(0, end));
  write_fuzz_file(matrices, text.substr(std::min(end + 1, size)));
  allow_errors([&] { (void)bind_adapter(graph, read_adapter(directory)); });
  allow_errors([&] {
    Adapter other = {{"m", {Tensor::zeros(DType::kF32, {1, 2}), Tensor::zeros(DType::kF32, {3, 1})}}};
    follow_channel_scales(matrices, other);
  });
  return 0;
}
