// Small shared parts of Writer and Reader, private to this folder: exceptions become Status here
// and nowhere else.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>
#include <fmt/format.h>
#include <sqlite3.h>

#include <limits>
#include <string>

#include "base/status.h"

namespace dsv3::store {

inline constexpr int kBusyTimeoutMs = 5'000;

inline Status from_exception(const char* what, const SQLite::Exception& error) {
  const bool full = error.getErrorCode() == SQLITE_FULL;
  return Status(Code::kFailed, fmt::format("{}: {}", what, error.getErrorStr()),
                full ? "make room on the disk of the state directory" : "");
}

// Runs `body` (which returns a Status) and turns SQLite's exceptions into one.
template <typename Body>
Status guarded(const char* what, Body&& body) {
  try {
    return body();
  } catch (const SQLite::Exception& error) {
    return from_exception(what, error);
  }
}

// A REAL as it was written: NULL stands for NaN.
inline double real_of(const SQLite::Column& column) {
  return column.isNull() ? std::numeric_limits<double>::quiet_NaN() : column.getDouble();
}

}  // namespace dsv3::store
