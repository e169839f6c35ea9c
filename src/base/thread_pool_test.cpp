#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

namespace edgewise {
namespace {

TEST(ThreadPool, EveryWorkerRunsOnceARegion) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    std::vector<int> runs(static_cast<size_t>(threads), 0);
    for (int region = 0; region < 2000; ++region) {
      pool.run([&](int worker) { ++runs[static_cast<size_t>(worker)]; });
    }
    for (const int count : runs) EXPECT_EQ(count, 2000);
  }
}

TEST(ThreadPool, BarrierSeparatesPhases) {
  ThreadPool pool(3);
  std::vector<int> first(3, 0);
  std::atomic<int> wrong{0};
  pool.run([&](int worker) {
    for (int phase = 1; phase <= 500; ++phase) {
      first[static_cast<size_t>(worker)] = phase;
      pool.barrier();
      for (const int value : first) wrong += value != phase;
      pool.barrier();
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

// Waits that end about when a waiter falls asleep: a wake-up lost there hangs the test.
TEST(ThreadPool, SleepersAreWoken) {
  ThreadPool pool(3);
  std::atomic<int64_t> visits{0};
  constexpr int kRegions = 20000;
  for (int region = 0; region < kRegions; ++region) {
    pool.run([&](int worker) {
      for (volatile int i = 0; i < (region * 7919 + worker * 104729) % 30000;) i = i + 1;
      pool.barrier();
      ++visits;
    });
  }
  EXPECT_EQ(visits.load(), int64_t{3} * kRegions);
}

TEST(ThreadPool, SharesCoverTheRangeOnce) {
  for (int64_t count : {0, 1, 7, 64, 1000}) {
    for (int workers : {1, 2, 3, 7}) {
      int64_t next = 0;
      for (int worker = 0; worker < workers; ++worker) {
        const Range range = share_of(count, worker, workers, 16);
        EXPECT_EQ(range.begin, next);
        next = range.end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

// Again and again, since each barrier begins anew.
TEST(ThreadPool, EveryItemIsTakenOnce) {
  for (const int workers : {1, 2, 3, 5}) {
    ThreadPool pool(workers);
    std::atomic<int> odd{0};  // places that begin or end in the middle of a grain
    for (const int64_t count : {0, 1, 7, 64, 1000}) {
      std::vector<std::atomic<int>> taken(static_cast<size_t>(count));
      pool.run([&](int worker) {
        for (int phase = 0; phase < 50; ++phase) {
          for (Range r = pool.take(count, 4); r.begin < r.end; r = pool.take(count, 4)) {
            odd += r.begin % 4 != 0 || (r.end % 4 != 0 && r.end != count);
            for (int64_t i = r.begin; i < r.end; ++i) ++taken[static_cast<size_t>(i)];
            if (worker == 0) std::this_thread::yield();
          }
          pool.barrier();
        }
      });
      for (const auto& times : taken) EXPECT_EQ(times.load(), 50);
    }
    EXPECT_EQ(odd.load(), 0);
  }
}

}  // namespace
}  // namespace edgewise
