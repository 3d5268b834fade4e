// See writer.h.
#include "coordinator/store/writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/file.h"
#include "base/filesystem.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/store/database.h"
#include "coordinator/store/packing.h"
#include "coordinator/store/schema.h"

namespace dsv3::store {
namespace {

constexpr int64_t kLockFileMaxBytes = 64;

// Holds flock on <state_dir>/lock while it lives; the kernel lets go when the process ends, however
// it ends.
class Lock {
 public:
  Lock() = default;
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    if (fd_ >= 0) ::close(fd_);
  }

  Status take(const std::string& state_dir) {
    const std::string path = state_dir + "/lock";
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0)
      return Status(Code::kFailed, fmt::format("cannot open '{}': {}", path, std::strerror(errno)));
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const Result<std::string> owner = read_file(path, kLockFileMaxBytes);
      return Status(Code::kConflict,
                    fmt::format("another coordinator (process {}) uses '{}'",
                                owner.ok() ? *owner : "unknown", state_dir),
                    "stop it with `dsv3ctl down`, or choose another --state-dir");
    }
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(fd_, 0) != 0 ||
        ::pwrite(fd_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
      return Status(Code::kFailed,
                    fmt::format("cannot write '{}': {}", path, std::strerror(errno)));
    }
    return {};
  }

 private:
  int fd_ = -1;
};

Status check_filesystem(const std::string& state_dir) {
  DSV3_ASSIGN_OR_RETURN(const Filesystem found, filesystem_of(state_dir));
  if (can_hold_state(found.kind)) return {};
  const bool fuse = found.kind == FilesystemKind::kFuse;
  return Status(
      Code::kInvalid,
      fmt::format("'{}' is on a {} ({}), where SQLite's locks can't be trusted", state_dir,
                  fuse ? "file system of a program" : "network file system", found.name),
      "choose a --state-dir on a local disk");
}

Status migrate(SQLite::Database& db) {
  const int version = db.execAndGet("PRAGMA user_version").getInt();
  const int known = static_cast<int>(migrations().size());
  if (version > known) {
    return Status(Code::kInvalid,
                  fmt::format("the database '{}' has schema {}, this release knows up to {}",
                              db.getFilename(), version, known),
                  "use the newer release that wrote it");
  }
  for (int i = version; i < known; ++i) {
    SQLite::Transaction transaction(db);
    db.exec(migrations()[static_cast<size_t>(i)]);
    db.exec(fmt::format("PRAGMA user_version = {}", i + 1));
    transaction.commit();
  }
  return {};
}

// The column order of metric_rows after `time`.
void bind_step(SQLite::Statement& statement, int first, const wire::StepMetrics& m) {
  const std::array<double, 7> before = {m.loss(),   m.lm_loss(),   m.mtp_loss(), m.aux_loss(),
                                        m.z_loss(), m.grad_norm(), m.lr()};
  for (const double value : before) statement.bind(first++, value);
  statement.bind(first++, static_cast<int64_t>(m.tokens()));
  for (const double value : {m.step_s(), m.tokens_per_s(), m.mfu()}) statement.bind(first++, value);
  statement.bind(first++, static_cast<int64_t>(m.memory_bytes()));
  if (m.has_dropped()) statement.bind(first, static_cast<int64_t>(m.dropped()));
}

}  // namespace

std::string database_path(const std::string& state_dir) {
  return state_dir + "/dsv3d.db";
}

bool is_network_filesystem(uint64_t magic) {
  return filesystem_of_type(magic).kind == FilesystemKind::kNetwork;
}

struct Writer::Impl {
  Lock lock;
  std::optional<SQLite::Database> db;
  bool is_full = false;
  std::optional<SQLite::Statement> insert_event;
  std::optional<SQLite::Statement> put_job;
  std::optional<SQLite::Statement> insert_step;
  std::optional<SQLite::Statement> insert_validation;
  std::optional<SQLite::Statement> insert_experts;
  std::optional<SQLite::Statement> clear_memory;
  std::optional<SQLite::Statement> insert_memory;
  std::optional<SQLite::Statement> insert_start;
  std::optional<SQLite::Statement> put_report;

