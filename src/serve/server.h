// The OpenAI-compatible server: routes, keys, and answers on their way.
#pragma once

#include <string>

#include "runtime/service.h"
#include "serve/http.h"
#include "serve/metrics.h"
#include "serve/openai_request.h"

namespace edgewise {

struct ServeOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string model;    // the name clients ask for
  std::string api_key;  // empty: none
  int max_waiting = 256;
  bool lora_updates = false;       // clients may load and unload adapters
  std::chrono::seconds grace{30};  // for answers under way after SIGTERM
  HttpLimits http;
};

class ApiServer {
 public:
  ApiServer(Session& session, const ServeOptions& options);
  int port() const { return http_.port(); }
  // Until SIGTERM, SIGINT, stop() or a fault of the device, whose error the answers under way end with.
  void run() { http_.run(options_.grace); }
  void stop() { http_.stop(); }
  bool told_to_end() const { return http_.told_to_end(); }
  // Whether any answer has come to its end.
  bool has_answered() const { return service_.stats().stopped > 0; }

 private:
  void handle(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void route(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  bool authorized(const HttpRequest& request) const;
  bool choose_model(std::string& model, std::vector<Request>& requests, const std::shared_ptr<HttpReply>& reply) const;
  void submit(const std::vector<Request>& requests, const std::function<ProgressCallback(size_t)>& callback,
              const std::shared_ptr<HttpReply>& reply);
  void answer(ApiKind kind, const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void embed(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  std::vector<std::string> model_names() const;
  std::string models() const;
  std::string update_adapters(const std::string& body, bool load);
  std::string tokenize(const std::string& body) const;
  std::string detokenize(const std::string& body) const;

  Session& session_;
  ServeOptions options_;
  Metrics metrics_;
  HttpServer http_;  // outlives the service, whose callbacks write replies
  Service service_;
  std::future<void> update_;  // of adapters
};

}  // namespace edgewise
