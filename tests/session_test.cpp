// Saved sessions: restored bit for bit, whole or not at all, and refused when they are not what was saved.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <random>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "embedded_model.h"
#include "runtime/session.h"

#include <xxhash.h>

namespace edgewise {
namespace {
namespace fs = std::filesystem;

class SessionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = export_embedded_model("session");
    build("bf16", DType::kBF16, 512);
    build("int8", DType::kI8, 512);
    build("fp8", DType::kF8E4M3, 512);
    build("other", DType::kBF16, 513);
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }
  static void build(const char* name, DType kv_dtype, int kv_capacity, const char* device = "cpu") {
    BuildOptions options;
    options.device = device;
    options.max_input_length = 500;
    options.kv_capacity = kv_capacity;
    options.kv_dtype = kv_dtype;
    options.opt_level = 0;
    build_engine(directory_ / "onnx", directory_ / name, options);
  }

  static std::unique_ptr<Session> open(const std::string& name, int chunk = 64) {
    return std::make_unique<Session>(directory_ / name, SessionOptions{.threads = 2, .max_step_tokens = chunk});
  }
  static Request request(std::vector<int32_t> prompt) {
    Request result;
    result.prompt = std::move(prompt);
    result.max_tokens = 40;
    result.ignore_eos = true;
    result.sampling.num_logprobs = 5;
    return result;
  }
  // A first turn, its answer, and a second question: what the next turn sends.
  static std::vector<int32_t> next_turn(const Session& session, const std::vector<int32_t>& turn) {
    auto ids = turn;
    const auto question = session.encode_text(" And what comes after that?");
    ids.insert(ids.end(), question.begin(), question.end());
    return ids;
  }
  // All tokens of a first turn.
  static std::vector<int32_t> first_turn(Session& session) {
    std::string story = "Tell me more.";
    for (int i = 0; i < 30; ++i) story += " Rain is water that falls from clouds.";
    Request first = request(session.encode_text(story));
    auto tokens = first.prompt;
    const Completion answer = session.generate(first);
    tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
    return tokens;
  }
  // The bits of an answer.
  static std::vector<std::pair<int32_t, float>> bits(const Completion& completion) {
    std::vector<std::pair<int32_t, float>> result;
    for (const CompletionToken& token : completion.logprobs) {
      result.emplace_back(token.token, token.logprob);
      for (const TokenLogprob& other : token.alternatives) result.emplace_back(other.token, other.logprob);
    }
    return result;
  }
  static OrderedJson messages() {
    return OrderedJson::array(
        {{{"role", "user"}, {"content", "Grüße, 世界"}}, {{"role", "assistant"}, {"content", ""}}});
  }

  // A saved session to damage.
  fs::path saved(const std::string& name = "bf16") {
    const fs::path file = directory_ / (name + ".session");
    auto session = open(name);
    tokens_ = first_turn(*session);
    session->save(file, tokens_, messages());
    return file;
  }
  static void expect_refused(Session& session, const fs::path& file, const std::string& mentions) {
    try {
      session.load(file);
      ADD_FAILURE() << "loaded; expected an error with \"" << mentions << "\"";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadFile);
      EXPECT_NE(std::string(error.what()).find(mentions), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(file.string()), std::string::npos) << error.what();
    }
    for (const auto& page : session.scheduler().snapshot().cache.pages) ASSERT_FALSE(page.shared);
  }

  static inline fs::path directory_;
  std::vector<int32_t> tokens_;
};

