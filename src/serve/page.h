// The chat page at "/": one file of HTML and script that needs no network.
#pragma once

#include <string_view>

extern "C" const char edgewise_page_begin;
extern "C" const char edgewise_page_end;

namespace edgewise {

inline std::string_view chat_page() {
  return {&edgewise_page_begin, static_cast<size_t>(&edgewise_page_end - &edgewise_page_begin)};
}

}  // namespace edgewise
