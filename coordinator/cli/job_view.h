// One JobStatus as the JOB object of CLI.md and as words for people; shared by status, submit, wait
// and cancel.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::cli {

// JOB of CLI.md. Absent values are null.
nlohmann::ordered_json job_json(const wire::JobStatus& job);
// {"version", "pid", "state_dir", "uptime_s", …} of CLI.md's status.
nlohmann::ordered_json coordinator_json(const wire::CoordinatorInfo& info);
// "QUEUED" …
std::string state_name(const wire::JobStatus& job);
// What a person would do next in this state: one short sentence.
std::string next_action(const wire::JobStatus& job);
// "120/200", "–" before the first step.
std::string step_text(const wire::JobStatus& job);

}  // namespace dsv3::cli
