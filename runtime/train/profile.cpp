// Measuring a step's ops; see profile.h.
#include "runtime/train/profile.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "configs/spec/counts.h"
#include "kernels/ops/profile.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/train/checkpointing.h"
#include "runtime/train/peak.h"
#include "runtime/train/session.h"
#include "runtime/train/step.h"

namespace dsv3::train {
namespace {

// Parameters by where they lie: an op is told addresses, not names.
class ParameterNames {
 public:
  explicit ParameterNames(const model::ParamStore& params) : params_(params) {}

  // "" when the address is no parameter's and no gradient's.
  std::string place(const void* address) const {
    for (const tensor::Tensor* flat : {&params_.master(), &params_.grad(), &params_.compute()}) {
      const auto* begin = static_cast<const std::byte*>(flat->data);
      const auto* at = static_cast<const std::byte*>(address);
      if (flat->empty() || at < begin || at >= begin + flat->bytes()) continue;
      return block_at((at - begin) / static_cast<int64_t>(dtype_bytes(flat->dtype)));
    }
    return {};
  }

 private:
  std::string block_at(int64_t offset) const {
    const auto& blocks = params_.layout().blocks;
    const auto after =
        std::upper_bound(blocks.begin(), blocks.end(), offset,
                         [](int64_t value, const auto& block) { return value < block.offset; });
    return after == blocks.begin() ? "" : place_of_parameter(std::prev(after)->name);
  }

