#include "models/merge_adapter.h"

#include <algorithm>

#include "base/error.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "formats/companions.h"
#include "models/adapter.h"
#include "models/families.h"

namespace edgewise {
namespace {

// base + scale * B A
Tensor merged(const Tensor& base, const LowRank& weights, DType dtype) {
  const int64_t n = base.dim(0);
  const int64_t k = base.dim(1);
  const int64_t rank = weights.a.dim(0);
  auto values = base.to_floats();
  const auto a = weights.a.to_floats();
  const auto b = weights.b.to_floats();
  std::vector<double> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < n; ++i) {
    std::ranges::fill(row, 0.0);
    for (int64_t r = 0; r < rank; ++r) {
      const double factor = double{b[static_cast<size_t>(i * rank + r)]};
      for (int64_t j = 0; j < k; ++j) row[static_cast<size_t>(j)] += factor * double{a[static_cast<size_t>(r * k + j)]};
    }
    for (int64_t j = 0; j < k; ++j) {
      float& value = values[static_cast<size_t>(i * k + j)];
      value = static_cast<float>(double{value} + double{weights.scale} * row[static_cast<size_t>(j)]);
    }
  }
  return Tensor::from_floats(dtype, base.shape(), values);
}

class Merger {
 public:
  explicit Merger(const MergeRequest& request)
      : request_(request),
        checkpoint_(Checkpoint::open(request.model_dir)),
        spec_(describe_model(checkpoint_.config(), checkpoint_.config_path())),
        adapter_(read_adapter(request.adapter_dir)) {}

  size_t run();

 private:
  // The tensor that a module's weight is read from: a tied head has the embedding's.
  std::string source_of(const std::string& module) const {
    const bool tied = module == spec_.lm_head && spec_.tied_embeddings;
    return (tied ? spec_.embedding : module) + ".weight";
  }
  void check() const;
  DType dtype_of(const Tensor& tensor) const {
    return request_.dtype && is_float(tensor.dtype()) ? *request_.dtype : tensor.dtype();
  }
  Tensor result(const std::string& name) const;
  Json config() const;

  const MergeRequest& request_;
  Checkpoint checkpoint_;
  DecoderSpec spec_;
  Adapter adapter_;
};

void Merger::check() const {
  if (checkpoint_.config().contains("quantization_config")) {
    unsupported("{}: the base is quantized; merge into the float checkpoint, then quantize", checkpoint_.config_path());
  }
  std::vector<std::string> unknown;
  for (const auto& [module, weights] : adapter_) {
    if (module == spec_.embedding || !checkpoint_.contains(source_of(module))) {
      unknown.push_back(module);
      continue;
    }
    const Tensor base = checkpoint_.tensor(source_of(module));
    if (base.shape() == Shape{weights.b.dim(0), weights.a.dim(1)}) continue;
    bad_file("{}: {} is [{}, {}], the base has {}", request_.adapter_dir.string(), module, weights.b.dim(0),
             weights.a.dim(1), shape_text(base.shape()));
  }
  if (!unknown.empty()) usage_error("adapter: the base has no Linear called {}", fmt::join(unknown, ", "));
}

Tensor Merger::result(const std::string& name) const {
  constexpr std::string_view kWeight = ".weight";
  const std::string module = name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : "";
  const auto found = adapter_.find(module);
  const Tensor base = checkpoint_.tensor(found == adapter_.end() ? name : source_of(module));
  return found == adapter_.end() ? base.cast(dtype_of(base)) : merged(base, found->second, dtype_of(base));
}

Json Merger::config() const {
  Json result = checkpoint_.config();
  if (adapter_.contains(spec_.lm_head)) result["tie_word_embeddings"] = false;
  if (request_.dtype) {
    result.erase("torch_dtype");
    result["dtype"] = *request_.dtype == DType::kF32   ? "float32"
                      : *request_.dtype == DType::kF16 ? "float16"
                                                       : "bfloat16";
  }
  return result;
}

size_t Merger::run() {
  check();
  auto names = checkpoint_.tensor_names();
  const std::string head = spec_.lm_head + ".weight";
  if (adapter_.contains(spec_.lm_head) && !checkpoint_.contains(head)) names.push_back(head);
  OutputDirectory out(request_.output_dir, "config.json");
  SafetensorsWriter writer(out.path() / "model.safetensors");
  for (const std::string& name : names) {
    const Tensor base = checkpoint_.tensor(checkpoint_.contains(name) ? name : source_of(spec_.lm_head));
    writer.declare(name, dtype_of(base), base.shape());
  }
  Progress progress("merge", static_cast<int64_t>(names.size()), "tensors");
  for (const std::string& name : names) {
    writer.write(name, result(name));
    progress.advance(1, name);
  }
  writer.commit();
  copy_companions(request_.model_dir, out.path());
  write_text_file(out.path() / "config.json", config().dump(2) + "\n");
  out.commit();
  return adapter_.size();
}

}  // namespace

size_t merge_adapter(const MergeRequest& request) { return Merger(request).run(); }

}  // namespace edgewise
