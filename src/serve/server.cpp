#include "serve/server.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <random>

#include "base/error.h"
#include "serve/answer.h"
#include "serve/embeddings.h"
#include "serve/openai_reply.h"
#include "serve/page.h"

namespace edgewise {
namespace {

constexpr std::string_view kJson = "application/json";

std::string fresh_id(ApiKind kind) {
  static std::atomic<uint64_t> count{(uint64_t{std::random_device{}()} << 32)};
  return fmt::format("{}-{:016x}", kind == ApiKind::kChat ? "chatcmpl" : "cmpl", ++count);
}

// Takes as long for every wrong key.
bool same_key(std::string_view given, std::string_view expected) {
  size_t difference = given.size() ^ expected.size();
  for (size_t i = 0; i < given.size(); ++i) {
    difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(expected[i % expected.size()]);
  }
  return difference == 0;
}

int status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
    case ErrorKind::kBadFile:  // the body is the file
    case ErrorKind::kUnsupported:
      return 400;
    case ErrorKind::kBusy:
      return 429;
    default:
      return 500;
  }
}

// Answers with what `work` throws.
void send_errors(HttpReply& reply, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    const int status = status_of(error.kind());
    const char* type = status == 400 ? "invalid_request_error" : status == 429 ? "rate_limit_error" : "server_error";
    reply.send(status, kJson, error_body(error.what(), type));
  } catch (const std::exception& error) {
    reply.send(500, kJson, error_body(error.what(), "server_error"));
  }
}

}  // namespace

ApiServer::ApiServer(Session& session, const ServeOptions& options)
    : session_(session),
      options_(options),
      http_(options.host, options.port, options.http,
            [this](const auto& request, const auto& reply) { handle(request, reply); }),
      service_(session, options.max_waiting, [this] { http_.stop(); }) {}

void ApiServer::handle(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  send_errors(*reply, [&] { route(request, reply); });
}

void ApiServer::route(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  const std::string& path = request.path;
  const auto not_allowed = [&](const char* method) {
    if (request.method == method) return false;
    reply->send(405, kJson, error_body(fmt::format("{} takes {}", path, method), "invalid_request_error"));
    return true;
  };
  if (path == "/") return reply->send(200, "text/html; charset=utf-8", std::string(chat_page()));
  if (path == "/health") return reply->send(200, kJson, R"({"status": "ok"})");
  if (path == "/ready") {
    const bool ready = !http_.draining();
    return reply->send(ready ? 200 : 503, kJson, ready ? R"({"status": "ready"})" : R"({"status": "draining"})");
  }
  if (!authorized(request)) {
    return reply->send(401, kJson, error_body("the API key is missing or wrong", "authentication_error"));
  }
  if (path == "/metrics") return reply->send(200, "text/plain; version=0.0.4", metrics_.text(service_.stats()));
  if (path == "/v1/models") return reply->send(200, kJson, models());
  if (path == "/v1/chat/completions") return not_allowed("POST") ? void() : answer(ApiKind::kChat, request, reply);
  if (path == "/v1/completions") return not_allowed("POST") ? void() : answer(ApiKind::kText, request, reply);
  if (path == "/v1/embeddings") return not_allowed("POST") ? void() : embed(request, reply);
  if (options_.lora_updates && (path == "/v1/load_lora_adapter" || path == "/v1/unload_lora_adapter")) {
    if (not_allowed("POST")) return;
    const bool load = path == "/v1/load_lora_adapter";
    // Files may be large: a thread of its own reads them.
    update_ = std::async(std::launch::async, [this, load, request, reply] {
      send_errors(*reply, [&] { reply->send(200, kJson, update_adapters(request.body, load)); });
    });
    return;
  }
  if (path == "/tokenize") return not_allowed("POST") ? void() : reply->send(200, kJson, tokenize(request.body));
  if (path == "/detokenize") return not_allowed("POST") ? void() : reply->send(200, kJson, detokenize(request.body));
  reply->send(404, kJson, error_body(fmt::format("{}: no such route", path), "invalid_request_error"));
}

bool ApiServer::authorized(const HttpRequest& request) const {
  if (options_.api_key.empty()) return true;
  constexpr std::string_view kBearer = "Bearer ";
  const std::string_view given = request.authorization;
  return given.starts_with(kBearer) && same_key(given.substr(kBearer.size()), options_.api_key);
}

// The model that is asked for, the server's own unless named; false when it was refused.
bool ApiServer::choose_model(std::string& model, std::vector<Request>& requests,
                             const std::shared_ptr<HttpReply>& reply) const {
  const auto names = model_names();
  if (model.empty()) model = options_.model;
  if (std::ranges::find(names, model) == names.end()) {
    const std::string why = fmt::format("model \"{}\": this server has {}", model, fmt::join(names, ", "));
    reply->send(404, kJson, error_body(why, "invalid_request_error"));
    return false;
  }
  for (Request& each : requests) each.adapter = model == options_.model ? "" : model;
  return true;
}