  const model::ParamStore& params_;
};

// Raises the limits to what is measured now. An arena of its own: what is measured with must not
// stay in the step's memory.
void measure_limits(Session& session, StepProfile* result) {
  tensor::Arena arena(*session.device);
  const auto raise = [](double* limit, double measured) { *limit = std::max(*limit, measured); };
  result->compute_dtype = session.model->params().compute_dtype();
  raise(&result->peak_flops_per_s, measure_peak_flops_per_s(arena, result->compute_dtype));
  raise(&result->peak_f32_flops_per_s, result->compute_dtype == DType::kF32
                                           ? result->peak_flops_per_s
                                           : measure_peak_flops_per_s(arena, DType::kF32));
  raise(&result->copy_bytes_per_s, measure_copy_bytes_per_s(arena));
}

std::vector<int64_t> shape_of(const ops::OpSignature& signature) {
  std::vector<int64_t> shape(signature.shape.begin(), signature.shape.end());
  while (!shape.empty() && shape.back() == 0) shape.pop_back();
  return shape;
}

// Calls that differ in the layer alone become one row.
std::vector<ProfileRow> rows_of(const ops::Profile& profile, const ParameterNames& names,
                                const StepProfile& limits) {
  const auto steps = static_cast<double>(limits.steps);
  std::map<std::tuple<std::string, int, std::string, std::vector<int64_t>, DType>, ProfileRow> rows;
  for (const auto& [key, totals] : profile.entries()) {
    const auto& [op, signature] = key;
    const std::string place = names.place(signature.parameter);
    const std::vector<int64_t> shape = shape_of(signature);
    ProfileRow& row =
        rows[{std::string(op), static_cast<int>(signature.role), place, shape, signature.dtype}];
    row.op = op;
    row.role = ops::role_name(signature.role);
    row.place = place;
    row.shape = shape;
    row.dtype = signature.dtype;
    row.calls += static_cast<double>(totals.calls) / steps;
    row.seconds += static_cast<double>(totals.ns) * 1e-9 / steps;
    row.flops += totals.cost.flops / steps;
    row.bytes += totals.cost.bytes / steps;
  }
  std::vector<ProfileRow> sorted;
  for (auto& [key, row] : rows) {
    const double peak =
        row.dtype == DType::kF32 ? limits.peak_f32_flops_per_s : limits.peak_flops_per_s;
    const double compute_s = row.flops / peak, memory_s = row.bytes / limits.copy_bytes_per_s;
    row.limit_s = std::max(compute_s, memory_s);
    row.compute_bound = compute_s >= memory_s && row.flops > 0;
    sorted.push_back(std::move(row));
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return sorted;
}

// What a run of the spec would go on from; "" for a fresh start. Only reads.
Result<std::string> choose(const std::string& dir, const std::string& load) {
  if (!dir.empty()) {
    auto newest = checkpoint::newest_valid(dir);
    if (newest.ok()) return std::move(newest->path);
    if (newest.status().code() != Code::kNotFound) return newest.status();
  }
  return load.empty() ? Result<std::string>(std::string()) : checkpoint::find_checkpoint(load);
}

Status restore(Session& session, const std::string& dir, StepProfile* result) {
  DSV3_ASSIGN_OR_RETURN(result->checkpoint, choose(dir, session.spec.checkpoint.load));
  if (result->checkpoint.empty()) {
    session.model->params().initialise(session.spec.training.seed);
    return {};
  }
  DSV3_RETURN_IF_ERROR(restore_from(session, result->checkpoint));
  result->first_step = session.steps_done;
  return {};
}

}  // namespace

bool beats_its_limit(const std::vector<ProfileRow>& rows) {
  constexpr double kClearly = 1.05;  // the best of many products still differs by some percent
  return std::any_of(rows.begin(), rows.end(), [](const ProfileRow& row) {
    return row.compute_bound && row.seconds > 0 && row.limit_s > kClearly * row.seconds;
  });
}

std::string place_of_parameter(std::string_view block) {
  constexpr std::string_view kModel = "model.", kLayers = "layers.";
  if (block.starts_with(kModel)) block.remove_prefix(kModel.size());
  if (block.starts_with(kLayers)) {
    block.remove_prefix(kLayers.size());
    block.remove_prefix(std::min(block.find('.'), block.size() - 1) + 1);
  }
  return std::string(block);
}

Result<StepProfile> profile_steps(const ProfileOptions& options) {
  if (const int64_t batch = options.spec.training.global_batch_size, ranks = options.data_ranks;
      ranks < 1 || batch % ranks != 0) {
    return Status(Code::kInvalid, fmt::format("{} ranks can't share a batch of {}", ranks, batch));
  }
  if (options.steps < 1 || options.warmup_steps < 1) {
    return Status(Code::kInvalid, fmt::format("{} steps and {} before can't be measured",
                                              options.steps, options.warmup_steps));
  }
  const auto say = [&](std::string_view phase, int64_t done, int64_t total) {
    if (options.progress) options.progress(phase, done, total);
  };
  StepProfile result;
  DSV3_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, open_session(options.spec));
  DSV3_RETURN_IF_ERROR(restore(*session, options.checkpoint_dir, &result));
  // After restoring: a checkpoint is at a sample of the whole batch.
  session->spec.training.global_batch_size /= options.data_ranks;
  say("measuring this machine", 0, 2);
  measure_limits(*session, &result);
  // The first step grows the memory and builds the products' primitives.
  for (int64_t i = 0; i < options.warmup_steps; ++i) {
    say("warming up", i, options.warmup_steps);
    DSV3_RETURN_IF_ERROR(run_step(*session).status());
    if (i == 0) session->arena->compact();
  }
  ops::Profile profile;
  session->device->profile_into(&profile);
  for (int64_t i = 0; i < options.steps; ++i) {
    say("measuring steps", i, options.steps);
    DSV3_ASSIGN_OR_RETURN(const StepReport report, run_step(*session));
    result.step_s += report.step_s;
    result.tokens = report.tokens;
  }
  session->device->profile_into(nullptr);
  say("measuring this machine", 1, 2);
  measure_limits(*session, &result);
  result.steps = options.steps;
  result.step_s /= static_cast<double>(options.steps);
  result.outside_s = result.step_s - static_cast<double>(profile.total_ns()) * 1e-9 /
                                         static_cast<double>(options.steps);
  result.tokens_per_s = static_cast<double>(result.tokens) / result.step_s;
  result.device = session->device->description();
  result.mfu =
      result.tokens_per_s *
      spec::flops_per_token(options.spec.model, options.spec.training.seq_length).total_with_mtp /
      result.peak_flops_per_s;
  result.rows = rows_of(profile, ParameterNames(session->model->params()), result);
  return result;
}

}  // namespace dsv3::train
