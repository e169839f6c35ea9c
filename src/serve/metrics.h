// Counters and histograms in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/).
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

#include "runtime/service.h"

namespace edgewise {

class Metrics {
 public:
  // One ended answer; from any thread.
  void note(const Completion& completion);
  std::string text(const ServiceStats& stats) const;

 private:
  static constexpr std::array<double, 14> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                     0.25,  0.5,    1,     2.5,  5,     10,   30};
  struct Histogram {
    std::array<uint64_t, kBounds.size()> counts{};  // up to each bound
    uint64_t count = 0;
    double sum = 0;

    void note(double seconds);
    void print(std::string& out, std::string_view name, std::string_view help) const;
  };

  mutable std::mutex mutex_;
  Histogram first_token_;
  Histogram between_tokens_;
  Histogram queue_;
};

}  // namespace edgewise
