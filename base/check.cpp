// The one place where a programmer error ends the process; see check.h.
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace dsv3 {

void check_failed(const char* file, int line, const char* expr, std::string_view note) {
  std::fprintf(stderr, "%s:%d: check failed: %s", file, line, expr);
  if (!note.empty()) std::fprintf(stderr, " (%.*s)", static_cast<int>(note.size()), note.data());
  std::fputc('\n', stderr);
  std::abort();
}

}  // namespace dsv3
