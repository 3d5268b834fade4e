// See sweep.h.
#include "cluster/plan/sweep.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/gpu_table.h"

namespace dsv3::plan {
namespace {

// Fills in what a checkpoint stops training for, and what is written while it goes on.
void add_checkpoint(const spec::JobSpec& job, const SweepRequest& request, const SweepRow& row,
                    FailureModel* failures) {
  const spec::ParamCounts counts = spec::count_params(job.model);
  const double storage = request.storage_bytes_per_s > 0
                             ? request.storage_bytes_per_s
                             : kStorageBytesPerSecondPerNode * static_cast<double>(row.nodes);
  const bool bf16_moments = row.plan.layout.moments_dtype == "bf16";
  const auto bytes =
      static_cast<double>(checkpoint_file_bytes(counts.total + counts.mtp, bf16_moments));
  const double write_s = bytes / storage;
  if (job.checkpoint.async) failures->write_s = write_s;
  if (failures->checkpoint_s > 0) return;
  // Every GPU copies its share at once.
  const double copy_s = bytes / (kCopyBytesPerSecondPerGpu * static_cast<double>(row.gpus));
  failures->checkpoint_s = job.checkpoint.async ? copy_s : write_s;
}

void add_failures(const spec::JobSpec& job, const SweepRequest& request, SweepRow* row) {
  FailureModel failures = request.failures;
  add_checkpoint(job, request, *row, &failures);
  row->checkpoint_write_s = failures.write_s;
  row->checkpoint_s = failures.checkpoint_s;
  row->mtbf_s = job_mtbf_s(failures, row->nodes);
  if (!row->plan.feasible) return;
  const Predicted& predicted = row->plan.predicted;
  // Without the length of a step the interval is in seconds.
  const CheckpointChoice best =
      best_checkpoint_interval(failures, row->nodes, predicted.step_s.value_or(1.0));
  row->interval_s = best.interval_s;
  if (predicted.step_s) row->interval_steps = best.interval_steps;
  row->effective_time_ratio = best.effective_time_ratio;
  if (best.effective_time_ratio <= 0) return;
  if (predicted.days) row->effective_days = *predicted.days / best.effective_time_ratio;
  if (predicted.cost_usd) row->effective_cost_usd = *predicted.cost_usd / best.effective_time_ratio;
}

std::string number(const std::optional<double>& value) {
  return value ? exact_number(*value) : "";
}

// RFC 4180: quotes where a comma, a quote or a line break stands.
std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    out += c;
    if (c == '"') out += c;
  }
  return out + "\"";
}

}  // namespace

std::vector<int64_t> sweep_sizes(int64_t from, int64_t to) {
  DSV3_CHECK(from >= 1 && from <= to);
  std::vector<int64_t> sizes = {from, to};
  for (int64_t power = 1; power <= to; power *= 2) {
    for (const int64_t size : {power, 3 * power}) {
      if (size > from && size < to) sizes.push_back(size);
    }
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

std::vector<SweepRow> sweep(const spec::JobSpec& job, const SweepRequest& request) {
  std::vector<SweepRow> rows;
  const int sm_version = spec::gpu_sm_version(request.gpu_name);
  for (const int64_t gpus : sweep_sizes(request.gpus_from, request.gpus_to)) {
    SweepRow& row = rows.emplace_back();
    row.gpus = gpus;
    row.nodes = (gpus + request.gpus_per_node - 1) / request.gpus_per_node;
    row.plan = plan(job,
                    cluster_of_gpus(gpus, request.label_gb, request.gpu_name, sm_version,
                                    request.gpus_per_node),
                    request.options);
    row.plan.ranks.clear();
    add_failures(job, request, &row);
  }
  return rows;
}

std::string sweep_csv(const std::vector<SweepRow>& rows) {
  std::string out =
      "gpus,nodes,fits,layout,peak_memory_bytes,step_s,tokens_per_s,mfu,days,cost_usd,mtbf_s,"
      "checkpoint_s,checkpoint_interval_s,checkpoint_interval_steps,effective_time_ratio,"
      "effective_days,effective_cost_usd,checkpoint_write_s,reason\n";
  for (const SweepRow& row : rows) {
    const Predicted& p = row.plan.predicted;
    out += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", row.gpus,
                       row.nodes, row.plan.feasible ? "true" : "false",
                       csv_cell(to_string(row.plan.layout)), p.peak_memory_bytes, number(p.step_s),
                       number(p.tokens_per_s), number(p.mfu), number(p.days), number(p.cost_usd),
                       exact_number(row.mtbf_s), exact_number(row.checkpoint_s),
                       number(row.interval_s),
                       row.interval_steps ? std::to_string(*row.interval_steps) : "",
                       number(row.effective_time_ratio), number(row.effective_days),
                       number(row.effective_cost_usd), exact_number(row.checkpoint_write_s),
                       csv_cell(row.plan.reason));
  }
  return out;
}

}  // namespace dsv3::plan
