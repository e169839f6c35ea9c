#include "hub/stream.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/progress.h"

namespace edgewise::hub {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kConnectTimeout = std::chrono::seconds(20);
constexpr auto kIdleTimeout = std::chrono::seconds(60);

struct FreeAddresses {
  void operator()(addrinfo* addresses) const { ::freeaddrinfo(addresses); }
};

class Socket : public Stream {
 public:
  explicit Socket(const Url& url) : name_(url.authority()) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int status = ::getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found);
    if (status != 0) {
      fail(ErrorKind::kIo,
           "{}: can't find this host ({}); check the network, or set HF_HUB_OFFLINE=1 to use only the cache", name_,
           ::gai_strerror(status));
    }
    const std::unique_ptr<addrinfo, FreeAddresses> addresses(found);
    std::string reason = "no address";
    for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
      if (try_connect(*address, reason)) return;
    }
    fail(ErrorKind::kIo, "{}: can't connect: {}; check the network, or set HF_HUB_OFFLINE=1 to use only the cache",
         name_, reason);
  }
  ~Socket() override { close(); }

  void write(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        wait(POLLOUT, kIdleTimeout);
      } else {
        fail(ErrorKind::kIo, "{}: the connection broke: {}", name_, std::strerror(errno));
      }
    }
  }

  size_t read(std::span<char> out) override {
    while (true) {
      const ssize_t got = ::recv(fd_, out.data(), out.size(), 0);
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        fail(ErrorKind::kIo, "{}: the connection broke: {}", name_, std::strerror(errno));
      }
      wait(POLLIN, kIdleTimeout);
    }
  }

  const std::string& name() const { return name_; }

 private:
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

  bool try_connect(const addrinfo& address, std::string& reason) {
    fd_ = ::socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol);
    if (fd_ < 0) {
      reason = std::strerror(errno);
      return false;
    }
    int error = 0;
    if (::connect(fd_, address.ai_addr, address.ai_addrlen) != 0) {
      error = errno;
      if (error == EINPROGRESS) {
        try {
          wait(POLLOUT, kConnectTimeout);
        } catch (const Error& failure) {
          close();
          if (failure.kind() == ErrorKind::kInterrupted) throw;
          reason = "no answer";
          return false;
        }
        socklen_t size = sizeof(error);
        if (::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
      }
    }
    if (error == 0) return true;
    reason = std::strerror(error);
    close();
    return false;
  }

  // Short sleeps, so that Ctrl-C is noticed even when its signal lands on another thread.
  void wait(short events, Clock::duration limit) {
    const auto deadline = Clock::now() + limit;
    while (true) {
      check_interrupted();
      pollfd entry{fd_, events, 0};
      const int ready = ::poll(&entry, 1, 250);
      if (ready > 0) return;
      if (ready < 0 && errno != EINTR) fail(ErrorKind::kIo, "{}: poll failed: {}", name_, std::strerror(errno));
      if (Clock::now() >= deadline) fail(ErrorKind::kIo, "{}: no answer for too long", name_);
    }
  }

  std::string name_;
  int fd_ = -1;
};

struct FreeContext {
  void operator()(SSL_CTX* context) const { ::SSL_CTX_free(context); }
};
struct FreeSession {
  void operator()(SSL* session) const { ::SSL_free(session); }
};

std::string tls_reason(const SSL* session) {
  const long verdict = ::SSL_get_verify_result(session);
  if (verdict != X509_V_OK) return ::X509_verify_cert_error_string(verdict);
  std::array<char, 256> text{};
  const unsigned long code = ::ERR_get_error();
  if (code == 0) return "the connection ended";
  ::ERR_error_string_n(code, text.data(), text.size());
  return text.data();
}

// The places where distributions keep their authorities; a static OpenSSL knows only Debian's.
void load_authorities(SSL_CTX* context) {
  ::SSL_CTX_set_default_verify_paths(context);
  if (std::getenv("SSL_CERT_FILE") != nullptr || std::getenv("SSL_CERT_DIR") != nullptr) return;
  for (const char* file : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}) {
    std::error_code ignored;
    if (std::filesystem::exists(file, ignored) && ::SSL_CTX_load_verify_locations(context, file, nullptr) == 1) return;
  }
}

