#include "hub/url.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace edgewise::hub {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

bool has_spaces_or_controls(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return c == ' ' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

}  // namespace

std::string Url::authority() const {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  const bool usual = port == (scheme == "https" ? "443" : "80");
  return usual ? name : name + ":" + port;
}

std::string Url::text() const { return scheme + "://" + authority() + target; }

Url parse_url(std::string_view text) {
  const auto reject = [&](const char* why) { usage_error("{}: {}; expected http(s)://host[:port][/path]", text, why); };
  if (has_spaces_or_controls(text)) reject("holds spaces or control characters");
  const size_t colon = text.find("://");
  if (colon == std::string_view::npos) reject("not an address");
  Url url;
  url.scheme = lower(text.substr(0, colon));
  if (url.scheme != "http" && url.scheme != "https") reject("not http or https");
  std::string_view rest = text.substr(colon + 3);
  const size_t path = std::min(rest.find_first_of("/?#"), rest.size());
  std::string_view authority = rest.substr(0, path);
  rest = rest.substr(path);
  rest = rest.substr(0, rest.find('#'));
  url.target = rest.empty() || rest[0] != '/' ? "/" + std::string(rest) : std::string(rest);
  if (authority.find('@') != std::string_view::npos) reject("carries a user name");
  size_t port = authority.rfind(':');
  if (authority.starts_with('[')) {
    const size_t close = authority.find(']');
    if (close == std::string_view::npos) reject("an address without ']'");
    url.host = lower(authority.substr(1, close - 1));
    port = close + 1 < authority.size() ? close + 1 : std::string_view::npos;
  } else {
    url.host = lower(authority.substr(0, port));
  }
  url.port =
      port == std::string_view::npos ? (url.scheme == "https" ? "443" : "80") : std::string(authority.substr(port + 1));
  const bool digits =
      !url.port.empty() && url.port.size() <= 5 && url.port.find_first_not_of("0123456789") == std::string::npos;
  if (url.host.empty() || !digits) reject("a missing host or a bad port");
  return url;
}

Url resolve_location(const Url& base, std::string_view location) {
  if (location.starts_with("//")) return parse_url(base.scheme + ":" + std::string(location));
  if (location.find("://") < location.find_first_of("/?#")) return parse_url(location);
  Url url = base;
  if (has_spaces_or_controls(location)) usage_error("{}: redirects to a broken address", base.text());
  if (location.starts_with('/')) {
    url.target = std::string(location);
  } else {
    const std::string path = base.target.substr(0, base.target.find('?'));
    url.target = path.substr(0, path.rfind('/') + 1) + std::string(location);
  }
  url.target = url.target.substr(0, url.target.find('#'));
  return url;
}

std::string encode_path(std::string_view path) {
  std::string out;
  for (const char c : path) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.' || c == '~' || c == '/';
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

}  // namespace edgewise::hub
