// Reader: questions to dsv3d.db over a read-only connection, beside the one Writer.
//
// Law: nothing here can change the database, and no question takes for ever: every one has a row
// limit, and query() has a time limit.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::wire {
class EventsReply;
class ExpertsReply;
class FollowReply;
class MemoryReply;
class MetricsReply;
class SqlReply;
}  // namespace dsv3::wire

namespace dsv3::store {

// A reply is cut when its rows reach about this size, and says so (`more`).
inline constexpr int64_t kReplySoftLimitBytes = int64_t{8} << 20;

// Not thread-safe. Move-only. Replies are appended to; the caller gives empty ones.
class Reader {
 public:
  // The database must exist (Writer::open made it).
  static Result<Reader> open(const std::string& state_dir);

  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  // Fills what the metrics know of a job: step, loss, tokens_per_s, mfu, grad_norm, lr, step_s,
  // validation, lost_steps (trained again, or to be trained again by the newest attempt), and
  // effective_time_ratio = Σ step_s of the other steps / (until − launched); absent where there is
  // none yet.
  Status fill_progress(uint32_t job_number, int64_t launched_ns, int64_t until_ns,
                       wire::JobStatus* status);
  // Events after a seq; job "" means all.
  Status events(const std::string& job, int64_t after_seq, uint32_t limit,
                wire::EventsReply* reply);
  // Steps after `after_step`, each once with its last attempt, and the validations of the same
  // range.
  Status metrics(uint32_t job_number, int64_t after_step, uint32_t limit,
                 wire::MetricsReply* reply);
  // Rows after the reply's cursors, in the order of their arrival; moves the cursors. For following
  // a live job.
  Status follow(const std::string& job, uint32_t job_number, uint32_t limit,
                wire::FollowReply* reply);
  // The counts of a step (nullopt: the newest) and how many of those choices a capacity dropped,
  // where that is known; kNotFound when there are no counts.
  Status experts(uint32_t job_number, std::optional<int64_t> step, wire::ExpertsReply* reply);
  // The ledgers of the newest attempt that has sent some.
  Status memory(uint32_t job_number, wire::MemoryReply* reply);
  // One SELECT by the user. kInvalid: not one statement, an error in it, or one that isn't
  // read-only. kTimeout: over time_limit_ms.
  Status query(const std::string& statement, uint32_t limit, int time_limit_ms,
               wire::SqlReply* reply);

 private:
  struct Impl;
  explicit Reader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv3::store
