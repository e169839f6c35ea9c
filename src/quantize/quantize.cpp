#include "quantize/quantize.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "formats/companions.h"
#include "models/adapter.h"
#include "models/families.h"
#include "quantize/block.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

class CheckpointQuantizer {
 public:
  explicit CheckpointQuantizer(const QuantizeRequest& request)
      : request_(request),
        checkpoint_(Checkpoint::open(request.model_dir)),
        spec_(describe_model(checkpoint_.config(), checkpoint_.config_path())),
        graph_(build_decoder(spec_, checkpoint_, {checkpoint_.dtype()})) {}

  QuantizeReport run();

 private:
  void check() const;
  bool wanted(const Node& node) const;
  void quantize_blocks();
  void keep(QuantizedBlock& block);
  void write_channel_scales(const fs::path& directory) const;
  void keep_kv_scales(const std::map<int64_t, KvRange>& ranges);
  std::string module_of(const std::string& name) const;
  Tensor original(const std::string& name) const;
  void write();
  Json config() const;

  const QuantizeRequest& request_;
  Checkpoint checkpoint_;
  DecoderSpec spec_;
  Graph graph_;
  QuantizeReport report_;
  // By checkpoint module: its tensors; a fused module's parts follow each other.
  std::map<std::string, std::vector<WeightCodes>> codes_;
  std::map<std::string, Tensor> kv_scales_;  // by tensor name
  // By module and ".input" or ".output": what its columns were divided by, ones where they were not.
  std::map<std::string, std::vector<float>> channel_scales_;
};

void CheckpointQuantizer::check() const {
  if (checkpoint_.config().contains("quantization_config")) {
    unsupported("{}: the checkpoint is quantized already; start from the float one", checkpoint_.config_path());
  }
  for (const Node& node : graph_.nodes()) {
    if (node.op != Op::kLinear || !wanted(node)) continue;
    const int64_t k = graph_.value(node.inputs[0]).shape[1];
    const int64_t group = request_.scheme.group_size;
    if (group > 0 && k % group != 0) {
      usage_error("{} has {} inputs, which groups of {} do not divide; choose a smaller --group_size", node.name, k,
                  group);
    }
  }
}

// The head only on request; routers never: they are tiny and decide much.
bool CheckpointQuantizer::wanted(const Node& node) const {
  if (node.name == spec_.lm_head) return request_.lm_head;
  return spec_.experts == 0 || !node.name.ends_with("." + spec_.router);
}

std::string CheckpointQuantizer::module_of(const std::string& name) const {
  return checkpoint_.contains(name + ".weight") || name == spec_.lm_head ? name : name.substr(0, name.rfind('.'));
}

void CheckpointQuantizer::keep(QuantizedBlock& block) {
  for (QuantizedBlock::Result& result : block.results()) {
    report_.output_error += std::sqrt(std::max(result.relative_error, 0.0));
    ++report_.linears;
    const std::string module = module_of(result.name);
    const auto scales = [&](const auto& by_name, int64_t count) {
      const auto found = by_name.find(result.name);
      return found != by_name.end() ? found->second : std::vector<float>(static_cast<size_t>(count), 1.0f);
    };
    channel_scales_[module + ".input"] = scales(block.input_scales(), result.codes.k);
    const auto outputs = scales(block.output_scales(), result.codes.n);
    auto& joined = channel_scales_[module + ".output"];
    joined.insert(joined.end(), outputs.begin(), outputs.end());
    codes_[module].push_back(std::move(result.codes));
  }
}

void CheckpointQuantizer::quantize_blocks() {
  const QuantScheme& scheme = request_.scheme;
  const DType dtype = checkpoint_.dtype();
  const auto segments = cut_segments(graph_);
  std::optional<CalibrationRun> calibration;
  if (scheme.needs_calibration() || request_.kv_cache)
    calibration.emplace(graph_, calibration_tokens(request_.model_dir, request_.calibration));
  Progress progress("quantize", static_cast<int64_t>(segments.size()), "blocks");
  for (const Segment& segment : segments) {
    const bool is_head = &segment == &segments.back();
    const auto in_block = [&](const Node& node) { return wanted(node); };
    std::map<ValueId, InputStatistics> statistics;
    // The head is rounded to nearest: its weight may be the embedding's, and its outputs are the logits themselves.
    const bool fitted = scheme.needs_calibration() && !is_head;
    if (fitted) statistics = calibration->observe(segment);
    QuantizedBlock block(graph_, segment, in_block);
    if (fitted && scheme.method != WeightMethod::kGptq) block.fold_channel_scales(statistics, scheme, dtype);
    block.round(statistics, scheme, dtype);
    keep(block);
    if (calibration && !is_head) calibration->advance(segment);
    progress.advance(1, graph_.nodes()[segment.end_node - 1].name);
  }
  if (request_.kv_cache) keep_kv_scales(calibration->kv_ranges());
  if (report_.linears > 0) report_.output_error /= report_.linears;
}

