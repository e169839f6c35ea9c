// inspect: what a checkpoint, an ONNX file, an engine or an adapter holds.
#include "backends/backend.h"
#include "base/error.h"
#include "cli/command.h"
#include "engine/engine_file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "models/families.h"
#include "onnx/import.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

struct InspectFlags {
  fs::path path;
  bool graph = false;
  bool check = false;
};

double megabytes(uint64_t bytes) { return static_cast<double>(bytes) / 1e6; }

void print_tensors(const std::vector<fs::path>& files) {
  uint64_t total = 0;
  std::map<std::string, uint64_t> by_dtype;
  for (const fs::path& path : files) {
    const auto file = SafetensorsFile::open(path);
    fmt::print("{}\n", path.filename().string());
    for (const auto& [name, tensor] : file.tensors()) {
      fmt::print("  {:<64} {:>7} {}\n", name, dtype_name(tensor.dtype()), shape_text(tensor.shape()));
      total += tensor.bytes().size();
      by_dtype[std::string(dtype_name(tensor.dtype()))] += tensor.bytes().size();
    }
  }
  fmt::print("total {:.1f} MB:", megabytes(total));
  for (const auto& [name, bytes] : by_dtype) fmt::print(" {} {:.1f} MB", name, megabytes(bytes));
  fmt::print("\n");
}

std::vector<fs::path> safetensors_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors" && entry.path().filename() != "golden.safetensors")
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

void print_graph_summary(const Graph& graph, bool text) {
  std::map<std::string, int> counts;
  uint64_t weights = 0;
  for (const Node& node : graph.nodes()) ++counts[std::string(op_name(node.op))];
  for (const Value& value : graph.values()) {
    if (value.is_constant()) weights += byte_size(value.dtype, static_cast<size_t>(element_count(value.shape)));
  }
  fmt::print("{} operators, {:.1f} MB of constants:", graph.nodes().size(), megabytes(weights));
  for (const auto& [name, count] : counts) fmt::print(" {} {}", count, name);
  fmt::print("\n");
  if (text) fmt::print("\n{}", print_graph(graph));
}

void inspect_engine(const fs::path& file, const InspectFlags& flags) {
  const Engine engine = read_engine(file);
  const EngineInfo& info = engine.info;
  const std::string capacity =
      info.kv_capacity > 0 ? fmt::format("{} tokens each", info.kv_capacity) : "as many tokens as fit";
  fmt::print(
      "engine {} ({:.1f} MB)\n  model {}, device {}, layout {}\n  built on {}\n  batch {}, prompts of {} tokens, cache "
      "of {} in {} ({})\n",
      file.string(), megabytes(fs::file_size(file)), info.model, info.device, info.layout, info.machine,
      info.max_batch_size, info.max_input_length, capacity, dtype_name(info.kv_dtype), info.kv_policy);
  const auto executable = find_backend(info.device)
                              .load(engine.graph, {.max_tokens = std::min(info.max_input_length, 256),
                                                   .max_sequences = info.max_batch_size,
                                                   .max_rows = 1,
                                                   .kv_pages = (std::max(info.kv_capacity, 1) + kPageTokens - 1) /
                                                               kPageTokens * info.max_batch_size,
                                                   .kv_dtype = info.kv_dtype});
  const MemoryUse use = executable->memory();
  fmt::print("  memory plan: weights {:.1f} MB, KV cache {:.1f} MB, activations {:.1f} MB, workspace {:.1f} MB\n",
             megabytes(use.weights), megabytes(use.kv_cache), megabytes(use.activations), megabytes(use.workspace));
  std::map<std::string, int> kernels;
  for (const Node& node : engine.graph.nodes()) {
    if (node.has("packed"))
      ++kernels[fmt::format("{} {}", node.text("packed"), node.text("tactics", "default kernel"))];
  }
  for (const auto& [kernel, count] : kernels) fmt::print("  {:4} x {}\n", count, kernel);
  print_graph_summary(engine.graph, flags.graph);
  if (!flags.check) return;
  check_engine_segments(file);
  fmt::print("every checksum holds\n");
}

void inspect_checkpoint(const fs::path& directory, bool graph) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  fmt::print("checkpoint {}\n  model_type {}\n", directory.string(),
             JsonView(checkpoint.config(), checkpoint.config_path()).string("model_type", "(none)"));
  if (checkpoint.config().contains("quantization_config")) {
    const JsonView quantization = JsonView(checkpoint.config(), checkpoint.config_path()).at("quantization_config");
    fmt::print("  quantized: {} {}\n", quantization.string("quant_method", ""), quantization.string("format", ""));
  }
  print_tensors(safetensors_files(directory));
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  print_graph_summary(build_decoder(spec, checkpoint, {checkpoint.dtype()}), graph);
}

int inspect(const InspectFlags& flags) {
  const fs::path& path = flags.path;
  if (!fs::exists(path)) fail(ErrorKind::kIo, "{}: no such file or directory", path.string());
  if (fs::exists(path / kEngineFileName)) {
    inspect_engine(path / kEngineFileName, flags);
    if (fs::exists(path / kDraftEngineFileName)) inspect_engine(path / kDraftEngineFileName, flags);
  } else if (path.extension() == ".engine") {
    inspect_engine(path, flags);
  } else if (fs::exists(path / "model.onnx") || path.extension() == ".onnx") {
    const fs::path file = fs::is_directory(path) ? path / "model.onnx" : path;
    fmt::print("ONNX {}\n", file.string());
    print_graph_summary(import_onnx(file), flags.graph);
  } else if (fs::exists(path / "adapter_config.json")) {
    const Json document = read_json_file(path / "adapter_config.json");
    const JsonView config(document, (path / "adapter_config.json").string());
    fmt::print("adapter {}: {} of rank {}, alpha {}\n", path.string(), config.string("peft_type", "?"),
               config.integer("r", 0), config.number("lora_alpha", 0));
    print_tensors(safetensors_files(path));
  } else if (fs::exists(path / "config.json")) {
    inspect_checkpoint(path, flags.graph);
  } else if (path.extension() == ".safetensors") {
    print_tensors({path});
  } else {
    usage_error("{}: neither a checkpoint, an ONNX model, an engine nor an adapter", path.string());
  }
  return 0;
}

}  // namespace

void add_inspect(Commands& commands) {
  CLI::App& command = commands.add("inspect", "what a checkpoint, ONNX model, engine or adapter holds",
                                   "edgewise inspect out/engine --graph");
  auto flags = std::make_shared<InspectFlags>();
  command.add_option("path", flags->path, "directory or file")->required();
  command.add_flag("--graph", flags->graph, "print the graph as text");
  command.add_flag("--check", flags->check, "read every weight of an engine and compare checksums");
  commands.on_run(command, [flags] { return inspect(*flags); });
}

}  // namespace edgewise
