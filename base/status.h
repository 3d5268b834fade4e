// Operating errors travel as values: Status and Result<T>. No exception crosses a module's edge.
//
// Law: the codes are frozen. The same number is the process's exit code, the code on the wire and
// the code in SQLite, so a number seen anywhere can be looked up here (DESIGN.md, "Command line").
// An error is one sentence: what, where, and what to do.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "base/check.h"

namespace dsv3 {

// Frozen: never renumber. 1–7, 124, 130, 143 are exit codes of dsv3ctl; 10–15, 75, 93 of
// dsv3-worker and dsv3-agent.
enum class Code : int {
  kOk = 0,
  kFailed = 1,
  kInvalid = 2,
  kNoCoordinator = 3,
  kNotAuthorised = 4,
  kNotFound = 5,
  kDoesNotFit = 6,
  kConflict = 7,
  kDevice = 10,
  kPeerLost = 11,
  kCollectiveTimeout = 12,
  kOutOfMemory = 13,
  kLossNotFinite = 14,
  kCheckpointUnusable = 15,
  kTemporary = 75,
  kNeverRestart = 93,
  kTimeout = 124,
  kInterrupted = 130,
  kTerminated = 143,
};

// The name of a code as printed in `--json` errors and stored beside the number ("does_not_fit").
const char* code_name(Code code);

// Ok, or a code with one sentence, optionally a hint (what to do) and a place ("file:line:col").
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message, std::string hint = {}, std::string where = {})
      : code_(code),
        message_(std::move(message)),
        hint_(std::move(hint)),
        where_(std::move(where)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& hint() const { return hint_; }
  const std::string& where() const { return where_; }
  // "where: message; hint" with the absent parts left out: what a person reads on stderr.
  std::string to_string() const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
  std::string hint_;
  std::string where_;
};

// A T, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {
    DSV3_CHECK(!status_.ok());
  }  // NOLINT: implicit by design

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & {
    DSV3_CHECK(ok());
    return *value_;
  }
  const T& value() const& {
    DSV3_CHECK(ok());
    return *value_;
  }
  T&& value() && {
    DSV3_CHECK(ok());
    return std::move(*value_);
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace dsv3

#define DSV3_CONCAT_INNER(a, b) a##b
#define DSV3_CONCAT(a, b) DSV3_CONCAT_INNER(a, b)

// Returns the Status of `expr` from the enclosing function unless it is ok.
#define DSV3_RETURN_IF_ERROR(expr)                                                  \
  do {                                                                              \
    if (::dsv3::Status dsv3_status = (expr); !dsv3_status.ok()) return dsv3_status; \
  } while (false)

// DSV3_ASSIGN_OR_RETURN(auto x, f()): x is the value of f(), or its Status is returned.
#define DSV3_ASSIGN_OR_RETURN(decl, expr) \
  DSV3_ASSIGN_OR_RETURN_INNER(DSV3_CONCAT(dsv3_result_, __LINE__), decl, expr)
#define DSV3_ASSIGN_OR_RETURN_INNER(tmp, decl, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return tmp.status();                \
  decl = std::move(tmp).value()
