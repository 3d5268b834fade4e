// The rules behind validate(): what the model alone says, what layout and machine add, what a run
// needs, and what has no effect.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/spec/validate.h"

namespace dsv3::spec {

// Collects diagnostics with the place where a key was given.
class Findings {
 public:
  explicit Findings(const Origins* origins) : origins_(origins) {}

  // Someone gave the key, in the file or after --set; with no origins nobody did.
  bool given(std::string_view key) const {
    return origins_ != nullptr && origins_->wished(std::string(key));
  }
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
// NO_EFFECT: a value that someone gave, that is not the default, and that changes nothing here.
void check_effects(const JobSpec& job, Findings& out);
void check_training(const JobSpec& job, const ValidateOptions& options, Findings& out);

// A size that the planner has chosen or the user; −1 is the planner's choice.
inline bool is_fixed(int64_t size) {
  return size > 0;
}
// The size, 1 for the planner's choice.
inline int64_t or_one(int64_t size) {
  return size > 0 ? size : 1;
}
// "1, 2, 4, 8": the divisors of n that are ≤ limit, at most eight.
std::string divisors_text(int64_t n, int64_t limit);
// The multiple of `step` (≥ 1) nearest to `value`, at least `step`.
int64_t nearest_multiple(int64_t value, int64_t step);

}  // namespace dsv3::spec
