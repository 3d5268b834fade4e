// How large a JSON text would become in memory, counted before it is parsed.
//
// Law: an outside text is parsed into a tree only within bounds that its reader states. A parsed
// value takes up to some 200 bytes where the text has two, so 100 MB of "[[],[],…" would be
// gigabytes.
#pragma once

#include <cstdint>
#include <string_view>

namespace dsv3 {

struct JsonBounds {
  int64_t values = 0;  // at most so many, containers included; exact for a well-formed text
  int64_t depth = 0;   // of brackets and braces
};

// One pass, no memory; any bytes will do.
JsonBounds json_bounds(std::string_view text);

}  // namespace dsv3
