#include "bench/memory.h"

#include <algorithm>

#include "base/error.h"
#include "base/proc_memory.h"
#include "runtime/session.h"

namespace edgewise {
namespace {

double megabytes(size_t bytes) { return static_cast<double>(bytes) / 1e6; }

// Code, stacks and heap that only a running engine touches: measured on engines of 40 MB to 1.5 GB.
constexpr size_t kTouchedByRunning = 2'500'000;

// Embedding tables lie in the mapped file, of which a token touches its own row; the kernel then maps the 64 kB around
// it (fault_around_bytes).
size_t unread_table_bytes(const Graph& graph, size_t tokens) {
  constexpr size_t kFaultAround = 64 << 10;
  size_t unread = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kEmbedding) continue;
    const Value& table = graph.value(node.inputs[1]);
    if (graph.use_counts()[static_cast<size_t>(node.inputs[1])] > 1) continue;
    const size_t bytes = byte_size(table.dtype, static_cast<size_t>(element_count(table.shape)));
    unread += bytes - std::min(bytes, tokens * kFaultAround);
  }
  return unread;
}

std::string recommend(const MemoryAnalysis& analysis) {
  const MemoryPoint* best = nullptr;
  for (const MemoryPoint& p : analysis.points) {
    if (p.fits && (best == nullptr || p.batch * p.length >= best->batch * best->length)) best = &p;
  }
  if (best == nullptr) {
    return "nothing of this fits into the free memory; quantize the model (--quantization int4_awq) or shorten the "
           "sequences";
  }
  return fmt::format("--maxBatchSize {} --maxKVCacheCapacity {} takes {:.0f} MB of the {:.0f} MB that are free",
                     best->batch, best->length, megabytes(best->total()), megabytes(analysis.available));
}

}  // namespace

MemoryAnalysis analyze_memory(const std::filesystem::path& engine_dir, const std::vector<int>& batches,
                              const std::vector<int>& lengths, const std::filesystem::path& draft_engine) {
  MemoryAnalysis analysis;
  analysis.engine = engine_dir.string();
  analysis.machine = proc_bytes("meminfo", "MemTotal");
  analysis.available = proc_bytes("meminfo", "MemAvailable");
  const Tokenizer tokenizer = Tokenizer::load(engine_dir / "tokenizer.json");
  const size_t before = proc_bytes("self/status", "VmRSS");
  const Engine engine = read_engine(engine_dir / kEngineFileName);
  const int64_t vocabulary = engine.graph.value(engine.graph.outputs().at(0)).shape.at(1);
  const Backend& backend = find_backend(engine.info.device);
  std::unique_ptr<Engine> draft;
  if (!draft_engine.empty()) {
    draft = load_engine(draft_engine, kEngineFileName);
  } else if (has_draft_head(engine_dir)) {
    draft = load_engine(engine_dir, kDraftEngineFileName);
  }
  const DraftingOptions drafting;
  const int drafted = draft ? drafting.tokens(drafting.steps) : 0;
  for (const int batch : batches) {
    for (const int length : lengths) {
      if (batch < 1 || length < 1) usage_error("batch sizes and sequence lengths must be positive");
      const int rows = batch * (1 + drafted);
      const int slots = draft ? drafting.slots() : 0;
      const LoadOptions load{.max_tokens = std::max(rows, std::min(backend.prefill_chunk(), length)),
                             .max_sequences = batch,
                             .max_rows = rows,
                             .kv_pages = (length + slots + kPageTokens - 1) / kPageTokens * batch,
                             .kv_dtype = engine.info.kv_dtype};
      MemoryPoint point{batch, length, 0, 0, 0, 0, before, false};
      const auto add = [&](const Engine& part, const LoadOptions& options) {
        const MemoryUse use = find_backend(part.info.device).load(part.graph, options)->memory();
        point.weights += use.weights - unread_table_bytes(part.graph, static_cast<size_t>(batch * length));
        point.kv_cache += use.kv_cache;
        point.activations += use.activations;
        point.workspace += use.workspace;
      };
      add(engine, load);
      if (draft) {
        add(*draft,
            draft_engine.empty() ? draft_head_load(load, drafting) : draft_engine_load(load, drafting, draft->info));
      }
      // Logits and the samplers' tables.
      point.program +=
          kTouchedByRunning + (static_cast<size_t>(rows) * sizeof(float) + static_cast<size_t>(batch) * 12) *
                                  static_cast<size_t>(vocabulary);
      point.fits = point.total() <= analysis.available;
      analysis.points.push_back(point);
    }
  }
  analysis.recommendation = recommend(analysis);
  return analysis;
}

OrderedJson to_json(const MemoryAnalysis& a) {
  OrderedJson points = OrderedJson::array();
  for (const MemoryPoint& p : a.points) {
    points.push_back({{"batch_size", p.batch},
                      {"sequence_length", p.length},
                      {"weights_bytes", p.weights},
                      {"kv_cache_bytes", p.kv_cache},
                      {"activation_bytes", p.activations},
                      {"workspace_bytes", p.workspace},
                      {"program_bytes", p.program},
                      {"total_bytes", p.total()},
                      {"fits", p.fits}});
  }
  return {{"engine", a.engine},
          {"machine_bytes", a.machine},
          {"available_bytes", a.available},
          {"points", points},
          {"recommendation", a.recommendation}};
}

std::string to_text(const MemoryAnalysis& a) {
  std::string text = fmt::format("{}: this machine has {:.0f} MB, {:.0f} MB free\n", a.engine, megabytes(a.machine),
                                 megabytes(a.available));
  text += "batch  length   weights  KV cache  activations  workspace  program     total MB\n";
  for (const MemoryPoint& p : a.points) {
    text += fmt::format("{:5}  {:6}  {:8.1f}  {:8.1f}  {:11.1f}  {:9.1f}  {:7.1f}  {:11.1f}{}\n", p.batch, p.length,
                        megabytes(p.weights), megabytes(p.kv_cache), megabytes(p.activations), megabytes(p.workspace),
                        megabytes(p.program), megabytes(p.total()), p.fits ? "" : "  does not fit");
  }
  return text + a.recommendation + "\n";
}

}  // namespace edgewise