// The next turn in a fresh session: whether prefill comes from the file or is computed, in whatever chunks, tokens and
// log probabilities are the same bits.
TEST_F(SessionTest, ContinuesBitForBit) {
  for (const char* name : {"bf16", "int8", "fp8"}) {
    const fs::path file = saved(name);
    const auto turn = next_turn(*open(name), tokens_);
    const auto computed = open(name)->generate(request(turn));
    EXPECT_EQ(computed.cached_tokens, 0);
    for (const int chunk : {64, 17}) {
      auto session = open(name, chunk);
      EXPECT_EQ(session->load(file), messages());
      EXPECT_EQ(check_invariants(session->scheduler().snapshot()), "");
      const auto restored = session->generate(request(turn));
      EXPECT_EQ(restored.cached_tokens, static_cast<int>((tokens_.size() - 1) / kPageTokens * kPageTokens)) << name;
      EXPECT_GT(restored.cached_tokens, 200);
      EXPECT_EQ(restored.tokens, computed.tokens);
      EXPECT_EQ(bits(restored), bits(computed)) << name;
      // A restored session saves what it has loaded.
      session->save(directory_ / "again", tokens_, messages());
      EXPECT_TRUE(read_text_file(directory_ / "again") == read_text_file(file));
    }
  }
}

// On the other backends, briefly: "check" runs both side by side and fails where they differ.
TEST_F(SessionTest, EveryBackendRestoresPages) {
  build("check", DType::kI8, 512, "check");
  auto session = open("check");
  std::string text;
  for (int i = 0; i < 12; ++i) text += " A river carries water.";
  Request short_one = request(session->encode_text(text));
  short_one.max_tokens = 4;
  const auto expected = session->generate(short_one);
  session->save(directory_ / "check.session", short_one.prompt, messages());
  auto restored = open("check");
  restored->load(directory_ / "check.session");
  const auto answer = restored->generate(short_one);
  EXPECT_EQ(answer.cached_tokens, kPageTokens);
  EXPECT_EQ(bits(answer), bits(expected));
}

TEST_F(SessionTest, LoadsIntoACacheInUse) {
  const fs::path file = saved();
  auto session = open("bf16");
  const auto turn = next_turn(*session, tokens_);
  const auto expected = session->generate(request(turn));
  EXPECT_EQ(session->load(file), messages());  // all pages are there already
  auto other = tokens_;
  other[100] ^= 1;
  session->generate(request(other));  // pushes out pages of the first
  EXPECT_EQ(session->load(file), messages());
  EXPECT_EQ(check_invariants(session->scheduler().snapshot()), "");
  EXPECT_EQ(bits(session->generate(request(turn))), bits(expected));
}

TEST_F(SessionTest, AShortConversationHasNoPages) {
  auto session = open("bf16");
  session->save(directory_ / "short", session->encode_text("Hi"), messages());
  EXPECT_EQ(open("bf16")->load(directory_ / "short"), messages());
  session->save(directory_ / "short", {}, OrderedJson::array());
  EXPECT_EQ(open("bf16")->load(directory_ / "short"), OrderedJson::array());
}

TEST_F(SessionTest, RefusesAnotherEnginesFile) {
  const fs::path file = saved();
  expect_refused(*open("other"), file, "saved with engine");
  expect_refused(*open("int8"), file, "saved with kv_dtype \"bf16\", this session has \"i8\"");
  expect_refused(*open("bf16"), saved("fp8"), "saved with kv_dtype \"f8e4m3\"");
}

TEST_F(SessionTest, RefusesForeignAndTornFiles) {
  const fs::path file = saved();
  const std::string bytes = read_text_file(file);
  auto session = open("bf16");
  for (size_t length = 0; length < bytes.size(); length += length < 2000 ? 7 : 40001) {
    write_text_file(file, bytes.substr(0, length));
    expect_refused(*session, file, length < 40 ? "not a session" : "truncated");
  }
  write_text_file(file, bytes + "x");
  expect_refused(*session, file, "truncated");
  write_text_file(file, "EDGEWISE" + bytes.substr(8));
  expect_refused(*session, file, "not a session");
  auto newer = bytes;
  newer[8] = 9;
  write_text_file(file, newer);
  expect_refused(*session, file, "session format 9");
  EXPECT_THROW(session->load(directory_), Error);
  EXPECT_THROW(session->load(directory_ / "absent"), Error);
  EXPECT_THROW(session->load("/dev/zero"), Error);
}

