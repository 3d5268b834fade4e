// What `dsv3ctl plan` asks and prints: the questions of its options as plain data, and one function
// for each way of answering them.
//
// Law: plan.cpp reads the words and refuses what is wrong; the views get questions that are settled
// (a valid job, a range in order) and only compute and print. Each returns the exit code.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/layout.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/plan.h"
#include "configs/spec/job_spec.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// --sweep: one job over many numbers of equal GPUs.
struct SweepQuestion {
  spec::JobSpec job;
  int64_t gpus_from = 0;  // both ends included; equal for a single number
  int64_t gpus_to = 0;
  double label_gb = 80;       // of one card, as sold
  std::string gpu;            // "" when not named
  plan::PlanOptions options;  // device (null: the table's of `gpu`), tokens, price
  // Above 0 each; absent: the usual one.
  std::optional<double> mtbf_hours;    // between failures of one node
  std::optional<double> restart_s;     // from a failure to the first new step
  std::optional<double> checkpoint_s;  // that training waits for one; absent: by what it writes
  std::optional<double> storage_gbps;  // 1e9 bytes a second of all nodes together; absent: 1 a node
  bool csv = false;
};
int show_sweep(const Globals& globals, const SweepQuestion& question);

// --explain and --compare: one job on one cluster.
struct PlanQuestion {
  spec::JobSpec job;
  plan::ClusterSpec cluster;
  plan::PlanOptions options;
};
// The plan with what each of its figures is made of: memory by term and stage, time by term, every
// layout that was looked at and why it was not taken.
int show_explain(const Globals& globals, const PlanQuestion& question);
// Two layouts of the job, as texts (plan::parse_layout), side by side: memory, time, what differs.
// 2 for a text that is none, 6 where neither fits.
int show_compare(const Globals& globals, const PlanQuestion& question,
                 const std::vector<std::string>& layouts);

// What is told of a plan beside what it holds; "": nothing.
struct PlanNotes {
  std::string peak;       // that MFU is a share of: "bf16"
  int64_t tokens = 0;     // that days and cost are of; 0: not told
  int64_t steps = 0;      // the job's own, where `tokens` are theirs
  double per_active = 0;  // `tokens` for each active parameter
  std::string smaller;    // the largest smaller preset that fits where the job does not
};
// Of a plan for this question. Reads the presets where a job does not fit GPUs.
PlanNotes notes_of(const PlanQuestion& question, const plan::Plan& plan);

// The lines of a plan for people, at most help_columns() wide; `all`: every runner-up, not five.
std::string plan_text(const plan::Plan& plan, bool all, const PlanNotes& notes = {});
// The plan object of CLI.md with "smaller" and "tokens".
nlohmann::ordered_json noted_json(const plan::Plan& plan, const PlanNotes& notes);

// ---- what the views share

// "name         text", wrapped under itself.
std::string plan_line(std::string_view name, const std::string& text);
// Whose speed times are predicted by: "h100 (data sheet …)".
std::string timed_as_text(const plan::TimedBy& by);
// The memory model that plan() judges layouts of this device by.
plan::MemoryModel memory_model_of(const PlanQuestion& question, plan::DeviceKind device,
                                  int64_t ranks_per_device);

}  // namespace dsv3::cli
