#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <array>

#include "base/error.h"
#include "text/regex_translate.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

constexpr uint32_t kMatchLimit = 2'000'000;  // bounds the backtracking of one match
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr size_t kJitStackBytes = 1 << 20;
constexpr uint32_t kCompileOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;

// What PCRE2 needs for matching besides the code; one a thread.
struct MatchState {
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);

  MatchState() {
    if (context == nullptr || data == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchState() {
    pcre2_jit_stack_free(stack);
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
};

MatchState& match_state() {
  thread_local MatchState state;
  return state;
}

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

pcre2_code* compile(const std::string& pattern, int& error) {
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(context, kMaxPatternBytes);
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), kCompileOptions,
                                   &error, &offset, context);
  pcre2_compile_context_free(context);
  return code;
}

}  // namespace

bool regex_compiles(const std::string& pattern) {
  int error = 0;
  pcre2_code* code = compile(pattern, error);
  pcre2_code_free(code);
  return code != nullptr;
}

struct Regex::Code {
  pcre2_code* code = nullptr;
  std::string where;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, std::string where) {
  auto owner = std::make_unique<Code>();
  int error = 0;
  owner->code = compile(translate_regex(pattern, where), error);
  if (owner->code == nullptr) {
    bad_file("{}: the regular expression \"{}\" does not compile: {}", where, pattern, error_text(error));
  }
  // Without JIT (an unsupported processor, no executable memory) PCRE2 interprets: slower, same results.
  pcre2_jit_compile(owner->code, PCRE2_JIT_COMPLETE);
  owner->where = std::move(where);
  code_ = std::move(owner);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, size_t from, Match& match) const {
  MatchState& state = match_state();
  const int result = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                 PCRE2_NO_UTF_CHECK, state.data, state.context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    unsupported("{}: matching the regular expression failed: {}", code_->where, error_text(result));
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state.data);
  match = {bounds[0], bounds[1], true};
  if (match.begin < from || match.end < match.begin) {
    unsupported("{}: the regular expression moves the start of a match (\\K)", code_->where);
  }
  return true;
}

void Regex::find_all(std::string_view text, std::vector<Match>& out) const {
  size_t from = 0;
  size_t covered = 0;
  bool matched_before = false;
  Match match;
  while (from <= text.size() && find(text, from, match)) {
    // An empty match right behind the previous match does not count.
    if (match.begin == match.end && matched_before && match.end == covered) {
      from += from < text.size() ? utf8_length(static_cast<unsigned char>(text[from])) : 1;
      continue;
    }
    if (covered != match.begin) out.push_back({covered, match.begin, false});
    out.push_back(match);
    covered = match.end;
    from = match.end;
    matched_before = true;
  }
  if (covered != text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace edgewise::tok
