#include "bench/benchmark.h"

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <fstream>

#include "backends/kv_scale.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/seconds.h"
#include "base/tensor.h"
#include "base/thread_pool.h"

namespace edgewise {
namespace {

using Clock = std::chrono::steady_clock;
// Ordinary tokens in no order: content does not change how long a step takes.
std::vector<int32_t> make_prompt(int length, int64_t vocabulary, int salt) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < length; ++i)
    prompt.push_back(static_cast<int32_t>((int64_t{i} * 7919 + salt * 104729 + 17) % vocabulary));
  return prompt;
}

// What a decode step reads: every weight once (of an embedding table a row a token), and the cache so far.
double step_bytes(const Session& session, int batch, double average_length) {
  const Graph& graph = session.graph();
  double bytes = 0;
  for (const Node& node : graph.nodes()) {
    for (const ValueId input : node.inputs) {
      if (input == kNone || !graph.value(input).is_constant()) continue;
      const Value& v = graph.value(input);
      const auto size = static_cast<double>(byte_size(v.dtype, static_cast<size_t>(element_count(v.shape))));
      const bool table = node.op == Op::kEmbedding;
      bytes += table ? size / static_cast<double>(std::max<int64_t>(v.shape.at(0), 1)) * batch : size;
    }
    if (node.op == Op::kAttention) {
      const double window = static_cast<double>(node.integer("window", 0));
      const double length = window > 0 ? std::min(window, average_length) : average_length;
      bytes += 2.0 * static_cast<double>(node.integer("kv_heads")) * length * batch *
               kv_head_bytes(session.info().kv_dtype, node.integer("head_dim"));
    }
  }
  return bytes;
}

// What one run answers, `batch` requests at a time.
std::vector<std::vector<Request>> make_requests(const Session& session, const BenchOptions& options, int batch) {
  std::vector<std::vector<Request>> groups(1);
  const auto add = [&](std::vector<int32_t> prompt, bool whole) {
    if (static_cast<int>(groups.back().size()) == batch) groups.emplace_back();
    Request& request = groups.back().emplace_back();
    request.prompt = std::move(prompt);
    request.max_tokens = options.output_length;
    request.sampling = options.sampling;
    request.ignore_eos = whole;
    if (!options.adapters.empty())
      request.adapter = options.adapters[(groups.back().size() - 1) % options.adapters.size()];
  };
  for (const std::string& text : options.prompts) {
    const OrderedJson messages = OrderedJson::array({{{"role", "user"}, {"content", text}}});
    add(session.has_chat_template() ? session.encode_chat(messages) : session.encode_text(text), false);
  }
  for (int i = 0; options.prompts.empty() && i < batch; ++i)
    add(make_prompt(options.input_length, session.vocabulary(), i), true);
  return groups;
}

BenchPoint measure_point(Session& session, const BenchOptions& options, int batch, double bandwidth) {
  const auto groups = make_requests(session, options, batch);
  std::vector<double> ttft, itl, prefill, decode;
  SpeculationStats before;
  for (int iteration = -options.warmup; iteration < options.iterations; ++iteration) {
    if (iteration == 0) before = session.scheduler().speculation();
    double decoded = 0;
    double decode_seconds = 0;
    for (const auto& requests : groups) {
      const auto completions = session.generate(requests);
      check_interrupted();
      if (iteration < 0) continue;
      double last_first_token = 0;
      double end = 0;
      double prompt_tokens = 0;
      for (const Completion& c : completions) {
        if (c.finish == FinishReason::kError) usage_error("{}", c.error);
        ttft.push_back(c.token_seconds.front());
        for (size_t i = 1; i < c.token_seconds.size(); ++i) itl.push_back(c.token_seconds[i] - c.token_seconds[i - 1]);
        last_first_token = std::max(last_first_token, c.token_seconds.front());
        end = std::max(end, c.token_seconds.back());
        prompt_tokens += c.prompt_tokens;
        decoded += static_cast<double>(c.tokens.size()) - 1;
      }
      prefill.push_back(prompt_tokens / last_first_token);
      decode_seconds += end - last_first_token;
    }
    if (decode_seconds > 0) decode.push_back(decoded / decode_seconds);
  }
  BenchPoint point;
  point.batch = batch;
  point.ttft = summarize(ttft);
  point.itl = summarize(itl);
  point.prefill = summarize(prefill);
  point.decode = summarize(decode);
  point.speculation = session.scheduler().speculation() - before;
  point.bytes_per_step = step_bytes(session, batch, options.input_length + options.output_length / 2.0);
  if (point.itl.median > 0 && !session.speculates())
    point.bandwidth_share = point.bytes_per_step / point.itl.median / bandwidth;
  return point;
}

AdapterCost load_adapters(Session& session, const BenchOptions& options) {
  AdapterCost cost;
  for (const auto& path : options.adapters) {
    const auto start = Clock::now();
    session.adapters().add(path.string(), path);
    cost.load_seconds.push_back(seconds_since(start));
  }
  return cost;
}

