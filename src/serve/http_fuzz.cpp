// Any bytes on a connection: the server answers, closes, or waits for more, and serves the next one. Where the first
// byte is below 8, the client leaves after so many reads of the answer, and the bytes behind it are what it sends.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "serve/http.h"

namespace {

int connect_to(int port) {
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  while (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EADDRNOTAVAIL) std::abort();  // else thousands of connections a second have used up all ports
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return connection;
}

std::atomic<int> endless_streams{0};

// Goes on until the client is gone.
void stream_without_end(const std::shared_ptr<edgewise::HttpReply>& reply, const std::string& piece) {
  ++endless_streams;
  auto gone = std::make_shared<std::atomic<bool>>(false);
  reply->begin("text/plain");
  reply->on_gone([gone] { *gone = true; });
  std::thread([=] {
    for (; !*gone; std::this_thread::sleep_for(std::chrono::microseconds(200))) reply->write(piece);
    --endless_streams;
  }).detach();
}

// Lives as long as the process, as its thread does.
edgewise::HttpServer& server() {
  using namespace edgewise;
  static HttpServer& server = *[] {
    auto made =
        std::make_unique<HttpServer>("127.0.0.1", 0, HttpLimits{}, [](const HttpRequest& request, const auto& reply) {
          if (request.path == "/endless") return stream_without_end(reply, request.body);
          if (request.path != "/stream") {
            return reply->send(200, "text/plain", request.method + request.path + request.authorization + request.body);
          }
          reply->begin("text/plain");
          reply->write(request.body);
          reply->end();
        });
    std::thread([&server = *made] { server.run(std::chrono::seconds(0)); }).detach();
    return made.release();
  }();
  return server;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  int reads = -1;  // to go; negative: to the answer's end
  if (size > 0 && data[0] < 8) {
    reads = *data++;
    --size;
  }
  const int connection = connect_to(server().port());
  (void)!send(connection, data, size, MSG_NOSIGNAL);
  shutdown(connection, SHUT_WR);
  char reply[4096];
  while (reads-- != 0 && recv(connection, reply, sizeof reply, 0) > 0) {
  }
  close(connection);
  // The server notices, or this takes too long.
  while (endless_streams > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  return 0;
}
