// Benchmark results as JSON, a Markdown table and SVG charts.
#include <algorithm>

#include "base/error.h"
#include "bench/benchmark.h"

namespace edgewise {

static std::vector<double> in_ms(std::vector<double> seconds) {
  for (double& value : seconds) value *= 1e3;
  return seconds;
}

std::string describe(const SamplingOptions& sampling) {
  const std::string penalty =
      sampling.repetition_penalty == 1 ? "" : fmt::format(", repetition_penalty {}", sampling.repetition_penalty);
  if (sampling.temperature == 0) return "greedy" + penalty;
  return fmt::format("temperature {}, top_p {}, top_k {}{}", sampling.temperature, sampling.top_p, sampling.top_k,
                     penalty);
}

OrderedJson to_json(const BenchResult& r, const BenchOptions& options) {
  OrderedJson points = OrderedJson::array();
  for (const BenchPoint& p : r.points) {
    points.push_back({{"batch_size", p.batch},
                      {"ttft_seconds", to_json(p.ttft)},
                      {"itl_seconds", to_json(p.itl)},
                      {"prefill_tokens_per_second", to_json(p.prefill)},
                      {"decode_tokens_per_second", to_json(p.decode)},
                      {"bytes_per_decode_step", p.bytes_per_step},
                      {"share_of_bandwidth", p.bandwidth_share}});
    if (options.session.guesses()) points.back()["speculation"] = to_json(p.speculation);
  }
  OrderedJson adapters = nullptr;
  if (!options.adapters.empty()) {
    adapters = {{"load_seconds", r.adapters.load_seconds},
                {"step_seconds", r.adapters.step_seconds},
                {"unswitched_step_seconds", r.adapters.unswitched_seconds},
                {"switched_step_seconds", r.adapters.switched_seconds}};
  }
  return {{"engine", r.engine},
          {"input_len", options.input_length},
          {"output_len", options.output_length},
          {"iterations", options.iterations},
          {"sampling",
           {{"temperature", options.sampling.temperature},
            {"top_p", options.sampling.top_p},
            {"top_k", options.sampling.top_k},
            {"repetition_penalty", options.sampling.repetition_penalty}}},
          {"load_seconds", r.load_seconds},
          {"memory_bandwidth_bytes_per_second", r.bandwidth},
          {"peak_memory_bytes", r.peak_memory},
          {"weights_bytes", r.memory.weights},
          {"kv_cache_bytes", r.memory.kv_cache},
          {"remark", r.remark},
          {"adapters", adapters},
          {"points", points}};
}

std::string to_markdown(const std::vector<BenchResult>& results, const BenchOptions& options) {
  std::string text = fmt::format(
      "{} prompt tokens, {} generated, {}, median of {} runs (± half width of the 95% interval of the mean).\n\n"
      "| engine | batch | TTFT ms | ITL ms p50 / p90 / p99 | prefill tok/s | decode tok/s | of bandwidth | load s | "
      "peak MB |\n"
      "|---|---|---|---|---|---|---|---|---|\n",
      options.input_length, options.output_length, describe(options.sampling), options.iterations);
  for (const BenchResult& r : results) {
    for (const BenchPoint& p : r.points) {
      text += fmt::format(
          "| {} | {} | {:.1f} ± {:.1f} | {:.2f} / {:.2f} / {:.2f} | {:.0f} ± {:.0f} | {:.1f} ± {:.1f} | {} | "
          "{:.3f} | {:.0f} |\n",
          r.engine, p.batch, p.ttft.median * 1e3, p.ttft.confidence * 1e3, p.itl.median * 1e3, p.itl.p90 * 1e3,
          p.itl.p99 * 1e3, p.prefill.median, p.prefill.confidence, p.decode.median, p.decode.confidence,
          p.bandwidth_share > 0 ? fmt::format("{:.0f}%", p.bandwidth_share * 100) : "-", r.load_seconds,
          static_cast<double>(r.peak_memory) / 1e6);
    }
  }
  for (const BenchResult& r : results) {
    text += fmt::format("\n{}: memory read at {:.1f} GB/s in the same run", r.engine, r.bandwidth / 1e9);
    for (const BenchPoint& p : r.points)
      text += fmt::format("; batch {} reads {:.1f} MB a step", p.batch, p.bytes_per_step / 1e6);
    if (!r.remark.empty()) text += "; " + r.remark;
    text += ".\n";
    if (options.adapters.empty()) continue;
    text += fmt::format(
        "{}: adapters loaded in {:.1f} ms; a step of one token takes {:.3f} ms without, {:.3f} ms with each; {:.3f} ms "
        "after a step with the same adapter, {:.3f} ms after one with another.\n",
        r.engine, fmt::join(in_ms(r.adapters.load_seconds), ", "), r.adapters.step_seconds.at(0) * 1e3,
        fmt::join(in_ms({r.adapters.step_seconds.begin() + 1, r.adapters.step_seconds.end()}), ", "),
        r.adapters.unswitched_seconds * 1e3, r.adapters.switched_seconds * 1e3);
  }
  if (!options.session.guesses()) return text;
  text +=
      "\n| engine | batch | tokens a verification | tried | right | draft ms | verify ms |\n"
      "|---|---|---|---|---|---|---|\n";
  for (const BenchResult& r : results) {
    for (const BenchPoint& p : r.points) {
      const SpeculationStats& s = p.speculation;
      const auto each = [&](auto total) {
        return static_cast<double>(total) / static_cast<double>(std::max<int64_t>(1, s.verifications));
      };
      text += fmt::format("| {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n", r.engine, p.batch,
                          s.acceptance_length(), each(s.drafted), each(s.accepted), each(s.draft_seconds * 1e3),
                          each(s.verify_seconds * 1e3));
    }
  }
  return text;
}

std::string to_svg(const std::vector<BenchResult>& results, const std::string& title, const std::string& unit,
                   double (*value)(const BenchPoint&)) {
  struct Bar {
    std::string label;
    double value;
  };
  std::vector<Bar> bars;
  double largest = 1e-12;
  for (const BenchResult& r : results) {
    const std::string name = r.engine.substr(r.engine.find_last_of('/') + 1);
    for (const BenchPoint& p : r.points) {
      bars.push_back({fmt::format("{}, batch {}", name, p.batch), value(p)});
      largest = std::max(largest, bars.back().value);
    }
  }
  constexpr int kRow = 28;
  constexpr int kLabel = 260;
  constexpr int kWidth = 420;
  const int height = 48 + kRow * static_cast<int>(bars.size());
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"13\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"12\" y=\"24\" font-size=\"16\" "
      "font-weight=\"bold\">{2}</text>\n",
      kLabel + kWidth + 120, height, title);
  for (size_t i = 0; i < bars.size(); ++i) {
    const int y = 40 + kRow * static_cast<int>(i);
    const double width = bars[i].value / largest * kWidth;
    svg += fmt::format(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"18\" "
        "fill=\"#3b6ea5\"/><text x=\"{:.1f}\" y=\"{}\">{:.4g} {}</text>\n",
        kLabel - 8, y + 14, bars[i].label, kLabel, y, width, kLabel + width + 6, y + 14, bars[i].value, unit);
  }
  return svg + "</svg>\n";
}

}  // namespace edgewise
