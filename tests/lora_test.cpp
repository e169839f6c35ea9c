// Adapters from a checkpoint's names to an engine's operators, through every stage.
#include <gtest/gtest.h>

#include "backends/sequence_runner.h"
#include "base/relative_distance.h"
#include "lora_support.h"
#include "models/adapter.h"
#include "models/merge_adapter.h"
#include "quantize/quantize.h"

namespace edgewise {
namespace {
// Logits of a prompt and of three tokens behind it.
std::vector<float> logits_of(const fs::path& engine_dir, const fs::path& adapter) {
  const Engine engine = read_engine(engine_dir / kEngineFileName);
  const int64_t vocabulary = engine.graph.value(engine.graph.outputs()[0]).shape[1];
  const auto executable = find_backend("cpu").load(
      engine.graph, {.max_tokens = 32, .max_rows = 32, .kv_pages = 1, .kv_dtype = engine.info.kv_dtype, .threads = 2});
  if (!adapter.empty()) {
    Adapter weights = read_adapter(adapter);
    if (fs::exists(engine_dir / kChannelScalesFile)) follow_channel_scales(engine_dir / kChannelScalesFile, weights);
    executable->add_adapter(1, weights);
  }
  SequenceRunner runner(*executable, vocabulary, 32, 40, adapter.empty() ? -1 : 1);
  std::vector<int32_t> prompt;
  for (int i = 0; i < 20; ++i) prompt.push_back(static_cast<int32_t>((i * 37 + 11) % vocabulary));
  std::vector<float> result = runner.append(prompt, 20);
  for (const int32_t token : {5, 77, 9}) {
    const auto logits = runner.append({token});
    result.insert(result.end(), logits.begin(), logits.end());
  }
  return result;
}

// Fused matrices, biases, tied and capped heads, mixtures: the engine with the adapter is the merged checkpoint's.
TEST(Lora, EqualsTheMergedCheckpointInEveryFamily) {
  for (const auto& entry : fs::directory_iterator(kSource / "tests/data/checkpoints")) {
    const fs::path model = entry.path();
    if (Checkpoint::open(model).config().contains("quantization_config")) continue;
    SCOPED_TRACE(model.filename());
    const Workspace work;
    write_adapter(linears_of(model), work / "adapter");
    merge_adapter({model, work / "adapter", work / "merged", DType::kF32});
    const fs::path base = engine_of(model, work / "base", DType::kF32);
    const auto with = logits_of(base, work / "adapter");
    EXPECT_LT(relative_distance(with, logits_of(engine_of(work / "merged", work / "m", DType::kF32), "")), 1e-5);
    EXPECT_GT(relative_distance(with, logits_of(base, "")), 0.05);
  }
}

TEST(Lora, EqualsTheMergedCheckpointOfTheEmbeddedModel) {
  const fs::path model = kSource / "models/edge-tiny-16m";
  for (const std::string name : {"upper", "shakespeare"}) {
    const Workspace work;
    const fs::path adapter = kSource / ("models/edge-tiny-16m-lora-" + name);
    merge_adapter({model, adapter, work / "m32", DType::kF32});
    const auto with = logits_of(engine_of(model, work / "b32", DType::kF32), adapter);
    EXPECT_LT(relative_distance(with, logits_of(engine_of(work / "m32", work / "e32", DType::kF32), "")), 1e-5);
    // The merged checkpoint rounds its weights to bfloat16, the adapter stays apart: that much they may differ.
    merge_adapter({model, adapter, work / "m16", {}});
    const auto with16 = logits_of(engine_of(model, work / "b16", DType::kBF16), adapter);
    const double error = relative_distance(with16, logits_of(engine_of(work / "m16", work / "e16", DType::kBF16), ""));
    EXPECT_LT(error, 1e-2);
  }
}

// SmoothQuant divides inputs by factors that it multiplies into weights; an adapter of the float model must follow.
TEST(Lora, FollowsTheChannelsOfAQuantizedModel) {
  const Workspace work;
  const fs::path model = kSource / "models/edge-tiny-16m";
  const fs::path adapter = kSource / "models/edge-tiny-16m-lora-shakespeare";
  QuantizeRequest request{model, work / "q", scheme_from_name("int8_sq", 128), false, {}, {}};
  request.calibration.samples = 6;
  quantize_checkpoint(request);
  const auto expected = logits_of(engine_of(model, work / "base", DType::kF32), adapter);
  const fs::path engine = engine_of(work / "q", work / "e", DType::kF32);
  EXPECT_LT(relative_distance(logits_of(engine, adapter), expected), 0.1);
  fs::remove(engine / kChannelScalesFile);
  EXPECT_GT(relative_distance(logits_of(engine, adapter), expected), 0.2);
}

}  // namespace
}  // namespace edgewise
