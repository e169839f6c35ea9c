// Any bytes on a connection: the server answers, closes, or waits for more, and serves the next one.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

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
  if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
  return connection;
}

// Lives as long as the process, as its thread does.
edgewise::HttpServer& server() {
  using namespace edgewise;
  static HttpServer& server = *[] {
    auto made =
        std::make_unique<HttpServer>("127.0.0.1", 0, HttpLimits{}, [](const HttpRequest& request, const auto& reply) {
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
  const int connection = connect_to(server().port());
  (void)!send(connection, data, size, MSG_NOSIGNAL);
  shutdown(connection, SHUT_WR);
  char reply[4096];
  while (recv(connection, reply, sizeof reply, 0) > 0) {
  }
  close(connection);
  return 0;
}