// Each in turn, and at once again: the first one follows another adapter, the second one the same.
void measure_switching(Session& session, const BenchOptions& options, AdapterCost& cost) {
  constexpr int kRounds = 200;
  std::vector<std::string> names{""};
  for (const auto& path : options.adapters) names.push_back(path.string());
  Request request;
  request.prompt = {1};
  request.max_tokens = 1;
  const auto seconds_of = [&](const std::string& name) {
    request.adapter = name;
    return session.generate(std::vector{request}).at(0).prefill_seconds;
  };
  std::vector<std::vector<double>> steps(names.size());
  std::vector<double> switched, unswitched;
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < names.size(); ++i) {
      switched.push_back(seconds_of(names[i]));
      unswitched.push_back(seconds_of(names[i]));
      steps[i].push_back(unswitched.back());
    }
  }
  for (const auto& each : steps) cost.step_seconds.push_back(summarize(each).median);
  cost.switched_seconds = summarize(switched).median;
  cost.unswitched_seconds = summarize(unswitched).median;
}

}  // namespace

double measure_bandwidth(int threads) {
  // Several streams a thread keep more cache lines under way than one; the best run is the ceiling.
  constexpr size_t kBytes = size_t{512} << 20;
  constexpr int64_t kStreams = 4;
  constexpr int kRuns = 9;
  const auto buffer = allocate_aligned(kBytes, size_t{2} << 20);
  madvise(buffer.get(), kBytes, MADV_HUGEPAGE);
  auto* words = reinterpret_cast<uint64_t*>(buffer.get());
  constexpr auto kWords = static_cast<int64_t>(kBytes / sizeof(uint64_t));
  ThreadPool pool(threads);
  std::atomic<uint64_t> sink{0};
  pool.run([&](int worker) {
    const Range share = share_of(kWords, worker, pool.size(), 4096);
    for (int64_t i = share.begin; i < share.end; ++i) words[i] = static_cast<uint64_t>(i);
  });
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = Clock::now();
    pool.run([&](int worker) {
      const Range share = share_of(kWords, worker, pool.size(), 4096);
      const int64_t length = (share.end - share.begin) / kStreams;
      uint64_t sums[kStreams][8] = {};
      for (int64_t i = 0; i + 8 <= length; i += 8) {
        for (int64_t s = 0; s < kStreams; ++s) {
          const uint64_t* line = words + share.begin + s * length + i;
          __builtin_prefetch(line + 128);
          for (int64_t j = 0; j < 8; ++j) sums[s][j] += line[j];
        }
      }
      uint64_t sum = 0;
      for (const auto& stream : sums) {
        for (const uint64_t part : stream) sum += part;
      }
      sink += sum;
    });
    best = std::max(best, static_cast<double>(kBytes) / seconds_since(start));
  }
  return best;
}

size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

BenchResult run_benchmark(const std::filesystem::path& engine_dir, const BenchOptions& options) {
  if (options.iterations < 1 || options.output_length < 2 || options.input_length < 1 || options.warmup < 0) {
    usage_error("--iterations and --input_len must be positive, --output_len at least 2, --warmup not negative");
  }
  BenchResult result;
  result.engine = engine_dir.string();
  std::ofstream("/proc/self/clear_refs") << "5";  // peak memory starts afresh, whatever ran before in this process
  const auto start = Clock::now();
  Session session(engine_dir, options.session);
  result.load_seconds = seconds_since(start);
  const EngineInfo& info = session.info();
  if (options.input_length > info.max_input_length || options.input_length + options.output_length > info.kv_capacity) {
    usage_error("{}: built for prompts of {} tokens and {} in all; asked for {} + {}", result.engine,
                info.max_input_length, info.kv_capacity, options.input_length, options.output_length);
  }
  for (const int batch : options.batch_sizes) {
    if (batch < 1 || batch > info.max_batch_size) {
      usage_error("{}: built for batches of 1 to {}, asked for {}", result.engine, info.max_batch_size, batch);
    }
  }
  result.adapters = load_adapters(session, options);
  if (!options.adapters.empty()) measure_switching(session, options, result.adapters);
  Progress progress("bench", static_cast<int64_t>(options.batch_sizes.size()) + 1, "points");
  // Peak memory belongs to the engine alone, so the bandwidth probe with its buffer runs last.
  std::vector<BenchPoint> points;
  for (const int batch : options.batch_sizes) {
    points.push_back(measure_point(session, options, batch, 1));
    progress.advance(1, fmt::format("batch {}", batch));
  }
  result.memory = session.executable().memory();
  result.remark = session.executable().remark();
  result.peak_memory = peak_resident_bytes();
  result.bandwidth = find_backend(info.device).read_bandwidth();
  if (result.bandwidth == 0) result.bandwidth = measure_bandwidth(options.session.threads);
  for (BenchPoint& point : points) point.bandwidth_share /= result.bandwidth;
  result.points = std::move(points);
  return result;
}

}  // namespace edgewise
