#pragma once

#include <string>
#include <string_view>

namespace edgewise::hub {

struct Url {
  std::string scheme;  // http or https
  std::string host;    // without the brackets of an IPv6 address
  std::string port;
  std::string target;  // path and query, never empty

  bool same_origin(const Url& other) const {
    return scheme == other.scheme && host == other.host && port == other.port;
  }
  std::string text() const;
  // For the Host header.
  std::string authority() const;
};

// Throws Error(kUsage) for anything but http(s)://host[:port][/...].
Url parse_url(std::string_view text);
// Where a Location header seen at `base` leads.
Url resolve_location(const Url& base, std::string_view location);
// Percent-encodes all but unreserved characters and slashes.
std::string encode_path(std::string_view path);

}  // namespace edgewise::hub
