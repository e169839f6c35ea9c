#include "cli/pipeline.h"

#include <xxhash.h>

#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "base/output_file.h"
#include "formats/companions.h"

#include "models/families.h"
#include "onnx/export.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Names, sizes and times of a directory's files: what a cached stage depends on.
uint64_t fingerprint(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    files[entry.path().filename().string()] =
        fmt::format("{} {}", entry.file_size(), entry.last_write_time().time_since_epoch().count());
  }
  std::string text = fs::weakly_canonical(directory).string();
  for (const auto& [name, state] : files) text += fmt::format("\n{} {}", name, state);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace

fs::path default_cache_dir() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') return fs::path(cache) / "edgewise";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return fs::path(home) / ".cache" / "edgewise";
  return fs::temp_directory_path() / "edgewise-cache";
}

DType parse_float_dtype(const std::string& name, DType fallback) {
  if (name.empty()) return fallback;
  if (name == "fp32" || name == "f32" || name == "float32") return DType::kF32;
  if (name == "fp16" || name == "f16" || name == "float16") return DType::kF16;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  usage_error("--dtype {}: expected fp32, fp16 or bf16", name);
}

fs::path resolve_model(const std::string& name) {
  if (!fs::is_directory(name)) fail(ErrorKind::kIo, "{}: no such directory", name);
  return name;
}

void export_model(const ExportRequest& request) {
  const Checkpoint checkpoint = Checkpoint::open(request.model_dir);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  const DType dtype = request.oracle ? DType::kF32 : parse_float_dtype(request.dtype, checkpoint.dtype());
  const Graph graph = build_decoder(spec, checkpoint, {dtype});
  OutputDirectory out(request.output_dir, "model.onnx");
  export_onnx(graph, out.path(), {request.oracle});
  copy_companions(request.model_dir, out.path());
  out.commit();
}

fs::path ensure_engine(const fs::path& source, const fs::path& cache_dir, const BuildOptions& options) {
  if (fs::exists(source / kEngineFileName)) return source;
  fs::path onnx = source;
  if (!fs::exists(source / "model.onnx")) {
    const fs::path model = resolve_model(source.string());
    onnx = cache_dir / fmt::format("{}-{:016x}-onnx", model.filename().string(), fingerprint(model));
    if (!fs::exists(onnx / "model.onnx")) {
      const auto start = std::chrono::steady_clock::now();
      fs::create_directories(cache_dir);
      export_model({model, onnx, "", false});
      fmt::print(stderr, "export  {:6.1f} s  {} -> {}\n", seconds_since(start), model.string(), onnx.string());
    }
  }
  const uint64_t key = fingerprint(onnx);
  const fs::path engine = cache_dir / fmt::format("engine-{:016x}-{}-b{}-i{}-k{}-{}", key, options.device, options.max_batch_size,
                                                  options.max_input_length, options.kv_capacity, options.kv_policy);
  if (!fs::exists(engine / kEngineFileName)) {
    fs::create_directories(cache_dir);
    const BuildReport report = build_engine(onnx, engine, options);
    fmt::print(stderr, "build   {:6.1f} s  {} -> {} ({:.1f} MB)\n", report.seconds, onnx.string(), engine.string(),
               static_cast<double>(report.engine_bytes) / 1e6);
  }
  return engine;
}

}  // namespace edgewise
