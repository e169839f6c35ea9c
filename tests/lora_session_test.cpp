// Adapters in a session: mixed in a batch, out of memory and back, refused, and known by what they computed.
#include <gtest/gtest.h>

#include <future>

#include "base/error.h"
#include "lora_support.h"
#include "runtime/service.h"

namespace edgewise {
namespace {

class LoraSession : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = std::make_unique<Workspace>();
    engine_ = engine_of(kSource / "models/edge-tiny-16m", *work_ / "session", DType::kBF16, 3);
  }
  static void TearDownTestSuite() { work_.reset(); }

  void load(const std::string& name, size_t modules) {
    EXPECT_EQ(session_.adapters().add(name, kSource / ("models/edge-tiny-16m-lora-" + name)), modules);
  }
  Request request(const std::string& adapter) const {
    Request request;
    request.prompt = session_.encode_chat({{{"role", "user"}, {"content", "Tell me about Paris"}}});
    request.max_tokens = 40;
    request.adapter = adapter;
    return request;
  }
  // More than a page of a prompt, so that there is one to keep.
  Request long_request(const std::string& adapter) const {
    Request result = request(adapter);
    const std::string rain = " Rain is water that falls from the clouds. Snow is water too.";
    result.prompt = session_.encode_text("Tell me more." + rain + rain + rain + rain + rain);
    result.prompt.resize(kPageTokens + 16);
    return result;
  }

  static inline std::unique_ptr<Workspace> work_;
  static inline fs::path engine_;
  Session session_{engine_, {.threads = 2}};
};

TEST_F(LoraSession, MixedInABatchEachAnswersAsAlone) {
  load("upper", 32);
  load("shakespeare", 56);
  EXPECT_EQ(session_.adapters().names(), (std::vector<std::string>{"shakespeare", "upper"}));
  std::vector<std::vector<int32_t>> alone;
  for (const char* name : {"", "upper", "shakespeare"}) alone.push_back(session_.generate(request(name)).tokens);
  EXPECT_NE(alone[0], alone[1]);
  EXPECT_NE(alone[0], alone[2]);
  EXPECT_NE(alone[1], alone[2]);
  Session fresh(engine_, {.threads = 2});
  EXPECT_EQ(fresh.generate(request("")).tokens, alone[0]);
  const auto together = session_.generate({request("upper"), request(""), request("shakespeare"), request("upper")});
  EXPECT_EQ(together[0].tokens, alone[1]);
  EXPECT_EQ(together[1].tokens, alone[0]);
  EXPECT_EQ(together[2].tokens, alone[2]);
  EXPECT_EQ(together[3].tokens, alone[1]);
  const std::string upper = together[0].text;
  EXPECT_TRUE(std::ranges::none_of(upper, [](char c) { return c >= 'a' && c <= 'z'; })) << upper;
}

TEST_F(LoraSession, IsForgottenWhenUnused) {
  load("upper", 32);
  const auto first = session_.generate(request("upper"));
  const auto busy = [&] {
    try {
      session_.adapters().remove("upper");
      return false;
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kBusy;
    }
  };
  auto generation = session_.prepare(request("upper"));
  EXPECT_TRUE(busy());
  session_.begin(*generation);
  session_.step();
  EXPECT_TRUE(busy());
  session_.cancel(*generation);
  generation.reset();
  EXPECT_FALSE(busy());
  EXPECT_THROW(session_.adapters().remove("upper"), Error);
  EXPECT_THROW(session_.prepare(request("upper")), Error);
  // The same name with other weights: nothing cached of the first answers for it.
  EXPECT_EQ(session_.adapters().add("upper", kSource / "models/edge-tiny-16m-lora-shakespeare"), 56u);
  const auto second = session_.generate(request("upper"));
  EXPECT_EQ(second.cached_tokens, 0);
  EXPECT_NE(second.tokens, first.tokens);
}

