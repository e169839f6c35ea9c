#include "compiler/build.h"

#include <algorithm>
#include <chrono>

#include "backends/backend.h"
#include "base/error.h"
#include "base/output_file.h"
#include "compiler/draft_head.h"
#include "compiler/self_test.h"
#include "compiler/tactics.h"
#include "formats/companions.h"
#include "formats/json.h"
#include "onnx/export.h"
#include "onnx/import.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

void check_limits(const BuildOptions& options) {
  const auto positive = [](const char* flag, int value) {
    if (value < 1) usage_error("{} {}: expected a positive number", flag, value);
  };
  positive("--maxBatchSize", options.max_batch_size);
  positive("--maxInputLen", options.max_input_length);
  if (options.kv_capacity < 0) usage_error("--maxKVCacheCapacity {}: expected tokens, or auto", options.kv_capacity);
  if (options.kv_capacity > 0 && options.max_input_length > options.kv_capacity) {
    usage_error("--maxInputLen {} is larger than --maxKVCacheCapacity {}: such a prompt could never be stored",
                options.max_input_length, options.kv_capacity);
  }
  if (options.kv_policy != "linear" && options.kv_policy != "paged") {
    usage_error("--kvCachePolicy {}: expected linear or paged", options.kv_policy);
  }
}

void check_supported(const Graph& graph, const Backend& backend) {
  for (const Node& node : graph.nodes()) {
    if (const auto why = backend.why_unsupported(graph, node)) {
      unsupported("{} \"{}\": the {} backend can't run it: {}", op_name(node.op), node.name, backend.name(), *why);
    }
  }
}

// Copies of the graph share constant loaders, so packing one leaves the other as it was.
Graph pack_graph(const Graph& plain, const Backend& backend) {
  Graph packed = plain;
  for (size_t i = 0; i < packed.nodes().size(); ++i) backend.pack(packed, static_cast<NodeId>(i));
  packed.compact();
  verify_graph(packed);
  return packed;
}

DType kv_dtype_of(const fs::path& onnx_dir, const BuildOptions& options) {
  if (options.kv_dtype) return *options.kv_dtype;
  const fs::path file = onnx_dir / "config.json";
  if (!fs::exists(file)) return DType::kBF16;
  const Json document = read_json_file(file);
  const JsonView config(document, file.string());
  if (!config.has("quantization_config") || !config.at("quantization_config").has("kv_cache_scheme"))
    return DType::kBF16;
  const JsonView scheme = config.at("quantization_config").at("kv_cache_scheme");
  const std::string type = scheme.string("type");
  if (scheme.integer("num_bits") == 8 && (type == "float" || type == "int")) {
    return type == "float" ? DType::kF8E4M3 : DType::kI8;
  }
  unsupported("{}: kv_cache_scheme: num_bits {} of type {}; 8 of float or int is supported, or choose with --kvDtype",
              file.string(), scheme.integer("num_bits"), type);
}

// One graph into one engine file; the report gathers what all files took.
void compile(Graph& plain, const EngineInfo& info, const BuildOptions& options, const fs::path& file,
             BuildReport& report) {
  const Backend& backend = find_backend(options.device);
  report.passes = run_passes(plain, options.disabled_passes);
  if (file.filename() == kEngineFileName) put_out_final_hidden(plain);
  check_supported(plain, backend);
  Graph packed = pack_graph(plain, backend);
  if (options.opt_level > 0) report.kernels_timed += choose_tactics(packed, backend, options.timing_cache);
  report.operators += static_cast<int>(packed.nodes().size());
  report.engine_bytes += write_engine(packed, info, file);
  const double error = self_test_error(plain, read_engine(file), backend);
  const double tolerance = self_test_tolerance(plain, info.kv_dtype);
  if (!(error <= tolerance)) {
    fail(ErrorKind::kInternal,
         "self-test: the logits of {} differ from the reference by {:.2g} (relative), allowed is {:.2g}; the engine "
         "was not written. `--disablePass` and `--optLevel 0` narrow down the cause",
         file.filename().string(), error, tolerance);
  }
  report.self_test_error = std::max(report.self_test_error, error);
}

}  // namespace

BuildReport build_engine(const fs::path& onnx_dir, const fs::path& engine_dir, const BuildOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  check_limits(options);
  const Backend& backend = find_backend(options.device);
  if (!fs::exists(onnx_dir / kModelFile)) {
    fail(ErrorKind::kIo, "{}: no model.onnx; make it with `edgewise export --model_dir MODEL --output_dir {}`",
         onnx_dir.string(), onnx_dir.string());
  }
  BuildReport report;
  const EngineInfo info{fs::absolute(onnx_dir).lexically_normal().filename().string(),
                        options.device,
                        std::string(backend.layout()),
                        machine_fingerprint(),
                        options.max_batch_size,
                        options.max_input_length,
                        options.kv_capacity,
                        options.kv_policy,
                        kv_dtype_of(onnx_dir, options)};
  OutputDirectory out(engine_dir, kEngineFileName);
  Graph model = import_onnx(onnx_dir / kModelFile);
  if (fs::exists(onnx_dir / kDraftFile)) {
    Graph head = import_onnx(onnx_dir / kDraftFile);
    join_draft_head(model, head, (onnx_dir / kDraftFile).string());
    compile(head, info, options, out.path() / kDraftEngineFileName, report);
  }
  compile(model, info, options, out.path() / kEngineFileName, report);
  copy_companions(onnx_dir, out.path());
  if (fs::exists(onnx_dir / kVocabMapFile)) fs::copy_file(onnx_dir / kVocabMapFile, out.path() / kVocabMapFile);
  out.commit();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace edgewise
