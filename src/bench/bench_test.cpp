#include <gtest/gtest.h>

#include <cmath>

#include "bench/benchmark.h"
#include "bench/quality.h"

namespace edgewise {
namespace {

TEST(Statistics, SummaryOfKnownSamples) {
  const Summary s = summarize({4, 1, 3, 2, 5});
  EXPECT_DOUBLE_EQ(s.mean, 3);
  EXPECT_DOUBLE_EQ(s.median, 3);
  EXPECT_DOUBLE_EQ(s.p90, 4.6);
  EXPECT_NEAR(s.deviation, 1.5811388, 1e-6);
  EXPECT_NEAR(s.confidence, 2.776 * 1.5811388 / std::sqrt(5.0), 1e-6);
  EXPECT_EQ(summarize({}).count, 0u);
  EXPECT_EQ(summarize({7}).median, 7);
}

TEST(Bleu, IdentityAndOrder) {
  const std::vector<std::string> reference{"the cat sat on the mat today", "a dog ran over the hill"};
  EXPECT_NEAR(bleu(reference, reference), 100, 1e-9);
  EXPECT_EQ(bleu({"x y z w", "p q r s"}, reference), 0);
  const double one_word_off = bleu({"the cat sat on the rug today", "a dog ran over the hill"}, reference);
  EXPECT_GT(one_word_off, 50);
  EXPECT_LT(one_word_off, 100);
}

// Shorter candidates pay the brevity penalty exp(1 - r/c).
TEST(Bleu, BrevityPenalty) { EXPECT_NEAR(bleu({"a b c d e"}, {"a b c d e f g h i j"}), 100 * std::exp(1 - 2.0), 1e-9); }

}  // namespace
}  // namespace edgewise
