-- A database of schema 1 (release 0.1), as sqlite3's .dump printed it; read by schema_test.cpp. Never changed.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE event_rows (
  seq INTEGER PRIMARY KEY,           -- 1, 2, 3 … without gaps
  time INTEGER NOT NULL,
  job TEXT NOT NULL,                 -- '' for events of nodes and of the coordinator
  attempt INTEGER NOT NULL,
  event TEXT NOT NULL,               -- dictionary: coordinator/core/STATES.md
  payload TEXT NOT NULL              -- a JSON object
) STRICT;
INSERT INTO event_rows VALUES(1,1000,'old-1',0,'job_submitted','{"submission":{"launcher":"local","layout_json":"","max_steps":3,"name":"old","nodes":[{"node":"n1","ranks":[0]}],"plan_json":"{}","request_key":"","spec_yaml":"a: 1","working_dir":""}}');
INSERT INTO event_rows VALUES(2,1000,'old-1',0,'job_picked','{"reason":"its nodes are free"}');
INSERT INTO event_rows VALUES(3,1000,'old-1',1,'attempt_launched','{"placement":[{"node":"n1","ranks":[0]}],"reason":"waiting for its agents"}');
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
INSERT INTO job_rows VALUES(1,'old-1','old','LAUNCHING','waiting for its agents',1000,1,0,1000,NULL,0,3,1,'local','',NULL,NULL);
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
INSERT INTO metric_rows VALUES(1,1,1,1,77,5.5,5.0,0.0,0.0,0.0,1.5,0.0010000000000000000208,4096,0.5,8192.0,0.25,1048576);
INSERT INTO metric_rows VALUES(2,1,1,2,77,0.3000000000000000444,-0.19999999999999995559,0.0,0.0,0.0,NULL,0.0010000000000000000208,4096,0.5,8192.0,0.25,1048576);
INSERT INTO metric_rows VALUES(3,1,1,3,77,9.0,8.5,0.0,0.0,0.0,1.5,0.0010000000000000000208,4096,0.5,8192.0,0.25,1048576);
INSERT INTO metric_rows VALUES(4,1,2,3,77,4.25,3.75,0.0,0.0,0.0,1.5,0.0010000000000000000208,4096,0.5,8192.0,0.25,1048576);
CREATE TABLE validation_rows (
  row INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  step INTEGER NOT NULL,
  time INTEGER NOT NULL,
  loss REAL,
  tokens INTEGER NOT NULL
) STRICT;
INSERT INTO validation_rows VALUES(1,1,1,2,77,4.5,64);
CREATE TABLE expert_rows (
  job INTEGER NOT NULL,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  first_layer INTEGER NOT NULL,
  experts INTEGER NOT NULL,
  counts BLOB NOT NULL,              -- packing.h
  PRIMARY KEY (job, step, attempt, first_layer)
) STRICT, WITHOUT ROWID;
INSERT INTO expert_rows VALUES(1,1,1,1,4,X'011e0a1414');
INSERT INTO expert_rows VALUES(1,2,1,1,4,X'013c142828');
INSERT INTO expert_rows VALUES(1,3,1,1,4,X'015a1e3c3c');
INSERT INTO expert_rows VALUES(1,3,2,1,4,X'015a1e3c3c');
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
INSERT INTO memory_rows VALUES(1,1,0,0,'weights',100,90);
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
INSERT INTO start_rows VALUES(1,1,77,0,1000,'cpu','f32',0.0,0.0,0.0);
CREATE TABLE report_rows (
  job TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  node TEXT NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (job, attempt, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_rows_by_job ON event_rows (job, seq);
CREATE UNIQUE INDEX metric_rows_by_step ON metric_rows (job, step, attempt);
CREATE INDEX metric_rows_by_arrival ON metric_rows (job, row);
CREATE UNIQUE INDEX validation_rows_by_step ON validation_rows (job, step, attempt);
CREATE VIEW events AS SELECT seq, time, job, attempt, event, payload FROM event_rows;
CREATE VIEW jobs AS
  SELECT id, name, state, reason, since, attempt, restarts, submitted, ended, code, max_steps, ranks, launcher, layout,
         checkpoint_step, checkpoint_path
  FROM job_rows;
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
CREATE VIEW expert_usage AS
  SELECT j.id AS job, e.attempt, e.step, e.first_layer + c.key / e.experts AS layer, c.key % e.experts AS expert,
    (CASE WHEN e.width > 0 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 0, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 0, 1)), 2, 1))) << 0) ELSE 0 END)
    + (CASE WHEN e.width > 1 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 1, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 1, 1)), 2, 1))) << 8) ELSE 0 END)
    + (CASE WHEN e.width > 2 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 2, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 2, 1)), 2, 1))) << 16) ELSE 0 END)
    + (CASE WHEN e.width > 3 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 3, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 3, 1)), 2, 1))) << 24) ELSE 0 END)
    + (CASE WHEN e.width > 4 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 4, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 4, 1)), 2, 1))) << 32) ELSE 0 END)
    + (CASE WHEN e.width > 5 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 5, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 5, 1)), 2, 1))) << 40) ELSE 0 END)
    + (CASE WHEN e.width > 6 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 6, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 6, 1)), 2, 1))) << 48) ELSE 0 END)
    + (CASE WHEN e.width > 7 THEN (((instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 7, 1)), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(substr(e.counts, 2 + c.key * e.width + 7, 1)), 2, 1))) << 56) ELSE 0 END) AS tokens
  FROM job_rows j
  JOIN (SELECT r.job, r.step, r.attempt, r.first_layer, r.experts, r.counts,
               instr('123456789ABCDEF', substr(hex(substr(r.counts, 1, 1)), 2, 1)) AS width
        FROM expert_rows r
        WHERE r.attempt = (SELECT max(o.attempt) FROM expert_rows o WHERE o.job = r.job AND o.step = r.step)
       ) e ON e.job = j.number
  JOIN json_each('[0' || replace(hex(zeroblob((length(e.counts) - 1) / e.width - 1)), '00', ',0') || ']') c;
COMMIT;
PRAGMA user_version = 1;
