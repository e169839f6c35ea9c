#include "cli/pipeline.h"

#include <xxhash.h>

#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "base/output_file.h"
#include "base/seconds.h"
#include "cli/build_flags.h"
#include "cli/quantize_flags.h"
#include "cli/recipe.h"
#include "formats/companions.h"
#include "hub/hub.h"
#include "models/eagle.h"
#include "models/families.h"
#include "models/vocab_map.h"
#include "onnx/export.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

// Names, sizes and times of a directory's files: what a cached stage depends on.
uint64_t fingerprint(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    files[entry.path().filename().string()] =
        fmt::format("{} {}", entry.file_size(), entry.last_write_time().time_since_epoch().count());
  }
  std::string text = fmt::format("{} {}", kEngineVersion, fs::weakly_canonical(directory).string());
  for (const auto& [name, state] : files) text += fmt::format("\n{} {}", name, state);
  return XXH3_64bits(text.data(), text.size());
}

void write_vocabulary_map(const Tensor& map, const fs::path& file) {
  if (map.empty()) return;
  SafetensorsWriter writer(file);
  writer.declare("d2t", map.dtype(), map.shape());
  writer.write("d2t", map);
  writer.commit();
}

}  // namespace

// A recipe's model, quantized into the cache where the recipe says so, as an engine with the recipe's limits.
static fs::path engine_from_recipe(const fs::path& file, const fs::path& cache_dir, BuildOptions options) {
  const Json document = read_recipe(file);
  const JsonView recipe(document, file.string());
  fs::path model = resolve_model(recipe.string("model_dir"));
  if (recipe.has("quantization")) {
    QuantizeFlags flags{recipe.string("quantization"),
                        recipe.string("lm_head", ""),
                        recipe.string("kv_cache", ""),
                        recipe.integer("group_size", 128),
                        {}};
    flags.calibration.samples = static_cast<int>(recipe.integer("calib_size", flags.calibration.samples));
    flags.calibration.dataset = recipe.string("calib_dataset", "");
    const std::string how =
        fmt::format("{} {} {} {} {} {}", flags.quantization, flags.lm_head, flags.kv_cache, flags.group_size,
                    flags.calibration.samples, flags.calibration.dataset.string());
    const fs::path quantized =
        cache_dir / fmt::format("{}-{:016x}-{}-{:08x}", model.filename().string(), fingerprint(model),
                                flags.quantization, XXH3_64bits(how.data(), how.size()) & 0xffffffff);
    if (!fs::exists(quantized / "config.json")) {
      fs::create_directories(cache_dir);
      const auto start = std::chrono::steady_clock::now();
      quantize_checkpoint(flags.take(model, quantized));
      fmt::print(stderr, "quantize{:5.1f} s  {} -> {}\n", seconds_since(start), model.string(), quantized.string());
    }
    model = quantized;
  }
  options.max_batch_size = static_cast<int>(recipe.integer("max_batch_size", options.max_batch_size));
  options.max_input_length = static_cast<int>(recipe.integer("max_input_len", options.max_input_length));
  constexpr const char* kCapacity = "max_kv_cache_capacity";
  if (recipe.has(kCapacity) && recipe.at(kCapacity).value().is_string())
    options.kv_capacity = parse_kv_capacity(recipe.string(kCapacity));
  else
    options.kv_capacity = static_cast<int>(recipe.integer(kCapacity, options.kv_capacity));
  options.kv_policy = recipe.string("kv_cache_policy", options.kv_policy);
  options.device = recipe.string("device", options.device);
  options.timing_cache = recipe.string("timing_cache", options.timing_cache.string());
  options.opt_level = static_cast<int>(recipe.integer("opt_level", options.opt_level));
  if (recipe.has("kv_dtype")) options.kv_dtype = parse_kv_dtype(recipe.string("kv_dtype"));
  return ensure_engine(model, cache_dir, options, recipe.string("dtype", ""));
}