// TLS through memory buffers: the socket's waiting, and its immunity to SIGPIPE, stay ours.
class TlsStream : public Stream {
 public:
  explicit TlsStream(const Url& url) : socket_(url), context_(::SSL_CTX_new(::TLS_client_method())) {
    check_internal(context_ != nullptr, "SSL_CTX_new");
    ::SSL_CTX_set_min_proto_version(context_.get(), TLS1_2_VERSION);
    ::SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    load_authorities(context_.get());
    session_.reset(::SSL_new(context_.get()));
    from_peer_ = ::BIO_new(::BIO_s_mem());
    to_peer_ = ::BIO_new(::BIO_s_mem());
    check_internal(session_ != nullptr && from_peer_ != nullptr && to_peer_ != nullptr, "SSL_new");
    ::SSL_set_bio(session_.get(), from_peer_, to_peer_);  // owns both from here on
    set_expected_name(url.host);
    ::SSL_set_connect_state(session_.get());
    run([&] { return ::SSL_do_handshake(session_.get()); }, "can't agree on encryption");
  }

  void write(std::string_view bytes) override {
    while (!bytes.empty()) {
      const int chunk = static_cast<int>(std::min<size_t>(bytes.size(), 1 << 14));
      const int sent = run([&] { return ::SSL_write(session_.get(), bytes.data(), chunk); }, "can't send");
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    flush();
  }

  size_t read(std::span<char> out) override {
    const int limit = static_cast<int>(std::min<size_t>(out.size(), 1 << 20));
    return static_cast<size_t>(run([&] { return ::SSL_read(session_.get(), out.data(), limit); }, "can't receive"));
  }

 private:
  void set_expected_name(const std::string& host) {
    X509_VERIFY_PARAM* expected = ::SSL_get0_param(session_.get());
    if (::X509_VERIFY_PARAM_set1_ip_asc(expected, host.c_str()) == 1) return;
    ::ERR_clear_error();
    ::SSL_set_tlsext_host_name(session_.get(), host.c_str());
    check_internal(::SSL_set1_host(session_.get(), host.c_str()) == 1, "SSL_set1_host");
  }

  void flush() {
    std::array<char, 1 << 14> buffer;
    while (true) {
      const int size = ::BIO_read(to_peer_, buffer.data(), static_cast<int>(buffer.size()));
      if (size <= 0) return;
      socket_.write({buffer.data(), static_cast<size_t>(size)});
    }
  }

  // Repeats the step until it needs nothing more from the peer. 0: the peer is done.
  template <typename Step>
  int run(Step step, const char* what) {
    while (true) {
      ::ERR_clear_error();
      const int result = step();
      flush();
      if (result > 0) return result;
      const int reason = ::SSL_get_error(session_.get(), result);
      if (reason == SSL_ERROR_ZERO_RETURN) return 0;
      if (reason == SSL_ERROR_WANT_WRITE) continue;
      if (reason != SSL_ERROR_WANT_READ) {
        fail(ErrorKind::kIo, "{}: {}: {}", socket_.name(), what, tls_reason(session_.get()));
      }
      std::array<char, 1 << 15> buffer;
      const size_t got = socket_.read(buffer);
      if (got == 0) fail(ErrorKind::kIo, "{}: {}: the connection was cut", socket_.name(), what);
      ::BIO_write(from_peer_, buffer.data(), static_cast<int>(got));
    }
  }

  Socket socket_;
  std::unique_ptr<SSL_CTX, FreeContext> context_;
  std::unique_ptr<SSL, FreeSession> session_;
  BIO* from_peer_ = nullptr;
  BIO* to_peer_ = nullptr;
};

}  // namespace

std::unique_ptr<Stream> connect_to(const Url& url) {
  if (url.scheme == "https") return std::make_unique<TlsStream>(url);
  return std::make_unique<Socket>(url);
}

}  // namespace edgewise::hub
