// A device that fails for good: every answer under way ends with its error, nothing more is taken, the server says so,
// and the next engine answers.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <future>

#include "base/error.h"
#include "embedded_model.h"
#include "serve/server.h"
#include "wrapped_executable.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

constexpr const char* kFault = "the device burnt down";
std::atomic<bool> g_burnt{false};

struct Owned {
  std::unique_ptr<Executable> executable;
};

// The CPU's, until it burns.
class FrailExecutable final : Owned, public WrappedExecutable {
 public:
  explicit FrailExecutable(std::unique_ptr<Executable> inner)
      : Owned{std::move(inner)}, WrappedExecutable(*Owned::executable) {}
  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override {
    burnt_ = burnt_ || g_burnt;
    return burnt_ ? StepOutcome::kDeviceFault : inner_.run(input, outputs, chosen);
  }
  std::string fault() const override { return burnt_ ? kFault : ""; }

 private:
  bool burnt_ = false;
};

class FrailBackend final : public Backend {
 public:
  std::string_view name() const override { return "frail"; }
  std::string_view layout() const override { return cpu().layout(); }
  std::optional<std::string> why_unsupported(const Graph& graph, const Node& node) const override {
    return cpu().why_unsupported(graph, node);
  }
  void pack(Graph& graph, NodeId node) const override { cpu().pack(graph, node); }
  std::vector<std::string> kernels(const Graph&, const Node&) const override { return {}; }
  double time_kernel(const Graph&, const Node&, const std::string&, int) const override { return 0; }
  std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const override {
    return std::make_unique<FrailExecutable>(cpu().load(graph, options));
  }

 private:
  static const Backend& cpu() { return find_backend("cpu"); }
};

class DeviceFaultTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    register_backend(std::make_unique<FrailBackend>(), -1);
    directory_ = export_embedded_model("device-fault");
    BuildOptions options;
    options.device = "frail";
    options.max_batch_size = 2;
    options.max_input_length = 200;
    options.kv_capacity = 256;
    options.opt_level = 0;
    build_engine(directory_ / "onnx", directory_ / "engine", options);
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }
  void TearDown() override { g_burnt = false; }

  static std::unique_ptr<Session> open() {
    return std::make_unique<Session>(directory_ / "engine", SessionOptions{.threads = 2});
  }
  static Request request(const Session& session) {
    Request result;
    result.prompt = session.encode_text("Tell me about the sea.");
    result.max_tokens = 100;
    result.ignore_eos = true;
    return result;
  }

  static inline fs::path directory_;
};

TEST_F(DeviceFaultTest, EndsAllAnswersAndTheNextEngineAnswers) {
  auto session = open();
  const Completion expected = session->generate(request(*session));
  {
    Service service(*session, 10);
    std::array<std::promise<Completion>, 4> ended;  // two of them wait for the others
    for (auto& promise : ended) {
      service.submit(request(*session), [&promise](const Completion& so_far, std::string_view) {
        if (so_far.tokens.size() == 5) g_burnt = true;
        if (so_far.finish != FinishReason::kNone) promise.set_value(so_far);
        return true;
      });
    }
    for (auto& promise : ended) {
      const Completion answer = promise.get_future().get();
      EXPECT_EQ(answer.finish, FinishReason::kError);
      EXPECT_NE(answer.error.find(kFault), std::string::npos) << answer.error;
    }
    EXPECT_TRUE(service.drain(std::chrono::seconds(30)));
    EXPECT_EQ(service.stats().fault, kFault);
    EXPECT_EQ(service.stats().pages_available, service.stats().pages);
    try {
      service.submit(request(*session), {});
      ADD_FAILURE() << "a request was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(kFault), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(session->generate(request(*session)), Error);
  session.reset();
  g_burnt = false;
  session = open();
  EXPECT_EQ(session->generate(request(*session)).tokens, expected.tokens);
}

// What the server answers, status line and all.
std::string http(int port, const std::string& path, const std::string& body = "") {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = (body.empty() ? "GET " : "POST ") + path +
                              " HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: application/json\r\n"
                              "Content-Length: " +
                              std::to_string(body.size()) + "\r\n\r\n" + body;
  EXPECT_EQ(::send(descriptor, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string reply;
  std::array<char, 4096> some;
  for (ssize_t count = 0; (count = ::recv(descriptor, some.data(), some.size(), 0)) > 0;)
    reply.append(some.data(), static_cast<size_t>(count));
  ::close(descriptor);
  return reply;
}

TEST_F(DeviceFaultTest, TheServerEnds) {
  auto session = open();
  ServeOptions options;
  options.port = 0;
  options.model = "m";
  ApiServer server(*session, options);
  std::thread running([&] { server.run(); });
  EXPECT_NE(http(server.port(), "/health").find(" 200 "), std::string::npos);
  g_burnt = true;
  const std::string body = R"({"model": "m", "prompt": "The sea", "max_tokens": 5})";
  const std::string asked = http(server.port(), "/v1/completions", body);
  EXPECT_NE(asked.find(kFault), std::string::npos) << asked;
  running.join();
  EXPECT_EQ(session->executable().fault(), kFault);
}

}  // namespace
}  // namespace edgewise
