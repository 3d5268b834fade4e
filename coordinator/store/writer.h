// Writer: the one process that writes dsv3d.db, and what it owns: the lock of the state directory.
//
// Law: commit() is one transaction: events, the jobs they changed, metrics, and the reports that
// brought them are there together or not at all; with events it is flushed to the disk
// (synchronous=FULL) before it returns. kill -9 loses nothing that commit() returned; a power
// failure may lose the newest commits that held metrics only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/core/event.h"
#include "coordinator/core/state.h"
#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::store {

// <state_dir>/dsv3d.db
std::string database_path(const std::string& state_dir);
// True for the statfs(2) magic numbers of file systems on which SQLite's locks can't be trusted
// (NFS, SMB, Lustre …).
bool is_network_filesystem(uint64_t magic);

// Of which job, attempt and agent a report is.
struct ReportKey {
  std::string job;
  uint32_t attempt = 0;
  std::string node;
  auto operator<=>(const ReportKey&) const = default;
};

// What one transaction writes. The pointers are borrowed until commit() returns.
struct Batch {
  struct Sample {
    uint32_t job_number = 0;
    uint32_t attempt = 0;
    uint32_t rank = 0;
    int64_t time_ns = 0;
    const wire::RankMessage* message = nullptr;  // step, validation, experts, memory or start
  };
  std::vector<core::Event> events;
  std::vector<const core::Job*> changed_jobs;
  std::vector<Sample> samples;
  std::vector<std::pair<ReportKey, uint64_t>> taken_reports;  // the last seq
};

// Not thread-safe. Move-only.
class Writer {
 public:
  // Locks the state directory, opens or creates the database, migrates it. kConflict: another
  // coordinator (its pid is named) has the lock. kInvalid: a network file system, or a newer
  // release's database.
  static Result<Writer> open(const std::string& state_dir);

  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  ~Writer();

  // All events in order; kInvalid when the log has a gap or an entry that can't be read.
  Result<std::vector<core::Event>> read_log();
  // The last report taken from an agent; 0 when there is none.
  Result<uint64_t> last_report(const ReportKey& key);
  // Writes everything or nothing. kTemporary: the disk is full; it may be called again.
  Status commit(const Batch& batch);

 private:
  struct Impl;
  explicit Writer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv3::store
