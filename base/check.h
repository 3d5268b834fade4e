// Always-on checks for programmer errors: print the expression, the place and the note, then abort.
//
// Law: never used on outside input (that is Status, base/status.h) and never switched off.
#pragma once

#include <string_view>

namespace dsv3 {

// Prints "file:line: check failed: expr (note)" on stderr and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* expr, std::string_view note);

}  // namespace dsv3

// DSV3_CHECK(cond) or DSV3_CHECK(cond, "note"): aborts when cond is false.
#define DSV3_CHECK(cond, ...)                                                           \
  do {                                                                                  \
    if (!(cond)) [[unlikely]]                                                           \
      ::dsv3::check_failed(__FILE__, __LINE__, #cond, ::std::string_view{__VA_ARGS__}); \
  } while (false)
