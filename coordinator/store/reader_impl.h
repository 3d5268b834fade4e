// The read-only connection behind Reader, private to this folder.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "coordinator/store/database.h"
#include "coordinator/store/reader.h"

namespace dsv3::store {

// Sums over a job's steps, brought up to date row by row: a status of a long job costs what is new,
// not the whole history.
struct StepSums {
  int64_t last_row = 0;
  int64_t lost_steps = 0;  // steps that an attempt trained after an earlier one had
  double useful_s = 0;     // Σ step_s of the steps as they stand
};

// Steps that the newest attempt will train again: it began before them, and has not come to them
// yet.
struct PendingSteps {
  int64_t count = 0;
  double step_s = 0;  // Σ of their step_s, which was spent for nothing
};

struct Reader::Impl {
  // Takes in the rows since the last call.
  const StepSums& step_sums(uint32_t job_number);
  PendingSteps pending_steps(uint32_t job_number);

  std::map<uint32_t, StepSums> sums;
  std::optional<SQLite::Database> db;
};

}  // namespace dsv3::store