// Every byte of the file is under a check.
TEST_F(SessionTest, RefusesFlippedBits) {
  const fs::path file = saved();
  const std::string bytes = read_text_file(file);
  auto session = open("bf16");
  std::mt19937 random(3);
  for (size_t i = 0; i < 200; ++i) {
    const size_t place = i < 100 ? i : random() % bytes.size();
    std::string damaged = bytes;
    damaged[place] ^= static_cast<char>(1 << random() % 8);
    write_text_file(file, damaged);
    expect_refused(*session, file, "");
  }
}

// A file whose checksums are right, with another document or other pages.
std::string forged(const std::string& bytes, const std::function<void(OrderedJson&)>& change,
                   const std::string& pages = "") {
  uint64_t numbers[5];
  std::memcpy(numbers, bytes.data(), sizeof(numbers));
  auto document = parse_ordered_json(std::string_view(bytes).substr(40, numbers[3]), "document");
  change(document);
  const std::string text = document.dump();
  const std::string rest = pages.empty() ? bytes.substr(40 + numbers[3]) : pages;
  numbers[2] = 40 + text.size() + rest.size();
  numbers[3] = text.size();
  numbers[4] = XXH3_64bits(text.data(), text.size());
  return std::string(reinterpret_cast<const char*>(numbers), sizeof(numbers)) + text + rest;
}

TEST_F(SessionTest, RefusesHostileDocuments) {
  const fs::path file = saved();
  const std::string bytes = read_text_file(file);
  auto session = open("bf16");
  const auto refused = [&](const std::string& mentions, const std::function<void(OrderedJson&)>& change) {
    write_text_file(file, forged(bytes, change));
    expect_refused(*session, file, mentions);
  };
  refused("vocabulary", [](OrderedJson& d) { d["vocabulary"] = 1, d["tokens"] = "vocabulary"; });
  refused("tokens", [](OrderedJson& d) { d["tokens"][3] = -1; });
  refused("tokens", [](OrderedJson& d) { d["tokens"][3] = 1 << 30; });
  refused("tokens", [](OrderedJson& d) { d["tokens"][3] = UINT64_MAX; });
  refused("tokens", [](OrderedJson& d) { d["tokens"][3] = 1.5; });
  refused("tokens", [](OrderedJson& d) { d.erase("tokens"); });
  refused("pages", [](OrderedJson& d) { d["tokens"] = OrderedJson::array({1, 2, 3}); });
  refused("pages", [](OrderedJson& d) { d["pages"] = INT64_MAX; });
  refused("pages", [](OrderedJson& d) { d["pages"] = -1; });
  refused("pages", [](OrderedJson& d) { d["pages"] = d["pages"].get<int>() - 1; });
  refused("page_bytes", [](OrderedJson& d) { d["page_bytes"] = 64; });
  refused("saved with adapter pirate, this session has no adapter", [](OrderedJson& d) {
    d["adapter"] = "pirate";
    d["adapter_checksum"] = "00000000000000aa";
  });
  refused("model", [](OrderedJson& d) { d["model"] = 7; });
  refused("messages", [](OrderedJson& d) { d["messages"] = "none"; });
  refused("role", [](OrderedJson& d) { d["messages"][0].erase("role"); });
  refused("content", [](OrderedJson& d) { d["messages"][0]["content"] = 7; });
  refused("", [](OrderedJson& d) { d = OrderedJson::array({1, 2}); });
  write_text_file(file, forged(bytes, [](OrderedJson&) {}));
  EXPECT_EQ(session->load(file), messages());  // the forger itself makes good files
}