// Out of memory and back: the same answer, of the same cached pages.
TEST_F(LoraSession, LeavesMemoryWhenIdle) {
  using std::chrono::seconds;
  Session session(engine_, {.threads = 2, .adapters = {.idle = seconds(60)}});
  AdapterShelf& adapters = session.adapters();
  adapters.add("upper", kSource / "models/edge-tiny-16m-lora-upper");
  const size_t unloaded = session.executable().memory().weights;
  const auto first = session.generate(long_request("upper"));
  EXPECT_GT(session.executable().memory().weights, unloaded);
  const auto now = AdapterShelf::Clock::now();
  EXPECT_LE(adapters.next_unload(), now + seconds(60));
  adapters.unload_unused(now + seconds(59));
  EXPECT_EQ(adapters.stats().loaded, 1);
  {
    const auto held = session.prepare(long_request("upper"));
    adapters.unload_unused(now + seconds(1000));
    EXPECT_EQ(adapters.stats().loaded, 1);
    EXPECT_EQ(adapters.next_unload(), now + seconds(1060));
  }
  adapters.unload_unused(now + seconds(1100));
  EXPECT_EQ(adapters.stats().loaded, 0);
  EXPECT_EQ(adapters.stats().known, 1);
  EXPECT_EQ(adapters.next_unload(), AdapterShelf::Clock::time_point::max());
  EXPECT_EQ(session.executable().memory().weights, unloaded);
  const auto again = session.generate(long_request("upper"));
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(again.cached_tokens, kPageTokens);
  EXPECT_EQ(adapters.stats().loads, 2u);
  // Loaded, but never used: it goes all the same, and comes back.
  adapters.add("shakespeare", kSource / "models/edge-tiny-16m-lora-shakespeare");
  adapters.unload_unused(AdapterShelf::Clock::now() + seconds(61));
  EXPECT_EQ(adapters.stats().loaded, 0);
  EXPECT_NE(session.generate(request("shakespeare")).tokens, first.tokens);
}

TEST_F(LoraSession, TheLeastRecentlyUsedGoFirst) {
  Session session(engine_, {.threads = 2, .adapters = {.most = 2}});
  AdapterShelf& adapters = session.adapters();
  const auto load = [&](const char* name) { adapters.add(name, kSource / "models/edge-tiny-16m-lora-upper"); };
  load("a");
  load("b");
  const auto held = session.prepare(request("a"));
  session.generate(request("b"));
  load("c");
  session.generate(request("c"));  // "a" is older than "b", but in use
  EXPECT_EQ(adapters.stats().loaded, 2);
  EXPECT_EQ(adapters.stats().loads, 3u);
  session.generate(request("c"));
  EXPECT_EQ(adapters.stats().loads, 3u);
  session.generate(request("b"));
  EXPECT_EQ(adapters.stats().loads, 4u);
  const auto answers = session.generate({request("a"), request("b"), request("c")});  // three in use
  EXPECT_EQ(answers[0].tokens, answers[2].tokens);
  EXPECT_EQ(adapters.stats().loaded, 3);
  adapters.unload_unused();
  EXPECT_EQ(adapters.stats().loaded, 2);
}

// Read, used, cancelled and unloaded from many threads, while others answer.
TEST_F(LoraSession, ComesAndGoesBesideOthers) {
  Session session(engine_, {.threads = 2, .adapters = {.most = 1}});
  const std::vector<std::string> names = {"", "upper", "shakespeare"};
  std::vector<std::vector<int32_t>> alone;
  for (const std::string& name : names) {
    if (!name.empty()) session.adapters().add(name, kSource / ("models/edge-tiny-16m-lora-" + name));
    alone.push_back(session.generate(request(name)).tokens);
  }
  Service service(session, 100);
  const auto ask = [&](size_t which, bool cancel) {
    std::promise<Completion> ended;
    const auto ticket = service.submit(request(names[which]), [&](const Completion& so_far, std::string_view) {
      if (so_far.finish != FinishReason::kNone) ended.set_value(so_far);
      return true;
    });
    if (cancel) service.cancel(ticket);
    const Completion answer = ended.get_future().get();
    if (answer.finish != FinishReason::kCancelled) {
      EXPECT_EQ(answer.tokens, alone[which]) << answer.error;
    }
  };
  std::vector<std::future<void>> threads;
  for (size_t i = 0; i < 6; ++i) {
    threads.push_back(std::async(std::launch::async, [&, i] {
      for (size_t round = 0; round < 6; ++round) ask((i + round) % 3, (i + round / 3) % 2 == 1);
    }));
  }
  for (auto& thread : threads) thread.get();
  for (const size_t which : {1, 2, 1, 2}) ask(which, false);  // one after the other: each is read again
  EXPECT_TRUE(service.drain(std::chrono::seconds(10)));
  EXPECT_EQ(service.stats().adapters.loaded, 1);
  EXPECT_GE(service.stats().adapters.loads, 5u);
  EXPECT_EQ(service.stats().pages_available, service.stats().pages);
}

