#include "hub/test_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

namespace edgewise::hub {
namespace {

// Plain or encrypted bytes of one connection.
class Peer {
 public:
  Peer(int fd, SSL_CTX* context) : fd_(fd) {
    if (context == nullptr) return;
    session_.reset(::SSL_new(context));
    ::SSL_set_fd(session_.get(), fd);
    usable_ = ::SSL_accept(session_.get()) == 1;
  }
  bool usable() const { return usable_; }
  long read(char* out, size_t size) {
    return session_ ? ::SSL_read(session_.get(), out, static_cast<int>(size)) : ::recv(fd_, out, size, 0);
  }
  bool write(std::string_view bytes) {
    while (!bytes.empty()) {
      const long sent = session_ ? ::SSL_write(session_.get(), bytes.data(), static_cast<int>(bytes.size()))
                                 : ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void finish() {
    if (session_) ::SSL_shutdown(session_.get());
  }

 private:
  int fd_;
  bool usable_ = true;
  std::unique_ptr<SSL, void (*)(SSL*)> session_{nullptr, ::SSL_free};
};

TestRequest parse(const std::string& head) {
  TestRequest request;
  size_t start = head.find("\r\n") + 2;
  const size_t space = head.find(' ');
  request.target = head.substr(space + 1, head.find(' ', space + 1) - space - 1);
  while (start < head.size()) {
    const size_t end = head.find("\r\n", start);
    const size_t colon = head.find(": ", start);
    if (end == std::string::npos || colon == std::string::npos || end == start) break;
    std::string name = head.substr(start, colon - start);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    request.headers[name] = head.substr(colon + 2, end - colon - 2);
    start = end + 2;
  }
  return request;
}

}  // namespace

TestServer::TestServer(Handler handler, const std::string& certificate, const std::string& key)
    : handler_(std::move(handler)) {
  ::signal(SIGPIPE, SIG_IGN);
  if (!certificate.empty()) {
    tls_ = std::shared_ptr<SSL_CTX>(::SSL_CTX_new(::TLS_server_method()), ::SSL_CTX_free);
    ::SSL_CTX_use_certificate_chain_file(tls_.get(), certificate.c_str());
    ::SSL_CTX_use_PrivateKey_file(tls_.get(), key.c_str(), SSL_FILETYPE_PEM);
  }
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size);
  ::listen(listener_, 16);
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { serve(); });
}

TestServer::~TestServer() {
  stop_ = true;
  thread_.join();
  ::close(listener_);
}

std::string TestServer::url() const { return fmt::format("{}://127.0.0.1:{}", tls_ ? "https" : "http", port_); }

std::vector<TestRequest> TestServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void TestServer::serve() {
  while (!stop_) {
    pollfd entry{listener_, POLLIN, 0};
    if (::poll(&entry, 1, 20) <= 0) continue;
    const int connection = ::accept(listener_, nullptr, nullptr);
    if (connection < 0) continue;
    answer(connection);
    ::close(connection);
  }
}

void TestServer::answer(int connection) {
  Peer peer(connection, tls_.get());
  if (!peer.usable()) return;
  std::string head;
  std::array<char, 4096> piece;
  while (head.find("\r\n\r\n") == std::string::npos) {
    const long got = peer.read(piece.data(), piece.size());
    if (got <= 0) return;
    head.append(piece.data(), static_cast<size_t>(got));
  }
  const TestRequest request = parse(head);
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
  }
  const TestReply reply = handler_(request);
  std::string out = fmt::format("HTTP/1.1 {} X\r\n", reply.status);
  for (const auto& [name, value] : reply.headers) out += name + ": " + value + "\r\n";
  if (reply.chunked) {
    out += "Transfer-Encoding: chunked\r\n\r\n";
    for (size_t at = 0; at < reply.body.size(); at += 1000) {
      const std::string chunk = reply.body.substr(at, 1000);
      out += fmt::format("{:x};extra=1\r\n{}\r\n", chunk.size(), chunk);
    }
    out += "0\r\n\r\n";
  } else {
    out += fmt::format("Content-Length: {}\r\n\r\n", reply.body.size());
    out += reply.body.substr(0, reply.cut_after);
  }
  if (peer.write(out) && reply.cut_after >= reply.body.size()) peer.finish();
}

}  // namespace edgewise::hub
