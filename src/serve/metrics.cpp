#include "serve/metrics.h"

#include <fmt/format.h>

namespace edgewise {
namespace {

template <typename T>
void print_value(std::string& out, std::string_view name, std::string_view type, std::string_view help, T value) {
  out += fmt::format("# HELP edgewise_{0} {2}\n# TYPE edgewise_{0} {1}\nedgewise_{0} {3}\n", name, type, help, value);
}

}  // namespace

void Metrics::Histogram::note(double seconds) {
  for (size_t i = 0; i < kBounds.size(); ++i) counts[i] += seconds <= kBounds[i];
  ++count;
  sum += seconds;
}

void Metrics::Histogram::print(std::string& out, std::string_view name, std::string_view help) const {
  out += fmt::format("# HELP edgewise_{0} {1}\n# TYPE edgewise_{0} histogram\n", name, help);
  for (size_t i = 0; i < kBounds.size(); ++i) {
    out += fmt::format("edgewise_{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], counts[i]);
  }
  out += fmt::format("edgewise_{0}_bucket{{le=\"+Inf\"}} {1}\nedgewise_{0}_sum {2}\nedgewise_{0}_count {1}\n", name,
                     count, sum);
}

void Metrics::note(const Completion& completion) {
  if (completion.token_seconds.empty()) return;
  const std::lock_guard lock(mutex_);
  queue_.note(completion.queue_seconds);
  first_token_.note(completion.queue_seconds + completion.token_seconds.front());
  for (size_t i = 1; i < completion.token_seconds.size(); ++i) {
    between_tokens_.note(completion.token_seconds[i] - completion.token_seconds[i - 1]);
  }
}

std::string Metrics::text(const ServiceStats& s) const {
  std::string out;
  print_value(out, "requests_running", "gauge", "Answers that have a slot.", s.running);
  print_value(out, "requests_waiting", "gauge", "Requests in the queue.", s.waiting);
  print_value(out, "cache_pages", "gauge", "Pages of the KV cache, 64 tokens each.", s.pages);
  print_value(out, "cache_pages_available", "gauge", "Pages that a new request could get.", s.pages_available);
  print_value(out, "requests_total", "counter", "Requests taken.", s.requests);
  print_value(out, "requests_refused_total", "counter", "Requests refused because too many waited.", s.refused);
  print_value(out, "requests_completed_total", "counter", "Answers that came to their end.", s.stopped);
  print_value(out, "requests_cancelled_total", "counter", "Answers whose client went away.", s.cancelled);
  print_value(out, "requests_failed_total", "counter", "Answers that a failed step ended.", s.failed);
  print_value(out, "prompt_tokens_total", "counter", "Tokens of prompts.", s.prompt_tokens);
  print_value(out, "cached_tokens_total", "counter", "Tokens of prompts found in the prefix cache.", s.cached_tokens);
  print_value(out, "generated_tokens_total", "counter", "Tokens of answers.", s.generated_tokens);
  print_value(out, "preemptions_total", "counter", "Times a sequence left for want of pages and was computed again.",
              s.preemptions);
  print_value(out, "drafted_tokens_total", "counter", "Tokens tried ahead of the model.", s.drafted_tokens);
  print_value(out, "accepted_tokens_total", "counter", "Of those, what the model said too.", s.accepted_tokens);
  print_value(out, "verifications_total", "counter", "Steps of an answer that tried some.", s.verifications);
  print_value(out, "adapters", "gauge", "Adapters that requests may ask for.", s.adapters.known);
  print_value(out, "adapters_loaded", "gauge", "Of those, in memory.", s.adapters.loaded);
  print_value(out, "adapter_loads_total", "counter", "Times an adapter was read into memory.", s.adapters.loads);
  const std::lock_guard lock(mutex_);
  queue_.print(out, "queue_seconds", "From a request to its slot.");
  first_token_.print(out, "time_to_first_token_seconds", "From a request to its first token (TTFT).");
  between_tokens_.print(out, "inter_token_latency_seconds", "From a token to the next (ITL).");
  return out;
}

}  // namespace edgewise