void load_adapter(Session& session, const std::string& name, const fs::path& path) {
  const auto start = std::chrono::steady_clock::now();
  const size_t modules = session.adapters().add(name, path);
  fmt::print(stderr, "adapter {}: {} modules matched, loaded in {:.0f} ms\n", name, modules,
             seconds_since(start) * 1e3);
  if (const auto doubt = session.adapter_warning(); !doubt.empty())
    fmt::print(stderr, "warning: adapter {}: {}\n", name, doubt);
}

fs::path default_cache_dir() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0')
    return fs::path(cache) / "edgewise";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0')
    return fs::path(home) / ".cache" / "edgewise";
  return fs::temp_directory_path() / "edgewise-cache";
}

DType parse_float_dtype(const std::string& name, DType fallback) {
  if (name.empty()) return fallback;
  if (name == "fp32" || name == "f32" || name == "float32") return DType::kF32;
  if (name == "fp16" || name == "f16" || name == "float16") return DType::kF16;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  usage_error("--dtype {}: expected fp32, fp16 or bf16", name);
}

void export_model(const ExportRequest& request) {
  const Checkpoint checkpoint = Checkpoint::open(request.model_dir);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  const DType dtype = request.oracle ? DType::kF32 : parse_float_dtype(request.dtype, checkpoint.dtype());
  DecoderOptions options{dtype};
  const fs::path vocab_map = request.reduced_vocab_dir / kVocabMapFile;
  const bool reduced = !request.reduced_vocab_dir.empty();
  if (reduced) options.kept_tokens = read_vocab_map(vocab_map, spec.vocabulary);
  OutputDirectory out(request.output_dir, kModelFile);
  if (!request.draft_model_dir.empty()) {
    const Checkpoint draft = Checkpoint::open(request.draft_model_dir);
    const EagleHead head = describe_eagle(draft, spec, checkpoint);
    options.hidden_layers = {head.hidden_layers.begin(), head.hidden_layers.end()};
    export_onnx(build_eagle(head, draft, dtype), out.path(), {request.oracle, kDraftFile});
    write_vocabulary_map(head.draft_to_target, out.path() / kDraftVocabularyFile);
  }
  export_onnx(build_decoder(spec, checkpoint, options), out.path(), {request.oracle});
  copy_companions(request.model_dir, out.path());
  if (reduced) fs::copy_file(vocab_map, out.path() / kVocabMapFile);
  out.commit();
}

fs::path ensure_engine(const fs::path& source, const fs::path& cache_dir, const BuildOptions& options,
                       const std::string& dtype) {
  if (source.extension() == ".yaml") return engine_from_recipe(source, cache_dir, options);
  if (fs::exists(source / kEngineFileName)) return source;
  fs::path onnx = source;
  if (!fs::exists(source / kModelFile)) {
    const fs::path model = resolve_model(source.string());
    onnx = cache_dir / fmt::format("{}-{:016x}{}-onnx", model.filename().string(), fingerprint(model), dtype);
    if (!fs::exists(onnx / kModelFile)) {
      const auto start = std::chrono::steady_clock::now();
      fs::create_directories(cache_dir);
      export_model({model, {}, onnx, dtype, false});
      fmt::print(stderr, "export  {:6.1f} s  {} -> {}\n", seconds_since(start), model.string(), onnx.string());
    }
  }
  const uint64_t key = fingerprint(onnx);
  const fs::path engine =
      cache_dir / fmt::format("engine-{:016x}-{}-b{}-i{}-k{}-{}{}-o{}{}", key, options.device, options.max_batch_size,
                              options.max_input_length, options.kv_capacity, options.kv_policy,
                              options.kv_dtype ? dtype_name(*options.kv_dtype) : "", options.opt_level,
                              fmt::join(options.disabled_passes, ""));
  if (!fs::exists(engine / kEngineFileName)) {
    fs::create_directories(cache_dir);
    const BuildReport report = build_engine(onnx, engine, options);
    fmt::print(stderr, "build   {:6.1f} s  {} -> {} ({:.1f} MB)\n", report.seconds, onnx.string(), engine.string(),
               static_cast<double>(report.engine_bytes) / 1e6);
  }
  return engine;
}

}  // namespace edgewise
