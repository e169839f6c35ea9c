// A device that fails for good: every answer under way ends with its error, nothing more is taken, the server says so,
// and the next engine answers.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>

#include "base/error.h"
#include "embedded_model.h"
#include "frail_backend.h"
#include "serve/server.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

class DeviceFaultTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = export_embedded_model("device-fault");
    BuildOptions options;
    options.device = "frail-cpu";
    options.max_batch_size = 2;
    options.max_input_length = 200;
    options.kv_capacity = 256;
    options.opt_level = 0;
    build_engine(directory_ / "onnx", directory_ / "engine", options);
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }
  void TearDown() override { device_burns = false; }

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
        if (so_far.tokens.size() == 5) device_burns = true;
        if (so_far.finish != FinishReason::kNone) promise.set_value(so_far);
        return true;
      });
    }
    for (auto& promise : ended) {
      const Completion answer = promise.get_future().get();
      EXPECT_EQ(answer.finish, FinishReason::kError);
      EXPECT_NE(answer.error.find(kBurntDown), std::string::npos) << answer.error;
    }
    EXPECT_TRUE(service.drain(std::chrono::seconds(30)));
    EXPECT_EQ(service.stats().fault, kBurntDown);
    EXPECT_EQ(service.stats().pages_available, service.stats().pages);
    try {
      service.submit(request(*session), {});
      ADD_FAILURE() << "a request was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(kBurntDown), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(session->generate(request(*session)), Error);
  session.reset();
  device_burns = false;
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
  device_burns = true;
  const std::string body = R"({"model": "m", "prompt": "The sea", "max_tokens": 5})";
  const std::string asked = http(server.port(), "/v1/completions", body);
  EXPECT_NE(asked.find(kBurntDown), std::string::npos) << asked;
  running.join();
  EXPECT_EQ(session->executable().fault(), kBurntDown);
}

}  // namespace
}  // namespace edgewise