void CheckpointQuantizer::keep_kv_scales(const std::map<int64_t, KvRange>& ranges) {
  const float largest = *request_.kv_cache == DType::kI8 ? 127.0f : 448.0f;
  const std::string attention = spec_.o.substr(0, spec_.o.rfind('.'));
  for (const auto& [layer, range] : ranges) {
    const std::string module = fmt::format("{}{}.{}", spec_.layer_prefix, layer, attention);
    kv_scales_[module + ".k_scale"] = Tensor::from_floats(checkpoint_.dtype(), {1}, std::vector{range.key / largest});
    kv_scales_[module + ".v_scale"] = Tensor::from_floats(checkpoint_.dtype(), {1}, std::vector{range.value / largest});
  }
}

// A float tensor as it goes into the new checkpoint: changed where scales were folded into it.
Tensor CheckpointQuantizer::original(const std::string& name) const {
  const Tensor tensor = checkpoint_.tensor(name);
  const ValueId id = graph_.find_value(name);
  if (id == kNone || tensor.rank() != 1) return tensor;
  auto values = graph_.constant(id).to_floats();
  const bool offset = spec_.norm_offset != 0 && graph_.value(id).dtype == DType::kF32;
  if (offset) {
    for (float& value : values) value -= static_cast<float>(spec_.norm_offset);
  }
  return Tensor::from_floats(tensor.dtype(), tensor.shape(), values);
}

Json CheckpointQuantizer::config() const {
  Json result = checkpoint_.config();
  std::vector<std::string> ignored;
  if (!request_.lm_head) ignored.push_back(spec_.lm_head);
  if (spec_.experts > 0) {
    ignored.push_back("re:.*" + spec_.router + "$");
    ignored.push_back("re:.*" + spec_.expert_prefix + ".*");
  }
  result["quantization_config"] = quantization_config(request_.scheme, ignored, request_.kv_cache);
  if (request_.lm_head) result["tie_word_embeddings"] = false;
  return result;
}

// Beside the checkpoint, for adapters that were made for the float one.
void CheckpointQuantizer::write_channel_scales(const fs::path& directory) const {
  const auto is_one = [](float scale) { return scale == 1.0f; };
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, scales] : channel_scales_) {
    if (!std::ranges::all_of(scales, is_one))
      tensors[name] = Tensor::from_floats(DType::kF32, {static_cast<int64_t>(scales.size())}, scales);
  }
  if (tensors.empty()) return;
  SafetensorsWriter writer(directory / kChannelScalesFile);
  for (const auto& [name, tensor] : tensors) writer.declare(name, tensor.dtype(), tensor.shape());
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
}

void CheckpointQuantizer::write() {
  OutputDirectory out(request_.output_dir, "config.json");
  const DType dtype = checkpoint_.dtype();
  const auto all_codes = [&](const std::string& module) {
    const auto& parts = codes_.at(module);
    WeightCodes joined = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) {
      check_internal(parts[i].global_scale == joined.global_scale, "parts of a fused module have one factor");
      joined.n += parts[i].n;
      joined.codes.insert(joined.codes.end(), parts[i].codes.begin(), parts[i].codes.end());
      joined.scales.insert(joined.scales.end(), parts[i].scales.begin(), parts[i].scales.end());
    }
    return joined;
  };
  // Shapes first, for the header; tensors are packed again when they are written, one module in memory at a time.
  SafetensorsWriter writer(out.path() / "model.safetensors");
  auto names = checkpoint_.tensor_names();
  if (request_.lm_head && !checkpoint_.contains(spec_.lm_head + ".weight")) names.push_back(spec_.lm_head + ".weight");
  const auto for_each_tensor = [&](const std::function<void(const std::string&, const Tensor&)>& visit) {
    for (const std::string& name : names) {
      const std::string module = name.ends_with(".weight") ? name.substr(0, name.size() - 7) : "";
      if (codes_.contains(module)) {
        for (const auto& [key, tensor] : checkpoint_tensors(module, all_codes(module), request_.scheme, dtype))
          visit(key, tensor);
      } else {
        visit(name, original(name));
      }
    }
    for (const auto& [name, scale] : kv_scales_) visit(name, scale);
  };
  for_each_tensor([&](const std::string& name, const Tensor& tensor) {
    writer.declare(name, tensor.dtype(), tensor.shape());
    report_.bytes_after += tensor.bytes().size();
  });
  for_each_tensor([&](const std::string& name, const Tensor& tensor) { writer.write(name, tensor); });
  writer.commit();
  write_channel_scales(out.path());
  copy_companions(request_.model_dir, out.path());
  write_text_file(out.path() / "config.json", config().dump(2) + "\n");
  out.commit();
}

QuantizeReport CheckpointQuantizer::run() {
  check();
  report_.experts = spec_.experts;
  for (const std::string& name : checkpoint_.tensor_names())
    report_.bytes_before += checkpoint_.tensor(name).bytes().size();
  quantize_blocks();
  write();
  return report_;
}

}  // namespace

QuantizeReport quantize_checkpoint(const QuantizeRequest& request) { return CheckpointQuantizer(request).run(); }

}  // namespace edgewise
