// The user's own SQL. Four fences: the connection is read-only, an authorizer admits reading only,
// a progress handler ends what takes too long, and no value is longer than an answer may be.
#include <fmt/format.h>

#include "base/clock.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "coordinator/store/reader_impl.h"

namespace dsv3::store {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
// Virtual-machine instructions between two looks at the clock: well under a millisecond.
constexpr int kProgressInstructions = 10'000;

int authorize(void*, int action, const char*, const char*, const char*, const char*) {
  const bool reads = action == SQLITE_SELECT || action == SQLITE_READ ||
                     action == SQLITE_FUNCTION || action == SQLITE_RECURSIVE;
  return reads ? SQLITE_OK : SQLITE_DENY;
}

int is_overdue(void* deadline_ns) {
  return system_clock().steady_ns() > *static_cast<int64_t*>(deadline_ns) ? 1 : 0;
}

// Sets the fences for the lifetime of one query.
class Fences {
 public:
  Fences(sqlite3* db, int64_t* deadline_ns) : db_(db) {
    sqlite3_set_authorizer(db_, authorize, nullptr);
    sqlite3_progress_handler(db_, kProgressInstructions, is_overdue, deadline_ns);
    length_max_ =
        sqlite3_limit(db_, SQLITE_LIMIT_LENGTH, static_cast<int>(protocol::kFrameMaxBytes));
  }
  ~Fences() {
    sqlite3_set_authorizer(db_, nullptr, nullptr);
    sqlite3_progress_handler(db_, 0, nullptr, nullptr);
    sqlite3_limit(db_, SQLITE_LIMIT_LENGTH, length_max_);
  }
  Fences(const Fences&) = delete;
  Fences& operator=(const Fences&) = delete;

 private:
  sqlite3* db_;
  int length_max_;
};

struct StatementDeleter {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};

// True when protobuf would take it as a string.
bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    size_t length = 0;
    if (byte < 0x80) length = 1;
    if (byte >= 0xC2 && byte < 0xE0) length = 2;
    if (byte >= 0xE0 && byte < 0xF0) length = 3;
    if (byte >= 0xF0 && byte < 0xF5) length = 4;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0u) != 0x80u) return false;
    }
    i += length;
  }
  return true;
}

int64_t read_cell(sqlite3_stmt* row, int column, wire::SqlCell* cell) {
  const int bytes = sqlite3_column_bytes(row, column);
  switch (sqlite3_column_type(row, column)) {
    case SQLITE_INTEGER:
      cell->set_integer(sqlite3_column_int64(row, column));
      break;
    case SQLITE_FLOAT:
      cell->set_real(sqlite3_column_double(row, column));
      break;
    case SQLITE_TEXT: {
      const auto* chars = reinterpret_cast<const char*>(sqlite3_column_text(row, column));
      const std::string text(chars, static_cast<size_t>(bytes));
      if (is_utf8(text)) {
        cell->set_text(text);
      } else {
        cell->set_blob(text);
      }
      break;
    }
    case SQLITE_BLOB:
      cell->set_blob(sqlite3_column_blob(row, column), static_cast<size_t>(bytes));
      break;
    default:
      break;
  }
  return bytes + 16;
}

Status invalid_sql(sqlite3* db) {
  if (sqlite3_errcode(db) == SQLITE_AUTH)
    return Status(Code::kInvalid, "SQL: only reading statements are allowed", "use a SELECT");
  return Status(Code::kInvalid, fmt::format("SQL: {}", sqlite3_errmsg(db)),
                "views: metrics, validations, expert_usage, events, jobs, memory, starts");
}

}  // namespace

Status Reader::query(const std::string& text, uint32_t limit, int time_limit_ms,
                     wire::SqlReply* reply) {
  sqlite3* db = impl_->db->getHandle();
  int64_t deadline_ns = system_clock().steady_ns() + time_limit_ms * kNsPerMs;
  const Fences fences(db, &deadline_ns);
  sqlite3_stmt* raw = nullptr;
  const char* rest = nullptr;
  if (sqlite3_prepare_v2(db, text.data(), static_cast<int>(text.size()), &raw, &rest) != SQLITE_OK)
    return invalid_sql(db);
  const std::unique_ptr<sqlite3_stmt, StatementDeleter> statement(raw);
  if (raw == nullptr) return Status(Code::kInvalid, "SQL: there is no statement");
  const std::string_view tail(rest, static_cast<size_t>(text.data() + text.size() - rest));
  if (tail.find_first_not_of(" \t\r\n;") != std::string_view::npos) {
    return Status(Code::kInvalid, "SQL: one statement at a time");
  }
  if (sqlite3_stmt_readonly(raw) == 0)
    return Status(Code::kInvalid, "SQL: only reading statements are allowed");
  const int num_columns = sqlite3_column_count(raw);
  for (int i = 0; i < num_columns; ++i) reply->add_columns(sqlite3_column_name(raw, i));
  int64_t bytes = 0;
  while (true) {
    const int rc = sqlite3_step(raw);
    if (rc == SQLITE_DONE) return {};
    if (rc == SQLITE_INTERRUPT) {
      return Status(Code::kTimeout, fmt::format("SQL: stopped after {} ms", time_limit_ms),
                    "ask for less, or filter by job and step");
    }
    if (rc != SQLITE_ROW) return invalid_sql(db);
    if (reply->rows_size() == static_cast<int>(limit) || bytes > kReplySoftLimitBytes) {
      reply->set_more(true);
      return {};
    }
    wire::SqlRow* row = reply->add_rows();
    for (int i = 0; i < num_columns; ++i) bytes += read_cell(raw, i, row->add_cells());
  }
}

}  // namespace dsv3::store
