// The migrations; see schema.h. Times are Unix nanoseconds. Doubles are stored as they are (exact);
// NaN becomes NULL.
#include "coordinator/store/schema.h"

#include <fmt/format.h>

namespace dsv3::store {
namespace {

constexpr const char* kTables = R"sql(
CREATE TABLE event_rows (
  seq INTEGER PRIMARY KEY,           -- 1, 2, 3 … without gaps
  time INTEGER NOT NULL,
  job TEXT NOT NULL,                 -- '' for events of nodes and of the coordinator
  attempt INTEGER NOT NULL,
  event TEXT NOT NULL,               -- dictionary: coordinator/core/STATES.md
  payload TEXT NOT NULL              -- a JSON object
) STRICT;
CREATE INDEX event_rows_by_job ON event_rows (job, seq);

-- A projection of the log, for plain SQL; never read back by the coordinator.
CREATE TABLE job_rows (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  since INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  restarts INTEGER NOT NULL,
  submitted INTEGER NOT NULL,
  ended INTEGER,
  code INTEGER NOT NULL,
  max_steps INTEGER NOT NULL,
  ranks INTEGER NOT NULL,
  launcher TEXT NOT NULL,
  layout TEXT NOT NULL,              -- JSON
  checkpoint_step INTEGER,
  checkpoint_path TEXT
) STRICT;

CREATE TABLE metric_rows (
  row INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  step INTEGER NOT NULL,
  time INTEGER NOT NULL,
  loss REAL, lm_loss REAL, mtp_loss REAL, aux_loss REAL, z_loss REAL, grad_norm REAL, lr REAL,
  tokens INTEGER NOT NULL,
  step_s REAL, tokens_per_s REAL, mfu REAL,
  memory_bytes INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX metric_rows_by_step ON metric_rows (job, step, attempt);
CREATE INDEX metric_rows_by_arrival ON metric_rows (job, row);

CREATE TABLE validation_rows (
  row INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  step INTEGER NOT NULL,
  time INTEGER NOT NULL,
  loss REAL,
  tokens INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX validation_rows_by_step ON validation_rows (job, step, attempt);

-- One row for each run of neighbouring layers with equally many experts: as a rule one per step.
CREATE TABLE expert_rows (
  job INTEGER NOT NULL,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  first_layer INTEGER NOT NULL,
  experts INTEGER NOT NULL,
  counts BLOB NOT NULL,              -- packing.h
  PRIMARY KEY (job, step, attempt, first_layer)
) STRICT, WITHOUT ROWID;

CREATE TABLE memory_rows (
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  position INTEGER NOT NULL,
  name TEXT NOT NULL,
  predicted_bytes INTEGER NOT NULL,
  measured_bytes INTEGER NOT NULL,
  PRIMARY KEY (job, attempt, rank, position)
) STRICT, WITHOUT ROWID;

-- What rank 0 said before an attempt's first step (TrainStart of dsv3.proto).
CREATE TABLE start_rows (
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  time INTEGER NOT NULL,
  first_step INTEGER NOT NULL,
  params_total INTEGER NOT NULL,
  device TEXT NOT NULL,
  compute_dtype TEXT NOT NULL,
  flops_per_token REAL NOT NULL,
  peak_flops_per_s REAL NOT NULL,    -- measured; 0: unknown
  unigram_entropy REAL NOT NULL,     -- nats per token; 0: unknown
  PRIMARY KEY (job, attempt)
) STRICT, WITHOUT ROWID;

-- The last report that was taken from each agent: a report that is sent again is not taken twice.
CREATE TABLE report_rows (
  job TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  node TEXT NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (job, attempt, node)
) STRICT, WITHOUT ROWID;

CREATE VIEW events AS SELECT seq, time, job, attempt, event, payload FROM event_rows;
CREATE VIEW jobs AS
  SELECT id, name, state, reason, since, attempt, restarts, submitted, ended, code, max_steps, ranks, launcher, layout,
         checkpoint_step, checkpoint_path
  FROM job_rows;
-- A step that was trained again appears once, with its last attempt; so in validations and expert_usage.
CREATE VIEW metrics AS
  SELECT j.id AS job, m.attempt, m.step, m.time, m.loss, m.lm_loss, m.mtp_loss, m.aux_loss, m.z_loss, m.grad_norm, m.lr,
         m.tokens, m.step_s, m.tokens_per_s, m.mfu, m.memory_bytes
  FROM job_rows j JOIN metric_rows m ON m.job = j.number
  WHERE m.attempt = (SELECT max(o.attempt) FROM metric_rows o WHERE o.job = m.job AND o.step = m.step);
CREATE VIEW validations AS
  SELECT j.id AS job, v.attempt, v.step, v.time, v.loss, v.tokens
  FROM job_rows j JOIN validation_rows v ON v.job = j.number
  WHERE v.attempt = (SELECT max(o.attempt) FROM validation_rows o WHERE o.job = v.job AND o.step = v.step);
CREATE VIEW starts AS
  SELECT j.id AS job, s.attempt, s.time, s.first_step, s.params_total, s.device, s.compute_dtype, s.flops_per_token,
         s.peak_flops_per_s, s.unigram_entropy
  FROM job_rows j JOIN start_rows s ON s.job = j.number;
CREATE VIEW memory AS
  SELECT j.id AS job, m.attempt, m.rank, m.name, m.predicted_bytes, m.measured_bytes
  FROM job_rows j JOIN memory_rows m ON m.job = j.number;
)sql";

// The value of byte `k` of the cell as an SQL expression: hex() gives two digits, instr() their
// values.
std::string byte_value(int k) {
  const std::string digits = fmt::format("hex(substr(e.counts, 2 + c.key * e.width + {}, 1))", k);
  return fmt::format(
      "(CASE WHEN e.width > {0} THEN (((instr('123456789ABCDEF', substr({1}, 1, 1)) << 4)"
      " + instr('123456789ABCDEF', substr({1}, 2, 1))) << {2}) ELSE 0 END)",
      k, digits, 8 * k);
}

// Unpacks expert_rows. json_each over an array of as many zeros as there are cells counts them:
// `key` is the cell's number.
std::string expert_usage_view() {
  std::string value = byte_value(0);
  for (int k = 1; k < 8; ++k) value += "\n    + " + byte_value(k);
  return fmt::format(R"sql(
CREATE VIEW expert_usage AS
  SELECT j.id AS job, e.attempt, e.step, e.first_layer + c.key / e.experts AS layer, c.key % e.experts AS expert,
    {} AS tokens
  FROM job_rows j
  JOIN (SELECT r.job, r.step, r.attempt, r.first_layer, r.experts, r.counts,
               instr('123456789ABCDEF', substr(hex(substr(r.counts, 1, 1)), 2, 1)) AS width
        FROM expert_rows r
        WHERE r.attempt = (SELECT max(o.attempt) FROM expert_rows o WHERE o.job = r.job AND o.step = r.step)
       ) e ON e.job = j.number
  JOIN json_each('[0' || replace(hex(zeroblob((length(e.counts) - 1) / e.width - 1)), '00', ',0') || ']') c;
)sql",
                     value);
}

// What a capacity dropped. NULL: unknown, as in every step that was written before this column was.
constexpr const char* kDropped = R"sql(
ALTER TABLE metric_rows ADD COLUMN dropped INTEGER;
DROP VIEW metrics;
CREATE VIEW metrics AS
  SELECT j.id AS job, m.attempt, m.step, m.time, m.loss, m.lm_loss, m.mtp_loss, m.aux_loss, m.z_loss, m.grad_norm, m.lr,
         m.tokens, m.step_s, m.tokens_per_s, m.mfu, m.memory_bytes, m.dropped
  FROM job_rows j JOIN metric_rows m ON m.job = j.number
  WHERE m.attempt = (SELECT max(o.attempt) FROM metric_rows o WHERE o.job = m.job AND o.step = m.step);
)sql";

}  // namespace

const std::vector<std::string>& migrations() {
  static const std::vector<std::string> all = {std::string(kTables) + expert_usage_view(),
                                               kDropped};
  return all;
}

}  // namespace dsv3::store
