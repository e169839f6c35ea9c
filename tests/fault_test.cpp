// What goes wrong around a step: a backend that fails, memory that runs out, callbacks that throw, clocks that jump.
// One request suffers at most; all others get their answers, and all pages come back.
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <future>
#include <new>
#include <random>
#include <thread>

#include "base/error.h"
#include "embedded_model.h"
#include "runtime/service.h"
#include "wrapped_executable.h"

namespace {

thread_local int64_t g_allocations_left = -1;       // of this thread, until one fails; negative: none does
std::atomic<int64_t> g_allocations_failed{0};       // in all threads
std::atomic<int64_t> g_wall_clock_jump_seconds{0};  // what the system clock is off by

}  // namespace

// Not inlined: the compiler would see malloc() and free() beside new and delete, and complain.
[[gnu::noinline]] void* operator new(size_t size) {
  if (g_allocations_left >= 0 && g_allocations_left-- == 0) {
    ++g_allocations_failed;
    throw std::bad_alloc();
  }
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
// The library's own would call the one above; AddressSanitizer's does not, and minds the free() of what it gave.
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  try {
    return ::operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

// Stands before the C library's, also for the standard library's clocks.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long result = ::syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += g_wall_clock_jump_seconds;
  return static_cast<int>(result);
}

namespace edgewise {
namespace {
namespace fs = std::filesystem;

// Runs what it wraps, save for steps that fail.
class FaultyExecutable final : public WrappedExecutable {
 public:
  using WrappedExecutable::WrappedExecutable;
  StepOutcome next = StepOutcome::kDone;

  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override {
    const StepOutcome outcome = inner_.run(input, outputs, chosen);
    if (next == StepOutcome::kDone) return outcome;
    for (const auto& output : outputs) std::ranges::fill(output, NAN);  // whatever it has left
    std::ranges::fill(chosen, 7);
    return std::exchange(next, StepOutcome::kDone);
  }
};

class FaultTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = export_embedded_model("fault");
    build_small_engine(directory_);
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }

  Session session_{directory_ / "engine", {.threads = 2, .max_step_tokens = 64}};

  Request request(int number, int max_tokens = 16) const {
    Request result;
    result.prompt = session_.encode_text("Tell me about number " + std::to_string(number) + " and about the sea.");
    result.max_tokens = max_tokens;
    result.ignore_eos = true;
    return result;
  }
  std::vector<std::string> alone(int count) {
    std::vector<std::string> texts;
    for (int i = 0; i < count; ++i) texts.push_back(session_.generate(request(i)).text);
    return texts;
  }

  static inline fs::path directory_;
};

// Fails steps at random. Who was in such a step ends with an error; everybody else gets the answer of a sound machine.
TEST_F(FaultTest, FailedStepsEndTheirSequencesOnly) {
  constexpr int kPrompts = 5;
  SchedulerLimits limits;
  limits.vocabulary = session_.vocabulary();
  limits.max_sequences = 2;
  limits.max_step_tokens = 32;
  limits.kv_capacity = 128;
  limits.kv_pages = 5;
  limits.reserve_whole = false;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < kPrompts; ++i) {
    const Completion answer = session_.generate(request(i));
    expected.push_back(answer.tokens);
  }
  const auto executable = find_backend("cpu").load(
      session_.graph(), {.max_tokens = 32, .max_sequences = 2, .max_rows = 2, .kv_pages = 5, .threads = 2});
  FaultyExecutable faulty(*executable);
  Scheduler scheduler(faulty, limits, {});
  std::mt19937 random(5);
  int failed = 0, answered = 0;
  for (int round = 0; round < 12; ++round) {
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (int i = 0; i < kPrompts; ++i) {
      sequences.push_back(std::make_unique<Sequence>(request(i).prompt, SamplingOptions{}, 16, limits.vocabulary));
      sequences.back()->ignore_end = true;
      ASSERT_TRUE(scheduler.submit(*sequences.back()));
    }
    while (!scheduler.idle()) {
      if (random() % 25 == 0) faulty.next = random() % 2 == 0 ? StepOutcome::kOutOfMemory : StepOutcome::kDeviceFault;
      scheduler.step();
      ASSERT_EQ(check_invariants(scheduler.snapshot()), "");
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i]->finish == FinishReason::kError) {
        ++failed;
        continue;
      }
      ++answered;
      const auto& tokens = sequences[i]->tokens;
      EXPECT_EQ(std::vector<int32_t>(tokens.begin() + sequences[i]->prompt_length, tokens.end()), expected[i]);
    }
    EXPECT_EQ(scheduler.cache().available(), limits.kv_pages);
  }
  EXPECT_GT(failed, 3);
  EXPECT_GT(answered, 10);
}

