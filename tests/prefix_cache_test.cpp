// Prefixes that are computed once, and the rules of the cache that holds them.
#include "runtime_fixture.h"

namespace edgewise {
namespace {

TEST_F(RuntimeTest, PrefixesAreComputedOnce) {
  const auto l = limits(2, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  const auto shared = prompt(1, 140);
  auto other = shared;
  other.back() += 1;
  other.resize(130);
  const auto answer = [&](const std::vector<int32_t>& ids, int cached) {
    Sequence sequence(ids, {}, 20, vocabulary_);
    ASSERT_TRUE(scheduler.submit(sequence));
    finish(scheduler);
    EXPECT_EQ(sequence.cached_tokens, cached);
    EXPECT_EQ(sequence.tokens, alone(ids));
  };
  answer(shared, 0);
  answer(shared, 128);
  answer(other, 128);
  answer(prompt(2, 140), 0);
  // The next turn of a conversation finds prompt and answer.
  auto turn = alone(shared);
  turn.push_back(7);
  answer(std::vector<int32_t>(turn.begin(), turn.begin() + 128), 64);  // its last token must be computed
}

TEST_F(RuntimeTest, ManyPrefixesPushOutTheOldest) {
  const auto l = limits(1, 64);  // four pages
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 5; ++i) {
      Sequence sequence(prompt(i, 150), {}, 20, vocabulary_);
      ASSERT_TRUE(scheduler.submit(sequence));
      finish(scheduler);
      EXPECT_EQ(sequence.tokens, alone(prompt(i, 150)));
    }
  }
}

TEST_F(RuntimeTest, PinnedPrefixesStay) {
  const auto l = limits(2, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  Sequence pinned(prompt(1, 100), {}, 5, vocabulary_);
  pinned.pin_tokens = 64;
  ASSERT_TRUE(scheduler.submit(pinned));
  finish(scheduler);
  for (int i = 10; i < 20; ++i) {
    Sequence sequence(prompt(i, 150), {}, 20, vocabulary_);
    ASSERT_TRUE(scheduler.submit(sequence));
    finish(scheduler);
  }
  Sequence again(prompt(1, 100), {}, 5, vocabulary_);
  ASSERT_TRUE(scheduler.submit(again));
  finish(scheduler);
  EXPECT_EQ(again.cached_tokens, 64);
}

// Each rule of the validator, broken.
TEST_F(RuntimeTest, ValidatorSeesWhatIsBroken) {
  const auto l = limits(3, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < 4; ++i) {
    sequences.push_back(std::make_unique<Sequence>(prompt(i, 100), SamplingOptions{}, 20, vocabulary_));
    ASSERT_TRUE(scheduler.submit(*sequences.back()));
  }
  while (sequences[0]->generated() < 3) scheduler.step();
  const SchedulerSnapshot good = scheduler.snapshot();
  ASSERT_EQ(check_invariants(good), "");
  using Break = void (*)(SchedulerSnapshot&);
  const Break breaks[] = {
      [](SchedulerSnapshot& s) { s.running.push_back(s.running.back()); },
      [](SchedulerSnapshot& s) { std::swap(s.running[0], s.running[1]); },
      [](SchedulerSnapshot& s) { s.running[0].kv_length = s.running[0].length; },
      [](SchedulerSnapshot& s) { s.running[0].finished = true; },
      [](SchedulerSnapshot& s) { s.running[0].pages.pop_back(); },
      [](SchedulerSnapshot& s) { s.running[0].published = 9; },
      [](SchedulerSnapshot& s) { s.running[1].pages[0] = s.running[0].pages[0]; },
      [](SchedulerSnapshot& s) { s.waiting[0].kv_length = 1; },
      [](SchedulerSnapshot& s) { s.waiting[0].arrival = s.running[0].arrival; },
      [](SchedulerSnapshot& s) { s.cache.free.push_back(s.running[0].pages[0]); },
      [](SchedulerSnapshot& s) {
        s.cache.free.clear();
        s.cache.unused.clear();
      },
      [](SchedulerSnapshot& s) {
        s.cache.pages[static_cast<size_t>(s.running[0].pages[0])].shared = false;
        s.cache.pages[static_cast<size_t>(s.running[0].pages[0])].uses = 2;
      },
      [](SchedulerSnapshot& s) { s.cache.pages[static_cast<size_t>(s.running[0].pages[1])].pinned = true; },
  };
  for (size_t i = 0; i < std::size(breaks); ++i) {
    SchedulerSnapshot broken = good;
    breaks[i](broken);
    EXPECT_NE(check_invariants(broken), "") << i;
  }
  finish(scheduler);
}

}  // namespace
}  // namespace edgewise
