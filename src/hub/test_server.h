// An HTTP server on 127.0.0.1 for tests: one thread, one request a connection, answers made by a function.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct ssl_ctx_st;

namespace edgewise::hub {

struct TestRequest {
  std::string target;
  std::map<std::string, std::string> headers;  // lower-case names
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct TestReply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  size_t cut_after = SIZE_MAX;  // closes the connection after so many bytes of the body
  bool chunked = false;
};

class TestServer {
 public:
  using Handler = std::function<TestReply(const TestRequest&)>;
  // With a certificate and key (PEM) it speaks TLS.
  explicit TestServer(Handler handler, const std::string& certificate = "", const std::string& key = "");
  ~TestServer();

  std::string url() const;  // http(s)://127.0.0.1:port
  int port() const { return port_; }
  std::vector<TestRequest> requests() const;

 private:
  void serve();
  void answer(int connection);

  Handler handler_;
  std::shared_ptr<ssl_ctx_st> tls_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stop_ = false;
  mutable std::mutex mutex_;
  std::vector<TestRequest> requests_;
  std::thread thread_;
};

}  // namespace edgewise::hub
