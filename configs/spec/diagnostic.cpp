// Printing diagnostics and folding them into a Status.
#include "configs/spec/diagnostic.h"

#include <fmt/core.h>

#include <algorithm>

namespace dsv3::spec {

const char* severity_name(Severity severity) {
  return severity == Severity::kError ? "error" : "warning";
}

std::string to_string(const Diagnostic& d) {
  std::string out;
  if (!d.where.empty()) out += d.where + ": ";
  out += fmt::format("{}: {}", severity_name(d.severity), d.message);
  if (!d.hint.empty()) out += fmt::format(" ({})", d.hint);
  out += fmt::format(" [{}]", d.code);
  return out;
}

bool has_errors(const std::vector<Diagnostic>& diagnostics) {
  return std::any_of(diagnostics.begin(), diagnostics.end(),
                     [](const Diagnostic& d) { return d.severity == Severity::kError; });
}

Status to_status(const std::vector<Diagnostic>& diagnostics) {
  const Diagnostic* first = nullptr;
  int more = -1;
  for (const Diagnostic& d : diagnostics) {
    if (d.severity != Severity::kError) continue;
    if (!first) first = &d;
    ++more;
  }
  if (!first) return Status();
  std::string message = first->message;
  if (more > 0) message += fmt::format(" (and {} more error{})", more, more == 1 ? "" : "s");
  return Status(Code::kInvalid, std::move(message), first->hint, first->where);
}

}  // namespace dsv3::spec
