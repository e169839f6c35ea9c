#include "grammar/formats.h"

#include <utility>

namespace edgewise::grammar {
namespace {

// The years 0001 to 9999; 29 February only in leap years.
#define EDGEWISE_DATE                                                                   \
  R"((?:(?:\d{3}[1-9]|\d{2}[1-9]0|\d[1-9]00|[1-9]000)-)"                                \
  R"((?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30))" \
  R"(|02-(?:0[1-9]|1\d|2[0-8])))"                                                       \
  R"(|(?:\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29))"
#define EDGEWISE_TIME R"((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d))"
#define EDGEWISE_OCTET R"((?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d))"
#define EDGEWISE_IPV4 EDGEWISE_OCTET R"((?:\.)" EDGEWISE_OCTET R"(){3})"
#define EDGEWISE_LABEL R"([A-Za-z0-9](?:-?[A-Za-z0-9]){0,24})"
#define EDGEWISE_HOST EDGEWISE_LABEL R"((?:\.)" EDGEWISE_LABEL R"(){0,4})"
#define EDGEWISE_H16 "[0-9a-fA-F]{1,4}"
#define EDGEWISE_URI_CHAR R"((?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}))"

constexpr std::pair<std::string_view, std::string_view> kFormats[] = {
    {"date", EDGEWISE_DATE},
    {"time", EDGEWISE_TIME},
    {"date-time", EDGEWISE_DATE "T" EDGEWISE_TIME},
    {"duration", R"(P(?:\d{1,4}W|(?:\d{1,4}Y(?:\d{1,4}M(?:\d{1,4}D)?)?|\d{1,4}M(?:\d{1,4}D)?|\d{1,4}D))"
                 R"((?:T(?:\d{1,4}H(?:\d{1,4}M(?:\d{1,4}S)?)?|\d{1,4}M(?:\d{1,4}S)?|\d{1,4}S))?)"
                 R"(|T(?:\d{1,4}H(?:\d{1,4}M(?:\d{1,4}S)?)?|\d{1,4}M(?:\d{1,4}S)?|\d{1,4}S)))"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", R"([A-Za-z0-9_+](?:[.-]?[A-Za-z0-9_+]){0,31}@)" EDGEWISE_HOST},
    {"hostname", EDGEWISE_HOST},
    {"ipv4", EDGEWISE_IPV4},
    {"ipv6", "(?:" EDGEWISE_H16 ":){7}" EDGEWISE_H16 "|::(?:" EDGEWISE_H16 "(?::" EDGEWISE_H16 "){0,6})?"
             "|" EDGEWISE_H16 "::(?:" EDGEWISE_H16 "(?::" EDGEWISE_H16 "){0,5})?"
             "|" EDGEWISE_H16 ":" EDGEWISE_H16 "::(?:" EDGEWISE_H16 "(?::" EDGEWISE_H16 "){0,4})?"
             "|(?:" EDGEWISE_H16 ":){2}" EDGEWISE_H16 "::(?:" EDGEWISE_H16 "(?::" EDGEWISE_H16 "){0,3})?"
             "|(?:" EDGEWISE_H16 ":){3}" EDGEWISE_H16 "::(?:" EDGEWISE_H16 "(?::" EDGEWISE_H16 "){0,2})?"
             "|(?:" EDGEWISE_H16 ":){4}" EDGEWISE_H16 "::(?:" EDGEWISE_H16 "(?::" EDGEWISE_H16 ")?)?"
             "|(?:" EDGEWISE_H16 ":){5}" EDGEWISE_H16 "::(?:" EDGEWISE_H16 ")?"},
    {"uri", R"([a-zA-Z][a-zA-Z0-9+.-]{0,15}://)" EDGEWISE_HOST R"((?::\d{1,4})?(?:/)" EDGEWISE_URI_CHAR
            R"(*)*(?:\?(?:[/?]|)" EDGEWISE_URI_CHAR R"()*)?(?:#(?:[/?]|)" EDGEWISE_URI_CHAR R"()*)?)"},
};

}  // namespace

std::optional<std::string_view> format_pattern(std::string_view name) {
  for (const auto& [known, pattern] : kFormats) {
    if (known == name) return pattern;
  }
  return std::nullopt;
}

}  // namespace edgewise::grammar