// All of them or none; those of a client that goes away are cancelled.
void ApiServer::submit(const std::vector<Request>& requests, const std::function<ProgressCallback(size_t)>& callback,
                       const std::shared_ptr<HttpReply>& reply) {
  std::vector<Service::Ticket> tickets;
  const auto cancel = [this](const std::vector<Service::Ticket>& submitted) {
    for (const Service::Ticket ticket : submitted) service_.cancel(ticket);
  };
  try {
    for (size_t i = 0; i < requests.size(); ++i) tickets.push_back(service_.submit(requests[i], callback(i)));
  } catch (const Error&) {
    cancel(tickets);
    throw;
  }
  reply->on_gone([cancel, tickets] { cancel(tickets); });
}

void ApiServer::answer(ApiKind kind, const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  ApiCall call = parse_api_call(kind, request.body, session_);
  if (!choose_model(call.model, call.requests, reply)) return;
  ReplyHead head{fresh_id(kind), call.model, static_cast<int64_t>(std::time(nullptr))};
  const auto shared = std::make_shared<Answer>(std::move(call), std::move(head), reply, session_.tokenizer(), metrics_);
  submit(
      shared->call().requests,
      [&](size_t i) {
        return
            [shared, i](const Completion& so_far, std::string_view text) { return shared->progress(i, so_far, text); };
      },
      reply);
}

void ApiServer::embed(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  EmbeddingCall call = parse_embedding_call(request.body, session_);
  if (!choose_model(call.model, call.requests, reply)) return;
  const auto shared = std::make_shared<EmbeddingAnswer>(std::move(call), reply);
  submit(
      shared->requests(),
      [&](size_t i) {
        return [shared, i](const Completion& so_far, std::string_view) { return shared->progress(i, so_far); };
      },
      reply);
}

// The model, then its adapters.
std::vector<std::string> ApiServer::model_names() const {
  auto names = session_.adapters().names();
  names.insert(names.begin(), options_.model);
  return names;
}

std::string ApiServer::models() const {
  OrderedJson list = OrderedJson::array();
  for (const std::string& name : model_names()) {
    list.push_back({{"id", name},
                    {"object", "model"},
                    {"created", 0},
                    {"owned_by", "edgewise"},
                    {"max_model_len", session_.info().kv_capacity}});
    if (name != options_.model) list.back()["parent"] = options_.model;
  }
  return OrderedJson{{"object", "list"}, {"data", list}}.dump();
}

// {"lora_name", "lora_path"} -> {"modules", "warning"?}, or {"lora_name"} -> {}
std::string ApiServer::update_adapters(const std::string& text, bool load) {
  const Json document = parse_json(text, "the request");
  const JsonView body(document, "the request");
  if (!document.is_object()) usage_error("the request: expected a JSON object");
  const std::string name = body.string("lora_name");
  if (name == options_.model) usage_error("lora_name: the model itself is called {}", name);
  Json result = Json::object();
  if (load) result["modules"] = session_.adapters().add(name, body.string("lora_path"));
  if (const auto doubt = session_.adapter_warning(); load && !doubt.empty()) result["warning"] = doubt;
  service_.between_steps([&] {
    if (!load) session_.adapters().remove(name);
    session_.adapters().unload_unused();  // the service wakes up when the next one is due
  });
  return result.dump();
}

// {"prompt" or "text": "...", "add_special_tokens": true} -> {"count", "tokens"}
std::string ApiServer::tokenize(const std::string& text) const {
  const Json document = parse_json(text, "the request");
  const JsonView body(document, "the request");
  if (!document.is_object()) usage_error("the request: expected a JSON object");
  const auto ids = session_.tokenizer().encode(body.string(body.has("text") ? "text" : "prompt"),
                                               body.boolean("add_special_tokens", true));
  return Json{{"count", ids.size()}, {"tokens", ids}, {"max_model_len", session_.info().kv_capacity}}.dump();
}

// {"tokens": [...]} -> {"prompt": "..."}
std::string ApiServer::detokenize(const std::string& text) const {
  const Json document = parse_json(text, "the request");
  const JsonView body(document, "the request");
  if (!document.is_object() || !body.has("tokens") || !document.at("tokens").is_array()) {
    usage_error("tokens: expected an array of ids");
  }
  std::vector<int32_t> ids;
  for (const Json& id : document.at("tokens")) {
    if (!id.is_number_integer()) body.reject("tokens", "an array of ids");
    ids.push_back(static_cast<int32_t>(std::clamp<int64_t>(id.get<int64_t>(), -1, INT32_MAX)));
  }
  return Json{{"prompt", session_.tokenizer().decode(ids, false)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace edgewise