// The k-th allocation on the service's thread fails, for every k that an answer reaches: behind the callback, in the
// text's decoding, where requests are taken in.
TEST_F(FaultTest, AFailedAllocationEndsOneAnswerAtMost) {
  constexpr int kRequests = 3;
  const auto expected = alone(kRequests);
  int ended_with_error = 0;
  const int64_t failed_before = g_allocations_failed;
  for (int64_t k = 0; k < 60; ++k) {
    Service service(session_, 100);
    std::array<Completion, kRequests> answers;
    std::array<std::promise<void>, kRequests> ended;
    std::atomic<bool> armed{false};
    for (int i = 0; i < kRequests; ++i) {
      service.submit(request(i), [&, i, k](const Completion& so_far, std::string_view) {
        if (so_far.finish != FinishReason::kNone) {
          const int64_t left = std::exchange(g_allocations_left, -1);  // the test's own copy shall not fail
          answers[static_cast<size_t>(i)] = so_far;
          ended[static_cast<size_t>(i)].set_value();
          g_allocations_left = left;
        } else if (!armed.exchange(true)) {
          g_allocations_left = k;
        }
        return true;
      });
    }
    for (auto& promise : ended) promise.get_future().wait();
    int errors = 0;
    for (size_t i = 0; i < kRequests; ++i) {
      if (answers[i].finish == FinishReason::kError) {
        EXPECT_EQ(answers[i].error, "out of memory");
        ++errors;
      } else {
        EXPECT_EQ(answers[i].text, expected[i]) << k;
      }
    }
    EXPECT_LE(errors, 1) << k;
    ended_with_error += errors;
    EXPECT_TRUE(service.drain(std::chrono::seconds(30)));
    EXPECT_EQ(service.stats().pages_available, service.stats().pages) << k;
    EXPECT_EQ(service.stats().failed, static_cast<uint64_t>(errors));
  }
  EXPECT_GT(ended_with_error, 20);
  EXPECT_GE(g_allocations_failed - failed_before, ended_with_error);
}

// A callback that throws, at any piece of its answer and in any company.
TEST_F(FaultTest, AThrowingCallbackEndsItsOwnAnswer) {
  const auto expected = alone(2);
  for (int piece = 0; piece < 14; ++piece) {
    Service service(session_, 10);
    std::promise<Completion> bad, good;
    int pieces = 0;
    service.submit(request(0), [&](const Completion& so_far, std::string_view) -> bool {
      if (so_far.finish != FinishReason::kNone) bad.set_value(so_far);
      if (pieces++ == piece) throw std::runtime_error("a client that left, with a long message about its reasons");
      return true;
    });
    service.submit(request(1), [&](const Completion& so_far, std::string_view) {
      if (so_far.finish != FinishReason::kNone) good.set_value(so_far);
      return true;
    });
    EXPECT_EQ(good.get_future().get().text, expected[1]);
    const Completion answer = bad.get_future().get();
    if (pieces > piece && answer.finish == FinishReason::kError) {
      EXPECT_NE(answer.error.find("its reasons"), std::string::npos);
    } else {
      EXPECT_EQ(answer.text, expected[0]);  // it threw at its last call, or had fewer pieces
    }
    if (piece < 3) {
      EXPECT_EQ(answer.finish, FinishReason::kError);
    }
    EXPECT_TRUE(service.drain(std::chrono::seconds(30)));
    EXPECT_EQ(service.stats().pages_available, service.stats().pages);
  }
}

// The system clock jumps by days, forwards and back, at every piece of text: durations and deadlines don't notice.
TEST_F(FaultTest, TimesDoNotFollowTheSystemClock) {
  const auto before = std::chrono::system_clock::now();
  g_wall_clock_jump_seconds = 86400;
  ASSERT_GT(std::chrono::system_clock::now() - before, std::chrono::hours(23));  // the test's clock works
  const auto jump = [] { g_wall_clock_jump_seconds = g_wall_clock_jump_seconds > 0 ? -86400 : 86400; };
  const Completion answer = [&] {
    std::promise<Completion> ended;
    Service service(session_, 10);
    service.submit(request(1), [&](const Completion& so_far, std::string_view) {
      jump();
      if (so_far.finish != FinishReason::kNone) ended.set_value(so_far);
      return true;
    });
    return ended.get_future().get();
  }();
  const auto plausible = [](double seconds) { return seconds >= 0 && seconds < 600; };
  EXPECT_EQ(answer.tokens.size(), 16u);
  EXPECT_TRUE(plausible(answer.queue_seconds) && plausible(answer.prefill_seconds) && plausible(answer.decode_seconds));
  for (const double seconds : answer.token_seconds) EXPECT_TRUE(plausible(seconds)) << seconds;
  EXPECT_TRUE(std::ranges::is_sorted(answer.token_seconds));
  // A deadline that passes while an answer is under way: the callback holds the service up.
  for (const int64_t jump_seconds : {int64_t{86400}, int64_t{-86400}}) {
    Service held_up(session_, 10);
    std::promise<void> started, go_on;
    std::atomic<bool> first{true};
    held_up.submit(request(2), [&](const Completion&, std::string_view) {
      if (first.exchange(false)) {
        started.set_value();
        go_on.get_future().wait();
      }
      return true;
    });
    started.get_future().wait();
    g_wall_clock_jump_seconds = jump_seconds;
    std::thread jumper([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      g_wall_clock_jump_seconds = -jump_seconds;
    });
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(held_up.drain(std::chrono::milliseconds(200)));
    const auto waited = std::chrono::steady_clock::now() - start;
    EXPECT_GE(waited, std::chrono::milliseconds(200));
    EXPECT_LT(waited, std::chrono::seconds(60));
    go_on.set_value();
    jumper.join();
    EXPECT_TRUE(held_up.drain(std::chrono::seconds(30)));
  }
  g_wall_clock_jump_seconds = 0;
}

}  // namespace
}  // namespace edgewise