// What is read again must be what was read first: cached pages and answers under its name are of that.
TEST_F(LoraSession, RefusesFilesThatChanged) {
  const fs::path path = *work_ / "changing";
  fs::copy(kSource / "models/edge-tiny-16m-lora-upper", path);
  Session session(engine_, {.threads = 2, .adapters = {.idle = std::chrono::seconds(1)}});
  session.adapters().add("upper", path);
  const auto unload = [&] { session.adapters().unload_unused(AdapterShelf::Clock::now() + std::chrono::seconds(2)); };
  const auto base = session.generate(request(""));
  const auto first = session.generate(request("upper"));
  const auto refused = [&](const std::string& mentions) {
    unload();
    const auto answers = session.generate({request(""), request("upper"), request("upper")});
    EXPECT_EQ(answers[0].tokens, base.tokens);
    for (size_t i = 1; i < 3; ++i) {
      EXPECT_EQ(answers[i].finish, FinishReason::kError);
      EXPECT_NE(answers[i].error.find(mentions), std::string::npos) << answers[i].error;
      EXPECT_NE(answers[i].error.find(path.string()), std::string::npos) << answers[i].error;
    }
  };
  fs::rename(path, *work_ / "moved");
  refused("no adapter_config.json");
  fs::copy(kSource / "models/edge-tiny-16m-lora-shakespeare", path);
  refused("no longer the adapter that was loaded as upper");
  fs::remove_all(path);
  fs::rename(*work_ / "moved", path);
  EXPECT_EQ(session.generate(request("upper")).tokens, first.tokens);
  Json config = read_json_file(path / "adapter_config.json");
  config["lora_alpha"] = config["lora_alpha"].get<double>() * 2;
  std::ofstream(path / "adapter_config.json") << config;
  refused("no longer");
}

TEST_F(LoraSession, SavedSessionsKnowTheirAdapter) {
  load("upper", 32);
  const fs::path file = *work_ / "upper.session";
  const OrderedJson messages = OrderedJson::array({{{"role", "user"}, {"content", "Tell me about Paris"}}});
  const auto first = session_.generate(long_request("upper"));
  session_.save(file, long_request("").prompt, messages, "upper");
  Session other(engine_, {.threads = 2});
  other.adapters().add("upper", kSource / "models/edge-tiny-16m-lora-shakespeare");
  other.adapters().add("same", kSource / "models/edge-tiny-16m-lora-upper");
  const auto refused = [&](const std::string& adapter, const std::string& mentions) {
    try {
      other.load(file, adapter);
      ADD_FAILURE() << "restored as " << adapter;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(mentions), std::string::npos) << error.what();
    }
  };
  refused("", "saved with adapter upper, this session has no adapter");
  refused("upper", "saved with adapter upper, this session has adapter upper with other contents");
  EXPECT_THROW(other.load(file, "pirate"), Error);
  EXPECT_EQ(other.generate(long_request("same")).cached_tokens, 0);
  Session restored(engine_, {.threads = 2});
  restored.adapters().add("same", kSource / "models/edge-tiny-16m-lora-upper");
  EXPECT_EQ(restored.load(file, "same"), messages);
  const auto again = restored.generate(long_request("same"));
  EXPECT_EQ(again.cached_tokens, kPageTokens);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(restored.generate(long_request("")).cached_tokens, 0);
}

// The head's adapter has a row for each token; an engine with fewer logits takes the rows it has.
TEST_F(LoraSession, FollowsAReducedVocabulary) {
  const fs::path model = kSource / "models/edge-tiny-16m";
  std::vector<int32_t> kept;
  for (int32_t id = 0; id < 8192; ++id) {
    if (id != 300) kept.push_back(id);
  }
  write_adapter({{"lm_head", {8192, 384}}}, *work_ / "head", 0.5f);
  Session reduced(engine_of(model, *work_ / "reduced", DType::kBF16, 1, kept), {.threads = 2});
  session_.adapters().add("head", *work_ / "head");
  reduced.adapters().add("head", *work_ / "head");
  const auto expected = session_.generate(request("head")).tokens;
  ASSERT_EQ(std::ranges::count(expected, 300), 0);
  EXPECT_NE(expected, session_.generate(request("")).tokens);
  EXPECT_EQ(reduced.generate(request("head")).tokens, expected);
}

TEST_F(LoraSession, RefusesWhatDoesNotFit) {
  load("upper", 32);
  EXPECT_THROW(load("upper", 32), Error);
  EXPECT_THROW(session_.adapters().add("", kSource / "models/edge-tiny-16m-lora-upper"), Error);
  write_adapter(linears_of(kSource / "tests/data/checkpoints/qwen3"), *work_ / "other");
  try {
    session_.adapters().add("other", *work_ / "other");
    ADD_FAILURE() << "an adapter of another model was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("other: adapter:"), std::string::npos) << error.what();
  }
  EXPECT_EQ(session_.adapters().names(), std::vector<std::string>{"upper"});
}

}  // namespace
}  // namespace edgewise
