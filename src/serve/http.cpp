#include "serve/http.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/thread.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <csignal>

#include "base/error.h"

namespace edgewise {
namespace {

constexpr timeval kTick{0, 20'000};  // how soon a client that went away is noticed

std::string_view method_name(evhttp_cmd_type type) {
  switch (type) {
    case EVHTTP_REQ_GET:
      return "GET";
    case EVHTTP_REQ_POST:
      return "POST";
    case EVHTTP_REQ_HEAD:
      return "HEAD";
    case EVHTTP_REQ_OPTIONS:
      return "OPTIONS";
    default:
      return "OTHER";
  }
}

const char* reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 429:
      return "Too Many Requests";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

struct FreeBuffer {
  void operator()(evbuffer* buffer) const { evbuffer_free(buffer); }
};
std::unique_ptr<evbuffer, FreeBuffer> buffer_of(std::string_view text) {
  std::unique_ptr<evbuffer, FreeBuffer> buffer(evbuffer_new());
  evbuffer_add(buffer.get(), text.data(), text.size());
  return buffer;
}

void add_headers(evhttp_request* request, std::string_view content_type) {
  evkeyvalq* headers = evhttp_request_get_output_headers(request);
  evhttp_add_header(headers, "Content-Type", std::string(content_type).c_str());
  evhttp_add_header(headers, "Cache-Control", "no-store");
  evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
  evhttp_add_header(headers, "Content-Security-Policy",
                    "default-src 'self'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                    "frame-ancestors 'none'");
}

}  // namespace

HttpReply::HttpReply(HttpServer& server, evhttp_request* request)
    : server_(server), request_(request), deadline_(std::chrono::steady_clock::now() + server.limits_.reply_timeout) {}

void HttpReply::send(int status, std::string_view content_type, std::string body) {
  server_.post([self = shared_from_this(), status, type = std::string(content_type), body = std::move(body)] {
    if (self->request_ == nullptr) return;
    evhttp_request* request = std::exchange(self->request_, nullptr);
    add_headers(request, type);
    if (status == 429 || status == 503)
      evhttp_add_header(evhttp_request_get_output_headers(request), "Retry-After", "1");
    evhttp_connection_set_closecb(evhttp_request_get_connection(request), nullptr, nullptr);
    evhttp_send_reply(request, status, reason_phrase(status), buffer_of(body).get());
    self->server_.forget(*self);
  });
}

void HttpReply::begin(std::string_view content_type) {
  server_.post([self = shared_from_this(), type = std::string(content_type)] {
    if (self->request_ == nullptr) return;
    add_headers(self->request_, type);
    self->streaming_ = true;
    evhttp_send_reply_start(self->request_, 200, "OK");
  });
}

void HttpReply::write(std::string piece) {
  server_.post([self = shared_from_this(), piece = std::move(piece)] {
    if (self->request_ != nullptr) evhttp_send_reply_chunk(self->request_, buffer_of(piece).get());
  });
}

void HttpReply::end() {
  server_.post([self = shared_from_this()] {
    if (self->request_ == nullptr) return;
    evhttp_request* request = std::exchange(self->request_, nullptr);
    evhttp_connection_set_closecb(evhttp_request_get_connection(request), nullptr, nullptr);
    evhttp_send_reply_end(request);
    self->server_.forget(*self);
  });
}

void HttpReply::on_gone(std::function<void()> callback) {
  server_.post([self = shared_from_this(), callback = std::move(callback)] {
    if (self->request_ == nullptr) return callback();
    self->on_gone_ = std::move(callback);
  });
}

bool HttpReply::client_has_closed() const {
  const int socket = bufferevent_getfd(evhttp_connection_get_bufferevent(evhttp_request_get_connection(request_)));
  char byte;
  return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void HttpReply::gone() {
  // A connection that fails while a reply is under way lets go of the request: then it is ours.
  if (evhttp_request_get_connection(request_) == nullptr) evhttp_request_free(request_);
  request_ = nullptr;
  if (on_gone_) std::exchange(on_gone_, nullptr)();
  server_.forget(*this);
}

void HttpServer::Free::operator()(event_base* base) const { event_base_free(base); }
void HttpServer::Free::operator()(evhttp* http) const { evhttp_free(http); }
void HttpServer::Free::operator()(event* e) const { event_free(e); }

HttpServer::HttpServer(const std::string& host, int port, const HttpLimits& limits, Handler handler)
    : limits_(limits), handler_(std::move(handler)) {
  std::signal(SIGPIPE, SIG_IGN);
  evthread_use_pthreads();
  base_.reset(event_base_new());
  http_.reset(evhttp_new(base_.get()));
  evhttp_set_max_body_size(http_.get(), static_cast<ssize_t>(limits.max_body));
  evhttp_set_max_headers_size(http_.get(), static_cast<ssize_t>(limits.max_headers));
  evhttp_set_timeout(http_.get(), static_cast<int>(limits.idle_timeout.count()));
  evhttp_set_allowed_methods(http_.get(), EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_OPTIONS);
  evhttp_set_gencb(http_.get(), &HttpServer::handle, this);
  socket_ = evhttp_bind_socket_with_handle(http_.get(), host.c_str(), static_cast<uint16_t>(port));
  if (socket_ == nullptr)
    fail(ErrorKind::kIo, "can't listen on {}:{}: is another program there? choose with --port", host, port);
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(evhttp_bound_socket_get_fd(socket_), reinterpret_cast<sockaddr*>(&address), &size);
  port_ = address.ss_family == AF_INET6 ? ntohs(reinterpret_cast<sockaddr_in6&>(address).sin6_port)
                                        : ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
  wake_event_.reset(event_new(base_.get(), -1, EV_PERSIST, &HttpServer::wake, this));
  tick_event_.reset(event_new(base_.get(), -1, EV_PERSIST, &HttpServer::tick, this));
  term_event_.reset(evsignal_new(base_.get(), SIGTERM, &HttpServer::on_signal, this));
  int_event_.reset(evsignal_new(base_.get(), SIGINT, &HttpServer::on_signal, this));
  event_add(wake_event_.get(), nullptr);
  event_add(tick_event_.get(), &kTick);
}

HttpServer::~HttpServer() = default;

void HttpServer::run(std::chrono::seconds grace) {
  grace_ = grace;
  event_add(term_event_.get(), nullptr);
  event_add(int_event_.get(), nullptr);
  event_base_loop(base_.get(), EVLOOP_NO_EXIT_ON_EMPTY);
  while (!open_.empty()) open_.begin()->second->gone();
}

void HttpServer::stop() {
  post([this] { begin_drain(); });
}

void HttpServer::post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
  }
  event_active(wake_event_.get(), EV_READ, 0);
}

void HttpServer::wake(int, short, void* context) {
  auto& self = *static_cast<HttpServer*>(context);
  std::vector<std::function<void()>> work;
  {
    const std::lock_guard lock(self.mutex_);
    work.swap(self.posted_);
  }
  for (const auto& task : work) task();
}

// Ends replies whose client has closed the connection or whose time is up, and the loop when it has drained.
void HttpServer::tick(int, short, void* context) {
  auto& self = *static_cast<HttpServer*>(context);
  const auto now = std::chrono::steady_clock::now();
  std::vector<std::shared_ptr<HttpReply>> ending;
  for (const auto& [key, reply] : self.open_) {
    if (now > reply->deadline_ || reply->client_has_closed()) ending.push_back(reply);
  }
  for (const auto& reply : ending) {
    evhttp_connection* connection = evhttp_request_get_connection(reply->request_);
    evhttp_connection_set_closecb(connection, nullptr, nullptr);
    reply->gone();
    evhttp_connection_free(connection);
  }
  // The last reply may have ended just now: the loop writes it before the next tick.
  const bool drained = self.draining_ && self.open_.empty();
  if ((drained && self.was_drained_) || (self.draining_ && now > self.drain_deadline_)) {
    event_base_loopbreak(self.base_.get());
  }
  self.was_drained_ = drained;
}

void HttpServer::on_signal(int, short, void* context) {
  auto& self = *static_cast<HttpServer*>(context);
  self.told_to_end_ = true;
  self.begin_drain();
}

void HttpServer::begin_drain() {
  if (draining_) return;
  draining_ = true;
  drain_deadline_ = std::chrono::steady_clock::now() + grace_;
  evhttp_del_accept_socket(http_.get(), socket_);
}

void HttpServer::forget(HttpReply& reply) { open_.erase(&reply); }

void HttpServer::handle(evhttp_request* raw, void* context) {
  auto& self = *static_cast<HttpServer*>(context);
  auto reply = std::make_shared<HttpReply>(self, raw);
  const bool full = static_cast<int>(self.open_.size()) >= self.limits_.max_open_replies;
  self.open_.emplace(reply.get(), reply);
  evhttp_connection_set_closecb(
      evhttp_request_get_connection(raw),
      [](evhttp_connection*, void* gone) { static_cast<HttpReply*>(gone)->shared_from_this()->gone(); }, reply.get());
  if (full || self.draining_) {
    return reply->send(503, "application/json",
                       R"({"error": {"message": "the server has no free connection", "type": "server_error"}})");
  }
  HttpRequest request;
  request.method = method_name(evhttp_request_get_command(raw));
  const char* path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(raw));
  request.path = path == nullptr ? "" : path;
  evbuffer* body = evhttp_request_get_input_buffer(raw);
  request.body.resize(evbuffer_get_length(body));
  evbuffer_copyout(body, request.body.data(), request.body.size());
  const char* authorization = evhttp_find_header(evhttp_request_get_input_headers(raw), "Authorization");
  request.authorization = authorization == nullptr ? "" : authorization;
  self.handler_(request, reply);
}

}  // namespace edgewise
