// HTTP/1.1 over libevent: one thread for all connections; replies may be finished later and from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

struct event;
struct event_base;
struct evhttp;
struct evhttp_bound_socket;
struct evhttp_request;

namespace edgewise {

struct HttpLimits {
  size_t max_body = size_t{8} << 20;  // bytes
  size_t max_headers = size_t{32} << 10;
  int max_open_replies = 256;  // requests under way; more get 503
  std::chrono::seconds idle_timeout{60};
  std::chrono::seconds reply_timeout{600};  // a reply that takes longer is closed
};

struct HttpRequest {
  std::string method;
  std::string path;
  std::string body;
  std::string authorization;
};

class HttpServer;

// An answer to one request. All functions may be called from any thread; after the client has gone they do nothing.
class HttpReply : public std::enable_shared_from_this<HttpReply> {
 public:
  HttpReply(HttpServer& server, evhttp_request* request);

  void send(int status, std::string_view content_type, std::string body);
  // The pieces of a reply of unknown length.
  void begin(std::string_view content_type);
  void write(std::string piece);
  void end();
  // Called once, on the server's thread, when the client goes away or the time is up before the reply has ended.
  void on_gone(std::function<void()> callback);

 private:
  friend class HttpServer;
  bool client_has_closed() const;
  void gone();

  HttpServer& server_;
  // Only on the server's thread.
  evhttp_request* request_;  // null once the reply has ended or the connection is closed
  std::function<void()> on_gone_;
  std::chrono::steady_clock::time_point deadline_;
  bool streaming_ = false;
};

class HttpServer {
 public:
  using Handler = std::function<void(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply)>;

  // Listens at once; port 0 takes a free one. Throws Error(kIo) when the address is taken.
  HttpServer(const std::string& host, int port, const HttpLimits& limits, Handler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const { return port_; }
  // Serves until stop() or a SIGTERM or SIGINT; then lets replies under way end, for at most `grace`.
  void run(std::chrono::seconds grace);
  void stop();
  bool draining() const { return draining_; }
  // Whether a signal came.
  bool told_to_end() const { return told_to_end_; }

 private:
  friend class HttpReply;
  static void handle(evhttp_request* request, void* self);
  static void wake(int, short, void* self);
  static void tick(int, short, void* self);
  static void on_signal(int, short, void* self);
  void post(std::function<void()> work);
  void begin_drain();
  void forget(HttpReply& reply);

  struct Free {
    void operator()(event_base* base) const;
    void operator()(evhttp* http) const;
    void operator()(event* e) const;
  };
  HttpLimits limits_;
  Handler handler_;
  std::unique_ptr<event_base, Free> base_;
  std::unique_ptr<evhttp, Free> http_;
  std::unique_ptr<event, Free> wake_event_, tick_event_, term_event_, int_event_;
  evhttp_bound_socket* socket_ = nullptr;
  int port_ = 0;
  std::map<HttpReply*, std::shared_ptr<HttpReply>> open_;  // replies under way
  bool draining_ = false;
  bool told_to_end_ = false;
  bool was_drained_ = false;  // at the last tick
  std::chrono::seconds grace_{0};
  std::chrono::steady_clock::time_point drain_deadline_;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
};

}  // namespace edgewise
