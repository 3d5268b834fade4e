// The rules behind validate(), in two files: what the model alone says, and what the layout and the
// machine add.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "configs/spec/validate.h"

namespace dsv3::spec {

// Collects diagnostics with the place where a key was given.
class Findings {
 public:
  explicit Findings(const Origins* origins) : origins_(origins) {}

  // `key` is canonical and names the value to change first.
  void error(const char* code, const char* key, std::string message, std::string hint) {
    add(Severity::kError, code, key, std::move(message), std::move(hint));
  }
  void warning(const char* code, const char* key, std::string message, std::string hint) {
    add(Severity::kWarning, code, key, std::move(message), std::move(hint));
  }
  std::vector<Diagnostic> take() { return std::move(found_); }

 private:
  void add(Severity severity, const char* code, const char* key, std::string message,
           std::string hint) {
    std::string where;
    if (origins_ != nullptr) {
      if (const auto it = origins_->find(key); it != origins_->end()) where = it->second;
    }
    found_.push_back({severity, code, std::move(where), key, std::move(message), std::move(hint)});
  }

  const Origins* origins_;
  std::vector<Diagnostic> found_;
};

void check_model(const JobSpec& job, Findings& out);
void check_layout(const JobSpec& job, const ValidateOptions& options, Findings& out);
void check_training(const JobSpec& job, const ValidateOptions& options, Findings& out);

// "1, 2, 4, 8": the divisors of n that are ≤ limit, at most eight.
std::string divisors_text(int64_t n, int64_t limit);
// The multiple of `step` (≥ 1) nearest to `value`, at least `step`.
int64_t nearest_multiple(int64_t value, int64_t step);

}  // namespace dsv3::spec
