// See json_bounds.h.
#include "base/json_bounds.h"

#include <algorithm>

namespace dsv3 {

JsonBounds json_bounds(std::string_view text) {
  JsonBounds bounds{.values = 1};
  int64_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') {
      // An empty container holds none; else its first value, and one more behind every comma.
      const size_t next = text.find_first_not_of(" \t\r\n", i + 1);
      const bool empty = next == std::string_view::npos || text[next] == ']' || text[next] == '}';
      bounds.values += empty ? 0 : 1;
      bounds.depth = std::max(bounds.depth, ++depth);
    }
    if (c == ']' || c == '}') --depth;
    if (c == ',') ++bounds.values;
  }
  return bounds;
}

}  // namespace dsv3
