#include "backends/reference/kernels.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace edgewise::reference {
namespace {

double dot(std::span<const float> a, std::span<const float> b) {
  // Eight partial sums, so that the compiler may use vector registers without changing the result.
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= a.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += double{a[i + j]} * double{b[i + j]};
  }
  for (; i < a.size(); ++i) sums[0] += double{a[i]} * double{b[i]};
  return std::accumulate(std::begin(sums), std::end(sums), 0.0);
}

}  // namespace

void linear(ThreadPool& pool, Matrix x, const WeightRows& weight, std::span<const float> bias, Matrix out) {
  constexpr int64_t kRowsAtOnce = 16;
  pool.run([&](int worker) {
    const Range share = share_of(weight.n(), worker, pool.size(), kRowsAtOnce);
    std::vector<float> rows(static_cast<size_t>(kRowsAtOnce * weight.k()));
    for (int64_t n = share.begin; n < share.end; n += kRowsAtOnce) {
      const int64_t end = std::min(n + kRowsAtOnce, share.end);
      const auto block = std::span(rows).first(static_cast<size_t>((end - n) * weight.k()));
      weight.read(n, end, block);
      for (int64_t j = n; j < end; ++j) {
        const auto row = block.subspan(static_cast<size_t>((j - n) * weight.k()), static_cast<size_t>(weight.k()));
        const double offset = bias.empty() ? 0.0 : double{bias[static_cast<size_t>(j)]};
        for (int64_t i = 0; i < x.rows; ++i) out.at(i, j) = static_cast<float>(dot(x.row(i), row) + offset);
      }
    }
  });
}

void low_rank_row(std::span<const float> x, const LowRank& weights, std::span<float> out) {
  const auto a = weights.a.to_floats();
  const auto b = weights.b.to_floats();
  const size_t rank = a.size() / x.size();
  std::vector<float> hidden;
  for (size_t r = 0; r < rank; ++r) {
    hidden.push_back(static_cast<float>(dot(x, std::span(a).subspan(r * x.size(), x.size()))));
  }
  for (size_t j = 0; j < out.size(); ++j) {
    out[j] += static_cast<float>(double{weights.scale} * dot(hidden, std::span(b).subspan(j * rank, rank)));
  }
}

void round_rows_to_int8(Matrix x) {
  for (int64_t i = 0; i < x.rows; ++i) {
    float largest = 0;
    for (const float value : x.row(i)) largest = std::max(largest, std::fabs(value));
    if (largest == 0) continue;
    const float scale = largest / 127.0f;
    for (float& value : x.row(i)) value = std::nearbyint(value / scale) * scale;
  }
}

void embedding(const WeightRows& table, std::span<const int32_t> tokens, Matrix out) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t token = std::clamp<int64_t>(tokens[i], 0, table.n() - 1);
    table.read(token, token + 1, out.row(static_cast<int64_t>(i)));
  }
}

void rms_norm(Matrix x, std::span<const float> weight, double epsilon, Matrix out) {
  const size_t d = weight.size();
  for (size_t first = 0; first < x.data.size(); first += d) {
    double sum = 0;
    for (size_t j = 0; j < d; ++j) sum += double{x.data[first + j]} * double{x.data[first + j]};
    const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(d) + epsilon);
    for (size_t j = 0; j < d; ++j) {
      out.data[first + j] = static_cast<float>(double{x.data[first + j]} * inverse * double{weight[j]});
    }
  }
}

void layer_norm(Matrix x, std::span<const float> weight, std::span<const float> bias, double epsilon, Matrix out) {
  const size_t d = weight.size();
  for (size_t first = 0; first < x.data.size(); first += d) {
    const auto run = x.data.subspan(first, d);
    const double mean = std::accumulate(run.begin(), run.end(), 0.0) / static_cast<double>(d);
    double variance = 0;
    for (const float value : run) variance += (double{value} - mean) * (double{value} - mean);
    const double inverse = 1.0 / std::sqrt(variance / static_cast<double>(d) + epsilon);
    for (size_t j = 0; j < d; ++j) {
      const double shift = bias.empty() ? 0.0 : double{bias[j]};
      out.data[first + j] = static_cast<float>((double{run[j]} - mean) * inverse * double{weight[j]} + shift);
    }
  }
}

void softmax_row(std::span<float> row) {
  const float largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (float& value : row) {
    value = std::exp(value - largest);
    sum += double{value};
  }
  for (float& value : row) value = static_cast<float>(double{value} / sum);
}

void rotary_table_row(int32_t position, std::span<const float> inv_freq, float scale, std::span<float> cos,
                      std::span<float> sin) {
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float angle = static_cast<float>(position) * inv_freq[i];
    cos[i] = static_cast<float>(std::cos(double{angle})) * scale;
    sin[i] = static_cast<float>(std::sin(double{angle})) * scale;
  }
}

void rotary(Matrix x, Matrix cos, Matrix sin, const Node& node, Matrix out) {
  const int64_t head_dim = node.integer("head_dim");
  const int64_t half = node.integer("rotary_dim") / 2;
  const bool interleaved = node.integer("interleaved", 0) != 0;
  std::copy(x.data.begin(), x.data.end(), out.data.begin());
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t head = 0; head < x.columns; head += head_dim) {
      for (int64_t j = 0; j < half; ++j) {
        const int64_t first = head + (interleaved ? 2 * j : j);
        const int64_t second = interleaved ? first + 1 : first + half;
        const float a = x.at(i, first);
        const float b = x.at(i, second);
        out.at(i, first) = a * cos.at(i, j) - b * sin.at(i, j);
        out.at(i, second) = b * cos.at(i, j) + a * sin.at(i, j);
      }
    }
  }
}