// Whoever can forge checksums can put any numbers into the cache, and gets nonsense, not a crash.
TEST_F(SessionTest, NonsenseInPagesGivesNonsense) {
  for (const char* name : {"bf16", "int8", "fp8"}) {
    const fs::path file = saved(name);
    const std::string bytes = read_text_file(file);
    auto session = open(name);
    const size_t page_bytes = session->executable().page_bytes();
    const auto turn = next_turn(*session, tokens_);
    std::string pages;
    while (pages.size() < (tokens_.size() - 1) / kPageTokens * (page_bytes + 8)) {
      const std::string page(page_bytes, '\xff');  // NaN in every type
      const uint64_t sum = XXH3_64bits(page.data(), page.size());
      pages += page + std::string(reinterpret_cast<const char*>(&sum), 8);
    }
    write_text_file(file, forged(
                              bytes, [](OrderedJson&) {}, pages));
    session->load(file);
    for (const double temperature : {0.0, 0.9}) {
      Request nonsense = request(turn);
      nonsense.sampling.temperature = temperature;
      nonsense.sampling.top_p = 0.9;
      const Completion answer = session->generate(nonsense);
      EXPECT_GT(answer.cached_tokens, 200);
      EXPECT_EQ(answer.tokens.size(), 40u);
      for (const int32_t token : answer.tokens) EXPECT_TRUE(token >= 0 && token < session->vocabulary());
    }
  }
}

// Runs `what` in a child that has the session's memory but none of its threads; saving needs none.
pid_t in_child(const std::function<void()>& what) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  try {
    what();
  } catch (const Error& error) {
    ::_exit(error.kind() == ErrorKind::kIo ? 3 : 4);
  } catch (...) {
    ::_exit(5);
  }
  ::_exit(0);
}

int wait_for(pid_t pid) {
  int status = -1;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return status;
}

TEST_F(SessionTest, AFullDiskLeavesTheOldFile) {
  const fs::path file = saved();
  const std::string before = read_text_file(file);
  auto session = open("bf16");
  session->load(file);
  const auto entries = [&] { return std::distance(fs::directory_iterator(directory_), {}); };
  const auto there = entries();
  for (size_t limit = 0; limit < before.size(); limit += before.size() / 20) {
    const int status = wait_for(in_child([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit most{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &most);
      session->save(file, tokens_, messages());
    }));
    EXPECT_EQ(WEXITSTATUS(status), 3) << limit;
    EXPECT_TRUE(read_text_file(file) == before) << limit;
    EXPECT_EQ(entries(), there) << limit;
  }
}

TEST_F(SessionTest, KilledWhileSavingLeavesAWholeFile) {
  const fs::path file = saved();
  auto session = open("bf16");
  session->load(file);
  auto longer = messages();
  longer.push_back({{"role", "user"}, {"content", std::string(100000, 'a')}});
  std::mt19937 random(11);
  const auto start = std::chrono::steady_clock::now();
  session->save(file, tokens_, longer);
  const auto usual = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  int unfinished = 0;
  for (int round = 0; round < 40; ++round) {
    const pid_t pid = in_child([&] {
      for (;;) {
        session->save(file, tokens_, longer);
        session->save(file, tokens_, messages());
      }
    });
    ::usleep(static_cast<unsigned>(random() % (4 * static_cast<uint64_t>(usual.count()))));
    ::kill(pid, SIGKILL);
    EXPECT_TRUE(WIFSIGNALED(wait_for(pid)));
    fs::path rest = file;
    rest += ".tmp-" + std::to_string(pid);
    unfinished += fs::remove(rest);
    const OrderedJson found = open("bf16")->load(file);
    EXPECT_TRUE(found == messages() || found == longer);
  }
  EXPECT_GT(unfinished, 5);  // or the test has not hit a save
}

// Up to what the model's config names, which is little here.
TEST_F(SessionTest, CacheCapacityAsMemoryAllows) {
  build("auto", DType::kBF16, 0);
  const auto session = open("auto");
  EXPECT_EQ(session->info().kv_capacity, 2048);
  const auto other = open("bf16");
  const auto ids = session->encode_text("Tell me about the sea.");
  EXPECT_EQ(session->generate(request(ids)).tokens, other->generate(request(ids)).tokens);
}

}  // namespace
}  // namespace edgewise
