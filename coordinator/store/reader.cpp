// See reader.h. The user's own SQL is in query.cpp.
#include "coordinator/store/reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/store/packing.h"
#include "coordinator/store/reader_impl.h"
#include "coordinator/store/writer.h"

namespace dsv3::store {
namespace {

constexpr const char* kStepColumns =
    "m.row, m.attempt, m.time, m.step, m.loss, m.lm_loss, m.mtp_loss, m.aux_loss, m.z_loss, "
    "m.grad_norm, m.lr, m.tokens,"
    " m.step_s, m.tokens_per_s, m.mfu, m.memory_bytes, m.dropped";
constexpr const char* kIsLastStep =
    "m.attempt = (SELECT max(o.attempt) FROM metric_rows o WHERE o.job = m.job AND o.step = "
    "m.step)";
constexpr const char* kIsLastValidation =
    "v.attempt = (SELECT max(o.attempt) FROM validation_rows o WHERE o.job = v.job AND o.step = "
    "v.step)";

void read_step(SQLite::Statement& rows, wire::MetricRow* out) {
  out->set_row(rows.getColumn(0).getInt64());
  out->set_attempt(rows.getColumn(1).getUInt());
  out->set_time_unix_ns(rows.getColumn(2).getInt64());
  wire::StepMetrics& m = *out->mutable_metrics();
  m.set_step(rows.getColumn(3).getInt64());
  m.set_loss(real_of(rows.getColumn(4)));
  m.set_lm_loss(real_of(rows.getColumn(5)));
  m.set_mtp_loss(real_of(rows.getColumn(6)));
  m.set_aux_loss(real_of(rows.getColumn(7)));
  m.set_z_loss(real_of(rows.getColumn(8)));
  m.set_grad_norm(real_of(rows.getColumn(9)));
  m.set_lr(real_of(rows.getColumn(10)));
  m.set_tokens(rows.getColumn(11).getInt64());
  m.set_step_s(real_of(rows.getColumn(12)));
  m.set_tokens_per_s(real_of(rows.getColumn(13)));
  m.set_mfu(real_of(rows.getColumn(14)));
  m.set_memory_bytes(rows.getColumn(15).getInt64());
  if (!rows.getColumn(16).isNull()) m.set_dropped(rows.getColumn(16).getInt64());
}

// What the newest attempt said before its first step; nothing is set when none did.
void read_start(SQLite::Database& db, uint32_t job_number, wire::JobStatus* status) {
  SQLite::Statement rows(db,
                         "SELECT first_step, params_total, device, compute_dtype, flops_per_token,"
                         " peak_flops_per_s, unigram_entropy FROM start_rows WHERE job = ?"
                         " ORDER BY attempt DESC LIMIT 1");
  rows.bind(1, job_number);
  if (!rows.executeStep()) return;
  wire::TrainStart* start = status->mutable_start();
  start->set_first_step(rows.getColumn(0).getInt64());
  start->set_params_total(rows.getColumn(1).getInt64());
  start->set_device(rows.getColumn(2).getString());
  start->set_compute_dtype(rows.getColumn(3).getString());
  start->set_flops_per_token(rows.getColumn(4).getDouble());
  start->set_peak_flops_per_s(rows.getColumn(5).getDouble());
  start->set_unigram_entropy(rows.getColumn(6).getDouble());
}

// What the step and the attempt that the reply is of dropped; not set when that is unknown.
void read_dropped(SQLite::Database& db, uint32_t job_number, wire::ExpertsReply* reply) {
  SQLite::Statement rows(
      db, "SELECT dropped FROM metric_rows WHERE job = ? AND step = ? AND attempt = ?");
  rows.bind(1, job_number);
  rows.bind(2, static_cast<int64_t>(reply->counts().step()));
  rows.bind(3, reply->attempt());
  if (rows.executeStep() && !rows.getColumn(0).isNull())
    reply->set_dropped(rows.getColumn(0).getInt64());
}

void read_validation(SQLite::Statement& rows, wire::ValidationRow* out) {
  out->set_row(rows.getColumn(0).getInt64());
  out->set_attempt(rows.getColumn(1).getUInt());
  out->set_time_unix_ns(rows.getColumn(2).getInt64());
  out->mutable_validation()->set_step(rows.getColumn(3).getInt64());
  out->mutable_validation()->set_loss(real_of(rows.getColumn(4)));
  out->mutable_validation()->set_tokens(rows.getColumn(5).getInt64());
}

// Events of a job (or all); true when a limit cut them.
template <typename Reply>
bool read_events(SQLite::Database& db, const std::string& job, int64_t after_seq, uint32_t limit,
                 Reply* reply) {
  SQLite::Statement rows(
      db, fmt::format("SELECT seq, time, job, attempt, event, payload FROM event_rows"
                      " WHERE seq > ? {} ORDER BY seq LIMIT ?",
                      job.empty() ? "" : "AND job = ?"));
  int next = 1;
  rows.bind(next++, after_seq);
  if (!job.empty()) rows.bind(next++, job);
  rows.bind(next, static_cast<int64_t>(limit) + 1);
  int64_t bytes = 0;
  uint32_t count = 0;
  while (rows.executeStep()) {
    if (count++ == limit || bytes > kReplySoftLimitBytes) return true;
    wire::Event* event = reply->add_events();
    event->set_seq(rows.getColumn(0).getInt64());
    event->set_time_unix_ns(rows.getColumn(1).getInt64());
    event->set_job(rows.getColumn(2).getString());
    event->set_attempt(rows.getColumn(3).getUInt());
    event->set_type(rows.getColumn(4).getString());
    event->set_payload_json(rows.getColumn(5).getString());
    bytes += static_cast<int64_t>(event->payload_json().size()) + 64;
  }
  return false;
}

}  // namespace

Reader::Reader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Result<Reader> Reader::open(const std::string& state_dir) {
  auto impl = std::make_unique<Impl>();
  DSV3_RETURN_IF_ERROR(guarded("cannot open the database for reading", [&]() -> Status {
    impl->db.emplace(database_path(state_dir), SQLite::OPEN_READONLY, kBusyTimeoutMs);
    return {};
  }));
  return Reader(std::move(impl));
}

const StepSums& Reader::Impl::step_sums(uint32_t job_number) {
  StepSums& known = sums[job_number];
  SQLite::Statement rows(*db,
                         "SELECT n.row, n.step_s, b.row, b.step_s FROM (SELECT m.row, m.step_s,"
                         " (SELECT o.row FROM metric_rows o WHERE o.job = m.job AND o.step = m.step"
                         " AND o.attempt < m.attempt ORDER BY o.attempt DESC LIMIT 1) AS before"
                         " FROM metric_rows m WHERE m.job = ? AND m.row > ?) n"
                         " LEFT JOIN metric_rows b ON b.row = n.before ORDER BY n.row");
  rows.bind(1, job_number);
  rows.bind(2, known.last_row);
  while (rows.executeStep()) {
    known.last_row = rows.getColumn(0).getInt64();
    known.useful_s += rows.getColumn(1).getDouble();
    if (rows.getColumn(2).isNull()) continue;
    ++known.lost_steps;
    known.useful_s -= rows.getColumn(3).getDouble();
  }
  return known;
}

PendingSteps Reader::Impl::pending_steps(uint32_t job_number) {
  PendingSteps pending;
  SQLite::Statement start(*db,
                          "SELECT s.attempt, max(s.first_step, coalesce((SELECT m.step FROM"
                          " metric_rows m WHERE m.job = s.job AND m.attempt = s.attempt AND m.row ="
                          " (SELECT max(row) FROM metric_rows WHERE job = s.job)), 0))"
                          " FROM start_rows s WHERE s.job = ? ORDER BY s.attempt DESC LIMIT 1");
  start.bind(1, job_number);
  if (!start.executeStep()) return pending;
  SQLite::Statement rows(
      *db, fmt::format("SELECT count(*), total(m.step_s) FROM metric_rows m WHERE m.job = ?"
                       " AND m.step > ? AND m.attempt < ? AND {}",
                       kIsLastStep));
  rows.bind(1, job_number);
  rows.bind(2, start.getColumn(1).getInt64());
  rows.bind(3, start.getColumn(0).getUInt());
  if (!rows.executeStep()) return pending;
  return {rows.getColumn(0).getInt64(), rows.getColumn(1).getDouble()};
}

Status Reader::fill_progress(uint32_t job_number, int64_t launched_ns, int64_t until_ns,
                             wire::JobStatus* status) {
  return guarded("cannot read the metrics", [&]() -> Status {
    SQLite::Statement last(
        *impl_->db, fmt::format("SELECT {} FROM metric_rows m WHERE m.job = ? AND {} AND m.row ="
                                " (SELECT max(row) FROM metric_rows WHERE job = m.job)",
                                kStepColumns, kIsLastStep));
    last.bind(1, job_number);
    if (last.executeStep()) {
      wire::MetricRow row;
      read_step(last, &row);
      status->set_step(row.metrics().step());
      status->set_loss(row.metrics().loss());
      status->set_tokens_per_s(row.metrics().tokens_per_s());
      status->set_mfu(row.metrics().mfu());
      status->set_grad_norm(row.metrics().grad_norm());
      status->set_lr(row.metrics().lr());
      status->set_step_s(row.metrics().step_s());
      if (!status->has_ended_unix_ns())  // a clock that was set back makes no step of the future
        status->set_last_step_age_s(
            std::max(0.0, static_cast<double>(until_ns - row.time_unix_ns()) * 1e-9));
    }
    const StepSums& sums = impl_->step_sums(job_number);
    const PendingSteps pending = impl_->pending_steps(job_number);
    status->set_lost_steps(sums.lost_steps + pending.count);
    const double wall_s = static_cast<double>(until_ns - launched_ns) * 1e-9;
    if (sums.last_row > 0 && launched_ns > 0 && wall_s > 0)
      // A wall clock that was set back in between would make it more than all.
      status->set_effective_time_ratio(
          std::clamp((sums.useful_s - pending.step_s) / wall_s, 0.0, 1.0));
    SQLite::Statement validation(
        *impl_->db,
        "SELECT row, attempt, time, step, loss, tokens FROM validation_rows WHERE job = ?"
        " ORDER BY row DESC LIMIT 1");
    validation.bind(1, job_number);
    if (validation.executeStep()) {
      wire::ValidationRow row;
      read_validation(validation, &row);
      *status->mutable_validation() = row.validation();
    }
    read_start(*impl_->db, job_number, status);
    return {};
  });
}

Status Reader::events(const std::string& job, int64_t after_seq, uint32_t limit,
                      wire::EventsReply* reply) {
  return guarded("cannot read the events", [&]() -> Status {
    reply->set_more(read_events(*impl_->db, job, after_seq, limit, reply));
    return {};
  });
}

Status Reader::metrics(uint32_t job_number, int64_t after_step, uint32_t limit,
                       wire::MetricsReply* reply) {
  return guarded("cannot read the metrics", [&]() -> Status {
    SQLite::Statement rows(
        *impl_->db, fmt::format("SELECT {} FROM metric_rows m WHERE m.job = ? AND m.step > ? AND {}"
                                " ORDER BY m.step LIMIT ?",
                                kStepColumns, kIsLastStep));
    rows.bind(1, job_number);
    rows.bind(2, after_step);
    rows.bind(3, static_cast<int64_t>(limit) + 1);
    int64_t last_step = INT64_MAX;
    while (rows.executeStep()) {
      if (reply->metrics_size() == static_cast<int>(limit)) {
        reply->set_more(true);
        last_step = reply->metrics(reply->metrics_size() - 1).metrics().step();
        break;
      }
      read_step(rows, reply->add_metrics());
    }
    SQLite::Statement validations(
        *impl_->db,
        fmt::format(
            "SELECT v.row, v.attempt, v.time, v.step, v.loss, v.tokens FROM validation_rows v"
            " WHERE v.job = ? AND v.step > ? AND v.step <= ? AND {} ORDER BY v.step",
            kIsLastValidation));
    validations.bind(1, job_number);
    validations.bind(2, after_step);
    validations.bind(3, last_step);
    while (validations.executeStep()) read_validation(validations, reply->add_validations());
    return {};
  });
}

Status Reader::follow(const std::string& job, uint32_t job_number, uint32_t limit,
                      wire::FollowReply* reply) {
  return guarded("cannot read what is new", [&]() -> Status {
    bool more = read_events(*impl_->db, job, reply->event_seq(), limit, reply);
    if (reply->events_size() > 0)
      reply->set_event_seq(reply->events(reply->events_size() - 1).seq());
    SQLite::Statement steps(*impl_->db,
                            fmt::format("SELECT {} FROM metric_rows m WHERE m.job = ? AND m.row > ?"
                                        " ORDER BY m.row LIMIT ?",
                                        kStepColumns));
    steps.bind(1, job_number);
    steps.bind(2, reply->metric_row());
    steps.bind(3, limit);
    while (steps.executeStep()) {
      read_step(steps, reply->add_metrics());
      reply->set_metric_row(steps.getColumn(0).getInt64());
    }
    SQLite::Statement validations(*impl_->db,
                                  "SELECT row, attempt, time, step, loss, tokens FROM "
                                  "validation_rows WHERE job = ? AND row > ?"
                                  " ORDER BY row LIMIT ?");
    validations.bind(1, job_number);
    validations.bind(2, reply->validation_row());
    validations.bind(3, limit);
    while (validations.executeStep()) {
      read_validation(validations, reply->add_validations());
      reply->set_validation_row(validations.getColumn(0).getInt64());
    }
    more |= reply->metrics_size() == static_cast<int>(limit) ||
            reply->validations_size() == static_cast<int>(limit);
    reply->set_more(more);
    return {};
  });
}

Status Reader::experts(uint32_t job_number, std::optional<int64_t> step,
                       wire::ExpertsReply* reply) {
  return guarded("cannot read the expert usage", [&]() -> Status {
    // The newest step is that of the newest attempt: an older attempt may have come further.
    SQLite::Statement rows(
        *impl_->db,
        "SELECT r.step, r.attempt, r.first_layer, r.experts, r.counts FROM expert_rows r WHERE "
        "r.job = ?1 AND r.step ="
        " coalesce(?2, (SELECT max(step) FROM expert_rows n WHERE n.job = ?1 AND n.attempt ="
        " (SELECT max(attempt) FROM expert_rows a WHERE a.job = ?1)))"
        " AND r.attempt = (SELECT max(o.attempt) FROM expert_rows o WHERE o.job = r.job AND o.step "
        "= r.step)"
        " ORDER BY r.first_layer");
    rows.bind(1, job_number);
    if (step) rows.bind(2, *step);
    while (rows.executeStep()) {
      reply->mutable_counts()->set_step(rows.getColumn(0).getInt64());
      reply->set_attempt(rows.getColumn(1).getUInt());
      const SQLite::Column blob = rows.getColumn(4);
      const std::string_view bytes(static_cast<const char*>(blob.getBlob()),
                                   static_cast<size_t>(blob.getBytes()));
      DSV3_ASSIGN_OR_RETURN(const std::vector<uint64_t> cells, unpack_counts(bytes));
      const size_t num_experts = rows.getColumn(3).getUInt();
      for (size_t cell = 0; cell < cells.size(); ++cell) {
        if (cell % num_experts == 0) {
          const int layer = rows.getColumn(2).getInt() + static_cast<int>(cell / num_experts);
          reply->mutable_counts()->add_layers()->set_layer(layer);
        }
        reply->mutable_counts()
            ->mutable_layers(reply->counts().layers_size() - 1)
            ->add_tokens(cells[cell]);
      }
    }
    if (reply->counts().layers_size() > 0) {
      read_dropped(*impl_->db, job_number, reply);
      return {};
    }
    return Status(Code::kNotFound,
                  step ? fmt::format("no expert usage is recorded for step {}", *step)
                       : std::string("no expert usage is recorded yet"));
  });
}

Status Reader::memory(uint32_t job_number, wire::MemoryReply* reply) {
  return guarded("cannot read the memory ledger", [&]() -> Status {
    SQLite::Statement rows(*impl_->db,
                           "SELECT attempt, rank, name, predicted_bytes, measured_bytes FROM "
                           "memory_rows WHERE job = ?1"
                           " AND attempt = (SELECT max(attempt) FROM memory_rows WHERE job = ?1) "
                           "ORDER BY rank, position");
    rows.bind(1, job_number);
    while (rows.executeStep()) {
      const uint32_t rank = rows.getColumn(1).getUInt();
      reply->set_attempt(rows.getColumn(0).getUInt());
      const int size = reply->ranks_size();
      wire::RankLedger* ledger = size > 0 && reply->ranks(size - 1).rank() == rank
                                     ? reply->mutable_ranks(size - 1)
                                     : reply->add_ranks();
      ledger->set_rank(rank);
      wire::MemoryEntry* entry = ledger->mutable_ledger()->add_entries();
      entry->set_name(rows.getColumn(2).getString());
      entry->set_predicted_bytes(rows.getColumn(3).getInt64());
      entry->set_measured_bytes(rows.getColumn(4).getInt64());
    }
    return {};
  });
}

}  // namespace dsv3::store