void attention_row(const Node& node, std::span<const float> q, int64_t kv_position, const KvReader& kv,
                   std::span<float> out) {
  const auto d = static_cast<size_t>(node.integer("head_dim"));
  const int64_t q_heads = node.integer("q_heads");
  const int64_t group = q_heads / node.integer("kv_heads");
  const double scale = node.number("scale");
  const double softcap = node.number("softcap", 0.0);
  const int64_t window = node.integer("window", 0);
  const int64_t first = window > 0 ? std::max<int64_t>(0, kv_position - window + 1) : 0;
  std::vector<float> scores(static_cast<size_t>(kv_position - first + 1));
  for (int64_t head = 0; head < q_heads; ++head) {
    const auto query = q.subspan(static_cast<size_t>(head) * d, d);
    for (int64_t p = first; p <= kv_position; ++p) {
      double score = dot(query, kv.key(p, head / group)) * scale;
      if (softcap > 0) score = softcap * std::tanh(score / softcap);
      scores[static_cast<size_t>(p - first)] = static_cast<float>(score);
    }
    softmax_row(scores);
    std::vector<double> sum(d, 0.0);
    for (int64_t p = first; p <= kv_position; ++p) {
      const auto value = kv.value(p, head / group);
      const double weight = scores[static_cast<size_t>(p - first)];
      for (size_t j = 0; j < d; ++j) sum[j] += weight * double{value[j]};
    }
    for (size_t j = 0; j < d; ++j) out[static_cast<size_t>(head) * d + j] = static_cast<float>(sum[j]);
  }
}

void route(Matrix logits, const Node& node, Matrix out) {
  const auto top_k = static_cast<size_t>(node.integer("top_k"));
  const bool before = node.text("softmax", "before") == "before";
  std::vector<size_t> order(static_cast<size_t>(logits.columns));
  for (int64_t i = 0; i < logits.rows; ++i) {
    std::vector<float> row(logits.row(i).begin(), logits.row(i).end());
    if (before) softmax_row(row);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return row[a] > row[b]; });
    std::vector<float> chosen;
    for (size_t j = 0; j < top_k; ++j) chosen.push_back(row[order[j]]);
    if (!before) softmax_row(chosen);
    if (node.integer("normalize", 0) != 0) {
      const float sum = std::accumulate(chosen.begin(), chosen.end(), 0.0f);
      for (float& weight : chosen) weight /= sum;
    }
    std::fill(out.row(i).begin(), out.row(i).end(), 0.0f);
    for (size_t j = 0; j < top_k; ++j) out.at(i, static_cast<int64_t>(order[j])) = chosen[j];
  }
}

void moe(ThreadPool& pool, Matrix x, Matrix routing, const WeightRows& gate, const WeightRows& up,
         const WeightRows& down, Matrix out) {
  const int64_t experts = routing.columns;
  const int64_t inner = gate.n() / experts;
  std::fill(out.data.begin(), out.data.end(), 0.0f);
  pool.run([&](int worker) {
    const Range share = share_of(x.rows, worker, pool.size());
    std::vector<float> row(static_cast<size_t>(std::max(x.columns, inner)));
    std::vector<float> hidden(static_cast<size_t>(inner));
    for (int64_t i = share.begin; i < share.end; ++i) {
      for (int64_t e = 0; e < experts; ++e) {
        if (routing.at(i, e) == 0) continue;
        const auto weights = std::span(row);
        const auto in = weights.first(static_cast<size_t>(x.columns));
        for (int64_t j = 0; j < inner; ++j) {
          gate.read(e * inner + j, e * inner + j + 1, in);
          const double g = dot(x.row(i), in);
          up.read(e * inner + j, e * inner + j + 1, in);
          hidden[static_cast<size_t>(j)] = static_cast<float>(g / (1.0 + std::exp(-g)) * dot(x.row(i), in));
        }
        const auto back = weights.first(static_cast<size_t>(inner));
        for (int64_t j = 0; j < x.columns; ++j) {
          down.read(e * x.columns + j, e * x.columns + j + 1, back);
          out.at(i, j) += static_cast<float>(double{routing.at(i, e)} * dot(hidden, back));
        }
      }
    }
  });
}

float activation(Op op, const Node& node, float x) {
  const double v = x;
  switch (op) {
    case Op::kSilu:
      return static_cast<float>(v / (1.0 + std::exp(-v)));
    case Op::kGelu:
      if (node.text("approximate", "none") == "tanh") {
        const double inner = std::sqrt(2.0 / std::numbers::pi) * (v + 0.044715 * v * v * v);
        return static_cast<float>(0.5 * v * (1.0 + std::tanh(inner)));
      }
      return static_cast<float>(0.5 * v * (1.0 + std::erf(v / std::numbers::sqrt2)));
    case Op::kRelu:
      return std::max(x, 0.0f);
    case Op::kSquare:
      return x * x;
    case Op::kSoftcap:
      return static_cast<float>(node.number("cap") * std::tanh(v / node.number("cap")));
    case Op::kScale:
      return static_cast<float>(v * node.number("factor"));
    default:
      fail(ErrorKind::kInternal, "{} is not an activation", op_name(op));
  }
}

}  // namespace edgewise::reference
