// A session under many threads, on the embedded model.
#include "runtime/service.h"

#include <gtest/gtest.h>

#include <future>
#include <regex>

#include "base/error.h"
#include "embedded_model.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

class ServiceTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = export_embedded_model("service");
    build_small_engine(directory_);
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }

  Session session_{directory_ / "engine", {.threads = 2, .max_step_tokens = 64, .protect_decoding = true}};

  Request request(int number, int max_tokens = 24) const {
    const std::string story(static_cast<size_t>(number % 5) * 40, 'a');
    Request result;
    result.prompt = session_.encode_text("Tell me about number " + std::to_string(number) + story);
    result.max_tokens = max_tokens;
    return result;
  }

  static inline fs::path directory_;
};

// Collects one answer; wait() returns it once it has ended.
struct Collector {
  ProgressCallback callback() {
    return [this](const Completion& so_far, std::string_view text) {
      streamed += text;
      if (so_far.finish != FinishReason::kNone) ended.set_value(so_far);
      return true;
    };
  }
  Completion wait() { return ended.get_future().get(); }

  std::string streamed;
  std::promise<Completion> ended;
};

TEST_F(ServiceTest, ManyThreadsGetTheAnswersTheyWouldGetAlone) {
  constexpr int kThreads = 12;
  std::vector<std::string> alone;
  for (int i = 0; i < kThreads; ++i) alone.push_back(session_.generate(request(i)).text);
  Service service(session_, 100);
  std::vector<std::future<void>> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.push_back(std::async(std::launch::async, [&, i] {
      for (int round = 0; round < 3; ++round) {
        Collector collector;
        service.submit(request(i), collector.callback());
        const Completion answer = collector.wait();
        EXPECT_EQ(answer.text, alone[static_cast<size_t>(i)]);
        EXPECT_EQ(collector.streamed, answer.text);
      }
    }));
  }
  for (auto& thread : threads) thread.get();
  EXPECT_TRUE(service.drain(std::chrono::seconds(10)));
  const ServiceStats stats = service.stats();
  EXPECT_EQ(stats.stopped, 3u * kThreads);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.pages_available, stats.pages);
}

TEST_F(ServiceTest, CancelEndsOneAnswer) {
  const std::string alone = session_.generate(request(2)).text;
  Service service(session_, 10);
  std::promise<void> first_text;
  std::atomic<bool> seen{false};
  std::promise<Completion> ended;
  Request endless = request(1, 200);
  endless.ignore_eos = true;
  const auto ticket = service.submit(endless, [&](const Completion& so_far, std::string_view) {
    if (!seen.exchange(true)) first_text.set_value();
    if (so_far.finish != FinishReason::kNone) ended.set_value(so_far);
    return true;
  });
  Collector other;
  service.submit(request(2), other.callback());
  first_text.get_future().wait();
  service.cancel(ticket);
  EXPECT_EQ(ended.get_future().get().finish, FinishReason::kCancelled);
  EXPECT_EQ(other.wait().text, alone);
  service.cancel(ticket);  // long over
  EXPECT_TRUE(service.drain(std::chrono::seconds(10)));
  EXPECT_EQ(service.stats().cancelled, 1u);
}

TEST_F(ServiceTest, AThrowingCallbackSpoilsItsOwnAnswerOnly) {
  const std::string alone = session_.generate(request(2)).text;
  Service service(session_, 10);
  Collector good;
  Completion ended;
  service.submit(request(1), [&](const Completion& so_far, std::string_view) -> bool {
    ended = so_far;
    throw std::runtime_error("bad client");
  });
  service.submit(request(2), good.callback());
  EXPECT_EQ(good.wait().text, alone);
  EXPECT_TRUE(service.drain(std::chrono::seconds(10)));
  EXPECT_EQ(service.stats().failed, 1u);
  EXPECT_EQ(ended.finish, FinishReason::kError);
  EXPECT_EQ(ended.error, "bad client");
  EXPECT_EQ(service.stats().pages_available, service.stats().pages);
}

TEST_F(ServiceTest, AnswersKeepToTheirFormat) {
  const AnswerFormat format{AnswerForm::kRegex, "(red|green) [0-9]{3}( and (red|green) [0-9]{3}){4}"};
  const auto constrained = [&](Session& session, int i) {
    Request result = request(i, 100);
    result.sampling.temperature = i % 2;
    result.sampling.seed = static_cast<uint64_t>(i);
    if (i % 4 != 3) result.grammar = session.grammar(format);
    return result;
  };
  std::vector<Completion> alone;
  for (int i = 0; i < 8; ++i) {
    alone.push_back(session_.generate(constrained(session_, i)));
    if (i % 4 == 3) continue;
    EXPECT_TRUE(std::regex_match(alone.back().text, std::regex(format.text))) << alone.back().text;
    EXPECT_EQ(alone.back().finish, FinishReason::kStop);
  }
  {
    Service service(session_, 100);
    std::vector<Collector> together(8);
    for (int i = 0; i < 8; ++i) {
      service.submit(constrained(session_, i), together[static_cast<size_t>(i)].callback());
    }
    for (size_t i = 0; i < 8; ++i) EXPECT_EQ(together[i].wait().tokens, alone[i].tokens);
  }
  Session drafting(directory_ / "engine", {.threads = 2, .draft_tokens = 6});
  int drafted = 0;
  for (int i = 0; i < 8; ++i) {
    const Completion answer = drafting.generate(constrained(drafting, i));
    EXPECT_EQ(answer.tokens, alone[static_cast<size_t>(i)].tokens);
    drafted += answer.drafted_tokens;
  }
  EXPECT_GT(drafted, 0);
}

TEST_F(ServiceTest, AFormatThatCantBeFollowedSpoilsItsOwnAnswerOnly) {
  const std::string alone = session_.generate(request(2)).text;
  Request hopeless = request(1);
  // A state for every subset of the last 1000 letters.
  hopeless.grammar = session_.grammar({AnswerForm::kRegex, "(a|b)*a(a|b){1000}"});
  hopeless.max_tokens = 200;
  hopeless.sampling.temperature = 100;
  hopeless.sampling.seed = 5;
  const std::vector<Completion> answers = session_.generate(std::vector<Request>{hopeless, request(2)});
  EXPECT_EQ(answers[1].text, alone);
  if (answers[0].finish == FinishReason::kError) {
    EXPECT_NE(answers[0].error.find("format"), std::string::npos);
  } else {
    EXPECT_EQ(answers[0].text.find_first_not_of("ab"), std::string::npos);
  }
}

TEST_F(ServiceTest, RefusesWhatItCantTake) {
  Service service(session_, 1);
  Request bad = request(1);
  bad.prompt.clear();
  EXPECT_THROW(service.submit(bad, {}), Error);
  int refused = 0;
  for (int i = 0; i < 50; ++i) {
    try {
      service.submit(request(i, 50), {});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBusy);
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_EQ(service.stats().refused, static_cast<uint64_t>(refused));
  EXPECT_TRUE(service.drain(std::chrono::seconds(30)));
  EXPECT_THROW(service.submit(request(1), {}), Error);
}

TEST_F(ServiceTest, EndsWithAnswersUnderWay) {
  std::promise<Completion> ended;
  {
    Service service(session_, 10);
    Request endless = request(1, 200);
    endless.ignore_eos = true;
    service.submit(endless, [&](const Completion& so_far, std::string_view) {
      if (so_far.finish != FinishReason::kNone) ended.set_value(so_far);
      return true;
    });
  }
  EXPECT_EQ(ended.get_future().get().finish, FinishReason::kCancelled);
}

}  // namespace
}  // namespace edgewise
