// Quantization: codes, the checkpoint format read back, and that each method does better than rounding.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <numeric>
#include <random>

#include "backends/sequence_runner.h"
#include "base/error.h"
#include "graph/weight_rows.h"
#include "models/families.h"
#include "quantize/block.h"
#include "quantize/gptq.h"
#include "quantize/quantize.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

FloatMatrix random_matrix(int64_t rows, int64_t columns, int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  FloatMatrix result(rows, columns);
  for (float& value : result.data) value = normal(random);
  return result;
}

// Second moments of inputs with a few loud, correlated channels, as transformers have them.
InputStatistics loud_inputs(int64_t k) {
  FloatMatrix x = random_matrix(600, k, 9);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t j = 0; j < k; ++j) {
      if (j % 16 == 3) x.at(t, j) *= 12;
      if (j % 16 == 4) x.at(t, j) += 0.8f * x.at(t, j - 1);
    }
  }
  InputStatistics s;
  s.tokens = x.rows;
  s.magnitude.assign(static_cast<size_t>(k), 0.0);
  s.largest.assign(static_cast<size_t>(k), 0.0f);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t j = 0; j < k; ++j) {
      s.magnitude[size_t(j)] += std::fabs(double{x.at(t, j)});
      s.largest[size_t(j)] = std::max(s.largest[size_t(j)], std::fabs(x.at(t, j)));
    }
  }
  const FloatMatrix columns = transposed(x);
  s.second_moment = TransposedProduct(columns, k)(columns);
  return s;
}

TEST(Quantize, ProductMatchesLoops) {
  const FloatMatrix a = random_matrix(7, 50, 1);
  const FloatMatrix b = random_matrix(19, 50, 2);
  const FloatMatrix c = TransposedProduct(b, 7)(a);
  for (int64_t i = 0; i < 7; ++i) {
    for (int64_t j = 0; j < 19; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < 50; ++p) sum += double{a.at(i, p)} * double{b.at(j, p)};
      ASSERT_NEAR(c.at(i, j), sum, 1e-4);
    }
  }
}

TEST(Quantize, GptqAndAwqBeatRounding) {
  const InputStatistics inputs = loud_inputs(128);
  const FloatMatrix weight = random_matrix(64, 128, 4);
  const TransposedProduct moment(inputs.second_moment, 64);
  for (const int64_t group : {32, 128}) {
    const QuantScheme scheme = scheme_from_name("int4_gptq", group);
    const double rounded = output_error(weight, round_to_nearest(weight, scheme, DType::kBF16).dequantized(), moment);
    const auto clip = search_clip(weight, inputs.second_moment, scheme, DType::kBF16);
    const double clipped =
        output_error(weight, round_to_nearest(weight, scheme, DType::kBF16, clip).dequantized(), moment);
    const double gptq_error = output_error(
        weight, gptq(weight, factor_inverse(inputs.second_moment), scheme, DType::kBF16, clip).dequantized(), moment);
    const auto s = search_channel_scales({weight}, inputs, scheme, DType::kBF16);
    const auto scaled = round_to_nearest(scale_columns(weight, s), scheme, DType::kBF16).dequantized();
    const double awq_error = output_error(weight, scale_columns(scaled, s, true), moment);
    EXPECT_LE(clipped, rounded);
    EXPECT_LT(gptq_error, 0.6 * rounded) << group;
    EXPECT_LT(awq_error, 0.8 * rounded) << group;
  }
}

TEST(Quantize, CodesStayInRange) {
  const FloatMatrix weight = random_matrix(3, 64, 5);
  for (const char* name : {"int8", "int4_rtn", "fp8", "nvfp4"}) {
    const QuantScheme scheme = scheme_from_name(name, 32);
    const auto codes = round_to_nearest(weight, scheme, DType::kBF16);
    const FloatMatrix back = codes.dequantized();
    double error = 0;
    double size = 0;
    for (size_t i = 0; i < back.data.size(); ++i) {
      error += std::pow(double{back.data[i]} - double{weight.data[i]}, 2);
      size += std::pow(double{weight.data[i]}, 2);
    }
    EXPECT_LT(std::sqrt(error / size), name == std::string("int8")  ? 0.01
                                       : name == std::string("fp8") ? 0.03
                                                                    : 0.12)
        << name;
  }
  EXPECT_THROW(scheme_from_name("int3", 32), Error);
  EXPECT_THROW(scheme_from_name("int4_awq", 48), Error);
}

// Every scheme on a whole checkpoint: what is written reads back, and the model still says nearly the same.
class QuantizeCheckpoint : public testing::TestWithParam<std::string> {};

// Logits of one of the model's golden prompts: text it knows, as the calibration text is.
std::vector<float> logits_of(const fs::path& directory) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  const Graph graph = build_decoder(spec, checkpoint, {DType::kF32});
  const auto executable =
      find_backend("reference").load(graph, {.max_tokens = 64, .kv_pages = 1, .kv_dtype = DType::kF32});
  const auto golden = SafetensorsFile::open(fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m/golden.safetensors");
  const auto ids = golden.at("prompt_4_ids").to_int64();
  const std::vector<int32_t> tokens(ids.begin(), ids.end());
  const auto count = static_cast<int32_t>(tokens.size());
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> logits(tokens.size() * static_cast<size_t>(spec.vocabulary));
  const std::vector<int32_t> pages{0};
  const SequenceSlice sequence{0, count, 0, count, pages, -1};
  EXPECT_EQ(executable->run({tokens, positions, {}, std::span(&sequence, 1), {}}, logits), StepOutcome::kDone);
  return logits;
}

TEST_P(QuantizeCheckpoint, KeepsTheModel) {
  const fs::path source = fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m";
  const fs::path output = fs::temp_directory_path() / ("edgewise-quantize-" + std::to_string(::getpid()) + GetParam());
  QuantizeRequest request{source, output, scheme_from_name(GetParam(), 32), false, {}, {}};
  request.calibration.samples = 6;
  const QuantizeReport report = quantize_checkpoint(request);
  EXPECT_EQ(report.linears, 56);
  const auto expected = logits_of(source);
  const auto found = logits_of(output);
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(double{found[i]} - double{expected[i]}, 2);
    size += std::pow(double{expected[i]}, 2);
  }
  const bool eight_bits = GetParam() == "fp8" || GetParam().starts_with("int8");
  // A wrong nibble, scale or group gives an error near 1; how good a format is, `edgewise eval` measures.
  EXPECT_LT(std::sqrt(error / size), eight_bits ? 0.1 : 0.3);
  RecordProperty("relative_error", std::to_string(std::sqrt(error / size)));
  EXPECT_GT(error, 0);
  request.model_dir = output;
  EXPECT_THROW(quantize_checkpoint(request), Error);  // quantized already
  fs::remove_all(output);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizeCheckpoint,
                         testing::Values("fp8", "int8", "int8_sq", "int4_awq", "int4_gptq", "int4_rtn", "nvfp4"));

}  // namespace
}  // namespace edgewise
