// What `dsv3ctl plan` asks and prints: the questions of its options as plain data, and one function
// for each way of answering them.
//
// Law: plan.cpp reads the words and refuses what is wrong; the views get questions that are settled
// (a valid job, a range in order) and only compute and print. Each returns the exit code.
#pragma once

#include <cstdint>
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
  double mtbf_hours = 0;      // between failures of one node; 0: the usual one
  double restart_s = 0;       // from a failure to the first new step; 0: the usual one
  double checkpoint_s = 0;    // that training waits for one; 0: its bytes / storage_gbps
  double storage_gbps = 0;    // 1e9 bytes a second of all nodes together; 0: 1 a node
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

// The lines of a plan for people, at most help_columns() wide; `all`: every runner-up, not five.
std::string plan_text(const plan::Plan& plan, bool all);

// ---- what the views share

// "name         text", wrapped under itself.
std::string plan_line(std::string_view name, const std::string& text);
// The memory model that plan() judges layouts of this device by.
plan::MemoryModel memory_model_of(const PlanQuestion& question, plan::DeviceKind device,
                                  int64_t ranks_per_device);

}  // namespace dsv3::cli
