#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/tensor.h"

namespace edgewise {
namespace {

TEST(DType, EveryF16RoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_f16(value), bits) << value;
  }
}

TEST(DType, EveryF8RoundTrips) {
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    const float value = f8e4m3_to_float(static_cast<uint8_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_f8e4m3(value), bits) << value;
  }
  EXPECT_EQ(f8e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(float_to_f8e4m3(1e9f), 0x7e);
  EXPECT_EQ(float_to_f8e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
}

// The nearest code by exhaustive search, ties to the even mantissa: the definition the fast path must meet.
TEST(DType, F8RoundsToNearestEven) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> exponent(-12.0f, 9.0f);
  for (int i = 0; i < 20000; ++i) {
    const float value = std::exp2(exponent(random));
    uint8_t best = 0;
    for (uint8_t code = 1; code < 0x7f; ++code) {
      const float gap = std::fabs(f8e4m3_to_float(code) - value);
      const float best_gap = std::fabs(f8e4m3_to_float(best) - value);
      if (gap < best_gap || (gap == best_gap && code % 2 == 0)) best = code;
    }
    ASSERT_EQ(float_to_f8e4m3(value), best) << value;
  }
}

TEST(DType, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(float_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // a tie goes to even
  EXPECT_EQ(float_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
}

TEST(DType, HalfPrecisionRoundsToNearestEven) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> exponent(-27.0f, 17.0f);
  for (int i = 0; i < 20000; ++i) {
    const float value = std::exp2(exponent(random));
    const auto code = float_to_f16(value);
    if (code == 0x7c00) {
      ASSERT_GE(value, 65520.0f);
      continue;
    }
    const float gap = std::fabs(f16_to_float(code) - value);
    if (code > 0) {
      ASSERT_LE(gap, std::fabs(f16_to_float(code - 1) - value));
    }
    if (code < 0x7bff) {
      ASSERT_LE(gap, std::fabs(f16_to_float(code + 1) - value));
    }
  }
}

TEST(DType, PackedFourBitTypesRoundTrip) {
  std::vector<float> values;
  for (int i = -8; i < 8; ++i) values.push_back(static_cast<float>(i));
  EXPECT_EQ(Tensor::from_floats(DType::kI4, {16}, values).to_floats(), values);
  const std::vector<float> fours = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.5f, -6};
  EXPECT_EQ(Tensor::from_floats(DType::kF4E2M1, {10}, fours).to_floats(), fours);
  EXPECT_EQ(float_to_f4e2m1(2.5f), 4);  // a tie between 2 and 3 goes to the even code, 2
  EXPECT_EQ(float_to_f4e2m1(5.0f), 6);
}

TEST(DType, NothingConvertsToNothing) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI4})
    EXPECT_TRUE(Tensor::from_floats(dtype, {0, 4}, {}).to_floats().empty());
  EXPECT_TRUE(Tensor::from_int64({0}, {}).to_int64().empty());
}

}  // namespace
}  // namespace edgewise