  Status open(const std::string& state_dir);
  void prepare();
  // Runs one prepared statement whose parameters are bound, and makes it ready for the next.
  static void run(SQLite::Statement& statement) {
    try {
      statement.exec();
    } catch (const SQLite::Exception&) {  // a full disk: it will be run again
      (void)statement.tryReset();
      statement.clearBindings();
      throw;
    }
    statement.reset();
    statement.clearBindings();
  }
  void set_full(bool full) {
    if (is_full == full) return;
    db->exec(full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
    is_full = full;
  }
  void write_event(const core::Event& event);
  void write_job(const core::Job& job);
  void write_sample(const Batch::Sample& sample);
  void write_experts(const Batch::Sample& sample);
  void write_memory(const Batch::Sample& sample);
  void write_start(const Batch::Sample& sample);
  bool disk_is_full(const SQLite::Exception& error) const;
};

Status Writer::Impl::open(const std::string& state_dir) {
  DSV3_RETURN_IF_ERROR(make_dirs(state_dir, 0700));
  DSV3_RETURN_IF_ERROR(check_filesystem(state_dir));
  DSV3_RETURN_IF_ERROR(lock.take(state_dir));
  const std::string what = fmt::format("cannot open the database '{}'", database_path(state_dir));
  return guarded(what.c_str(), [&]() -> Status {
    db.emplace(database_path(state_dir), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE,
               kBusyTimeoutMs);
    db->exec("PRAGMA journal_mode = WAL");
    DSV3_RETURN_IF_ERROR(migrate(*db));
    db->exec("PRAGMA synchronous = NORMAL");
    prepare();
    return {};
  });
}

void Writer::Impl::prepare() {
  insert_event.emplace(
      *db, "INSERT INTO event_rows (seq, time, job, attempt, event, payload) VALUES (?,?,?,?,?,?)");
  put_job.emplace(*db,
                  "INSERT OR REPLACE INTO job_rows (number, id, name, state, reason, since, "
                  "attempt, restarts, submitted, ended,"
                  " code, max_steps, ranks, launcher, layout, checkpoint_step, checkpoint_path)"
                  " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  insert_step.emplace(*db,
                      "INSERT OR IGNORE INTO metric_rows (job, attempt, step, time, loss, "
                      "lm_loss, mtp_loss, aux_loss, z_loss,"
                      " grad_norm, lr, tokens, step_s, tokens_per_s, mfu, memory_bytes, dropped)"
                      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  insert_validation.emplace(*db,
                            "INSERT OR IGNORE INTO validation_rows (job, attempt, step, time, "
                            "loss, tokens) VALUES (?,?,?,?,?,?)");
  insert_experts.emplace(*db,
                         "INSERT OR IGNORE INTO expert_rows (job, step, attempt, first_layer, "
                         "experts, counts) VALUES (?,?,?,?,?,?)");
  clear_memory.emplace(*db, "DELETE FROM memory_rows WHERE job = ? AND attempt = ? AND rank = ?");
  insert_memory.emplace(
      *db,
      "INSERT INTO memory_rows (job, attempt, rank, position, name, predicted_bytes,"
      " measured_bytes) VALUES (?,?,?,?,?,?,?)");
  insert_start.emplace(*db,
                       "INSERT OR IGNORE INTO start_rows (job, attempt, time, first_step, "
                       "params_total, device, compute_dtype,"
                       " flops_per_token, peak_flops_per_s, unigram_entropy) VALUES "
                       "(?,?,?,?,?,?,?,?,?,?)");
  put_report.emplace(
      *db, "INSERT OR REPLACE INTO report_rows (job, attempt, node, seq) VALUES (?,?,?,?)");
}

void Writer::Impl::write_event(const core::Event& event) {
  insert_event->bind(1, event.seq);
  insert_event->bind(2, event.time_ns);
  insert_event->bind(3, event.job);
  insert_event->bind(4, event.attempt);
  insert_event->bind(5, std::string(core::event_name(event.type)));
  insert_event->bind(6, core::payload_json(event));
  run(*insert_event);
}

void Writer::Impl::write_job(const core::Job& job) {
  SQLite::Statement& s = *put_job;
  s.bind(1, job.number);
  s.bind(2, job.id);
  s.bind(3, job.submission.name);
  s.bind(4, std::string(protocol::job_state_name(job.state)));
  s.bind(5, job.reason);
  s.bind(6, job.since_ns);
  s.bind(7, job.attempt ? job.attempt->number : 0u);
  s.bind(8, job.restarts);
  s.bind(9, job.submitted_ns);
  if (job.ended_ns != 0) s.bind(10, job.ended_ns);
  s.bind(11, job.code);
  s.bind(12, job.submission.max_steps);
  s.bind(13, job.num_ranks);
  s.bind(14, job.submission.launcher);
  s.bind(15, job.submission.layout_json);
  if (job.checkpoint) s.bind(16, job.checkpoint->step);
  if (job.checkpoint) s.bind(17, job.checkpoint->path);
  run(s);
}

void Writer::Impl::write_experts(const Batch::Sample& sample) {
  const wire::ExpertCounts& counts = sample.message->experts();
  std::vector<const wire::LayerCounts*> layers;
  for (const wire::LayerCounts& layer : counts.layers()) {
    if (layer.tokens_size() > 0) layers.push_back(&layer);
  }
  std::sort(layers.begin(), layers.end(), [](auto* a, auto* b) { return a->layer() < b->layer(); });
  for (size_t begin = 0; begin < layers.size();) {
    std::vector<uint64_t> cells;
    size_t end = begin;
    while (end < layers.size() && layers[end]->tokens_size() == layers[begin]->tokens_size() &&
           layers[end]->layer() == layers[begin]->layer() + static_cast<int32_t>(end - begin)) {
      cells.insert(cells.end(), layers[end]->tokens().begin(), layers[end]->tokens().end());
      ++end;
    }
    const std::string blob = pack_counts(cells);
    SQLite::Statement& s = *insert_experts;
    s.bind(1, sample.job_number);
    s.bind(2, static_cast<int64_t>(counts.step()));
    s.bind(3, sample.attempt);
    s.bind(4, layers[begin]->layer());
    s.bind(5, layers[begin]->tokens_size());
    s.bind(6, blob.data(), static_cast<int>(blob.size()));
    run(s);
    begin = end;
  }
}

// A rank reports its ledger more than once; peaks grow, so the last one is the one that counts.
void Writer::Impl::write_memory(const Batch::Sample& sample) {
  clear_memory->bind(1, sample.job_number);
  clear_memory->bind(2, sample.attempt);
  clear_memory->bind(3, sample.rank);
  run(*clear_memory);
  int position = 0;
  for (const wire::MemoryEntry& entry : sample.message->memory().entries()) {
    SQLite::Statement& s = *insert_memory;
    s.bind(1, sample.job_number);
    s.bind(2, sample.attempt);
    s.bind(3, sample.rank);
    s.bind(4, position++);
    s.bind(5, entry.name());
    s.bind(6, static_cast<int64_t>(entry.predicted_bytes()));
    s.bind(7, static_cast<int64_t>(entry.measured_bytes()));
    run(s);
  }
}

void Writer::Impl::write_start(const Batch::Sample& sample) {
  const wire::TrainStart& start = sample.message->start();
  SQLite::Statement& s = *insert_start;
  s.bind(1, sample.job_number);
  s.bind(2, sample.attempt);
  s.bind(3, sample.time_ns);
  s.bind(4, static_cast<int64_t>(start.first_step()));
  s.bind(5, static_cast<int64_t>(start.params_total()));
  s.bind(6, start.device());
  s.bind(7, start.compute_dtype());
  s.bind(8, start.flops_per_token());
  s.bind(9, start.peak_flops_per_s());
  s.bind(10, start.unigram_entropy());
  run(s);
}

void Writer::Impl::write_sample(const Batch::Sample& sample) {
  const wire::RankMessage& message = *sample.message;
  const bool is_step = message.has_step();
  if (message.has_experts()) return write_experts(sample);
  if (message.has_memory()) return write_memory(sample);
  if (message.has_start()) return write_start(sample);
  if (!is_step && !message.has_validation()) return;
  SQLite::Statement& s = is_step ? *insert_step : *insert_validation;
  s.bind(1, sample.job_number);
  s.bind(2, sample.attempt);
  s.bind(3, static_cast<int64_t>(is_step ? message.step().step() : message.validation().step()));
  s.bind(4, sample.time_ns);
  if (is_step) {
    bind_step(s, 5, message.step());
  } else {
    s.bind(5, message.validation().loss());
    s.bind(6, static_cast<int64_t>(message.validation().tokens()));
  }
  run(s);
}

Writer::Writer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() = default;

Result<Writer> Writer::open(const std::string& state_dir) {
  auto impl = std::make_unique<Impl>();
  DSV3_RETURN_IF_ERROR(impl->open(state_dir));
  return Writer(std::move(impl));
}

Result<std::vector<core::Event>> Writer::read_log() {
  std::vector<core::Event> log;
  DSV3_RETURN_IF_ERROR(guarded("cannot read the event log", [&]() -> Status {
    SQLite::Statement rows(
        *impl_->db, "SELECT seq, time, job, attempt, event, payload FROM event_rows ORDER BY seq");
    while (rows.executeStep()) {
      Result<core::Event> event =
          core::parse_event(rows.getColumn(0).getInt64(), rows.getColumn(1).getInt64(),
                            rows.getColumn(2).getString(), rows.getColumn(3).getUInt(),
                            rows.getColumn(4).getString(), rows.getColumn(5).getString());
      DSV3_RETURN_IF_ERROR(event.status());
      if (event->seq != static_cast<int64_t>(log.size()) + 1) {
        return Status(Code::kInvalid,
                      fmt::format("the event log has a gap before event {}", event->seq),
                      "restore the state directory from a backup");
      }
      log.push_back(std::move(*event));
    }
    return {};
  }));
  return log;
}

Result<uint64_t> Writer::last_report(const ReportKey& key) {
  uint64_t seq = 0;
  DSV3_RETURN_IF_ERROR(guarded("cannot read the reports", [&]() -> Status {
    SQLite::Statement row(*impl_->db,
                          "SELECT seq FROM report_rows WHERE job = ? AND attempt = ? AND node = ?");
    row.bind(1, key.job);
    row.bind(2, key.attempt);
    row.bind(3, key.node);
    if (row.executeStep()) seq = static_cast<uint64_t>(row.getColumn(0).getInt64());
    return {};
  }));
  return seq;
}

bool Writer::Impl::disk_is_full(const SQLite::Exception& error) const {
  if (error.getErrorCode() == SQLITE_FULL) return true;
  const int cause = sqlite3_system_errno(db->getHandle());
  return error.getErrorCode() == SQLITE_IOERR && (cause == ENOSPC || cause == EDQUOT);
}

Status Writer::commit(const Batch& batch) {
  try {
    impl_->set_full(!batch.events.empty());
    SQLite::Transaction transaction(*impl_->db);
    for (const core::Event& event : batch.events) impl_->write_event(event);
    for (const core::Job* job : batch.changed_jobs) impl_->write_job(*job);
    for (const Batch::Sample& sample : batch.samples) impl_->write_sample(sample);
    for (const auto& [key, seq] : batch.taken_reports) {
      impl_->put_report->bind(1, key.job);
      impl_->put_report->bind(2, key.attempt);
      impl_->put_report->bind(3, key.node);
      impl_->put_report->bind(4, static_cast<int64_t>(seq));
      Impl::run(*impl_->put_report);
    }
    transaction.commit();
    return {};
  } catch (const SQLite::Exception& error) {
    const std::string path = impl_->db->getFilename();
    const std::string what = fmt::format("cannot write the database '{}'", path);
    if (!impl_->disk_is_full(error)) return from_exception(what.c_str(), error);
    return Status(Code::kTemporary, fmt::format("{}: no space left on device", what),
                  "make room on its disk, then try again");
  }
}

}  // namespace dsv3::store
