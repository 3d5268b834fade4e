// Diagnostic: one thing that is wrong (error) or doubtful (warning) in a configuration.
//
// Law: a config's faults are reported all at once, each with a stable code, the place where the
// user wrote it, and what would work. Codes are those of `dsv3ctl validate --json`; none is ever
// renamed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace dsv3::spec {

enum class Severity { kError, kWarning };

struct Diagnostic {
  Severity severity = Severity::kError;
  std::string code;   // stable, e.g. "UNKNOWN_KEY", "EP_NOT_DIVIDING_EXPERTS"
  std::string where;  // "file:line:col" (1-based), "--set a.b=c", or "" for a value nobody wrote (a
                      // default)
  std::string key;    // canonical dotted key; as written for an unknown key; "" for the whole file
  std::string message;  // one sentence with the values
  std::string hint;     // what would work; "" when there is nothing to add
};

// Canonical key → place where its value was given ("file:line:col" or "--set a.b=c"). Keys left to
// their default are absent.
struct Origins : std::map<std::string, std::string> {
  // A file that to_yaml() wrote, "": none. It holds every key, so that one stands there says
  // nothing of what anybody wished.
  std::string written_file;
  // Somebody gave the key a value.
  bool wished(const std::string& key) const {
    const auto it = find(key);
    return it != end() && (written_file.empty() || !it->second.starts_with(written_file + ":"));
  }
};

// "error" or "warning".
const char* severity_name(Severity severity);
// "where: error: message (hint) [CODE]" with absent parts left out: one line for a person.
std::string to_string(const Diagnostic& diagnostic);
bool has_errors(const std::vector<Diagnostic>& diagnostics);
// Ok when there is no error; else kInvalid with the first error's sentence, hint and place, and how
// many more there are.
Status to_status(const std::vector<Diagnostic>& diagnostics);

}  // namespace dsv3::spec
