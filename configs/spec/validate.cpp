// The order of the rules, and those of a run itself: lengths, schedule, data.
#include "configs/spec/validate.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/rules.h"

namespace dsv3::spec {
namespace {

void check_data(const DataSpec& data, Findings& out) {
  double sum = 0;
  for (const double share : data.split) sum += share;
  if (data.split.size() != 2 || std::abs(sum - 1.0) > 1e-6 || data.split[0] <= 0) {
    out.error("BAD_SPLIT", "data.split",
              fmt::format("data.split has {} shares that add up to {:g}; it takes two, training "
                          "and validation, that add up to 1",
                          data.split.size(), sum),
              "for example [0.99, 0.01]");
  }
  double weight = 0;
  for (const auto& [prefix, w] : data.path) weight += w;
  if (!data.path.empty() && !(weight > 0)) {
    out.error("BAD_BLEND", "data.path", "every weight of the blend is 0",
              "give at least one data set a positive weight");
  }
}

// Compute-optimal training takes some 20 tokens per parameter that a token uses (Hoffmann et al.,
// 2022, on dense models); less than that and a smaller model does better. A job on CPUs rehearses.
void check_tokens(const JobSpec& job, Findings& out) {
  const TrainingSpec& t = job.training;
  if (t.max_steps < 1 || t.global_batch_size < 1 || job.cluster.devices != "cuda") return;
  const double tokens_per_step =
      static_cast<double>(t.global_batch_size) * static_cast<double>(t.seq_length);
  const double tokens = static_cast<double>(t.max_steps) * tokens_per_step;
  const double active = static_cast<double>(count_params(job.model).active);
  const double wanted = kTokensPerActive * active;
  if (tokens >= wanted || active < 1) return;
  out.warning(
      "FEW_TOKENS", "training.max_steps",
      fmt::format("max_steps={} of {} tokens see {}, {:.2g} per active parameter", t.max_steps,
                  with_commas(static_cast<int64_t>(tokens_per_step)),
                  human_count(static_cast<int64_t>(std::min(tokens, 9e18))), tokens / active),
      fmt::format("{:.0f} are the rule of thumb: max_steps ≥ {:.0f}, or a smaller model",
                  kTokensPerActive, std::ceil(wanted / tokens_per_step)));
}

// What planning can do without, and a run cannot.
void check_submit(const JobSpec& job, const ValidateOptions& options, Findings& out) {
  if (job.training.max_steps < 1) {
    out.error("MISSING_KEY", "training.max_steps", "training.max_steps is not given",
              "how many optimizer steps to run");
  }
  const bool batch_given =
      options.origins == nullptr || options.origins->count("training.global_batch_size") > 0;
  if (!batch_given || job.training.global_batch_size < 1) {
    out.error("MISSING_KEY", "training.global_batch_size",
              "training.global_batch_size is not given", "sequences per optimizer step");
  }
  if (job.data.path.empty()) {
    out.error("MISSING_KEY", "data.path", "data.path is not given",
              "a prefix written by `dsv3ctl data prepare`, or \"@demo\" for the demo's text");
  }
  if (job.training.dtype == "fp8" && job.cluster.devices == "cpu") {
    out.error("FP8_NEEDS_GPU", "training.dtype",
              "dtype fp8 with devices cpu: CPUs have no FP8 products", "dtype: bf16, or fp32");
  }
}

// Leaves out the warnings that the file says are meant; an error stays.
std::vector<Diagnostic> without_accepted(const JobSpec& job, std::vector<Diagnostic> found) {
  const std::vector<std::string> accepted = split(job.preset.accepts, ' ');
  std::erase_if(found, [&](const Diagnostic& d) {
    return d.severity == Severity::kWarning &&
           std::find(accepted.begin(), accepted.end(), d.code) != accepted.end();
  });
  return found;
}

// CP takes a piece from both ends of a sequence for each rank, TP cuts what is left into runs.
void check_sequence(const JobSpec& job, Findings& out) {
  const int64_t length = job.training.seq_length;
  const int64_t cp = std::max<int64_t>(1, job.parallel.context_parallel_size);
  const int64_t tp = std::max<int64_t>(1, job.parallel.tensor_parallel_size);
  const int64_t parts = cp > 1 ? 2 * cp : 1, step = std::lcm(parts, cp * tp);
  if (length % step == 0) return;
  const std::string hint = fmt::format("use a seq_length that is a multiple of {}, for example {}",
                                       step, nearest_multiple(length, step));
  if (length % parts != 0) {
    out.error("CP_NOT_DIVIDING_SEQ", "parallel.context_parallel_size",
              fmt::format("seq_length={} % (2*CP=2*{}={}) != 0: every rank takes a piece from both "
                          "ends of a sequence",
                          length, cp, parts),
              hint);
  } else {
    out.error("TP_NOT_DIVIDING_SEQ", "parallel.tensor_parallel_size",
              fmt::format("seq_length={} % (CP*TP={}*{}={}) != 0: a TP group's ranks hold parts of "
                          "a sequence (sequence parallelism)",
                          length, cp, tp, cp * tp),
              hint);
  }
}

}  // namespace

void check_training(const JobSpec& job, const ValidateOptions& options, Findings& out) {
  const TrainingSpec& t = job.training;
  if (t.seq_length > job.model.max_context_length) {
    out.error("SEQ_GT_MAX_CONTEXT", "training.seq_length",
              fmt::format("seq_length={} > max_context_length={}", t.seq_length,
                          job.model.max_context_length),
              fmt::format("use at most {}, or raise max_context_length (with rope_scaling beyond "
                          "the length the model was made for)",
                          job.model.max_context_length));
  }
  const RopeScaling& rope = job.model.mla.rope_scaling;
  const double reach = rope.factor * static_cast<double>(rope.original_max_position);
  if (rope.type == "yarn" && static_cast<double>(t.seq_length) > reach &&
      t.seq_length <= job.model.max_context_length) {
    out.error("SEQ_GT_MAX_CONTEXT", "training.seq_length",
              fmt::format("seq_length={} > factor*original_max_position={:.15g}*{}={:.15g}",
                          t.seq_length, rope.factor, rope.original_max_position, reach),
              fmt::format("use at most {:.0f}, or a larger rope_scaling.factor", reach));
  }
  check_sequence(job, out);
  if (t.min_learning_rate > t.learning_rate) {
    out.warning("MIN_LR_GT_PEAK", "training.min_learning_rate",
                fmt::format("min_learning_rate={} > learning_rate={}: the rate would rise",
                            t.min_learning_rate, t.learning_rate),
                "a tenth of the peak is usual");
  }
  if (t.max_steps > 0 && t.lr_warmup_steps >= t.max_steps) {
    out.warning("WARMUP_GE_STEPS", "training.lr_warmup_steps",
                fmt::format("lr_warmup_steps={} ≥ max_steps={}: the peak is never reached",
                            t.lr_warmup_steps, t.max_steps),
                fmt::format("{} would be a tenth", std::max<int64_t>(1, t.max_steps / 10)));
  }
  check_tokens(job, out);
  check_data(job.data, out);
  if (options.for_submit) check_submit(job, options, out);
}

std::vector<Diagnostic> validate(const JobSpec& job, const ValidateOptions& options) {
  // A size below 1 (only where a required key was missing) would divide by zero below, and was
  // reported by the parser.
  const ModelSpec& m = job.model;
  if (m.vocab_size < 1 || m.num_layers < 1 || m.d_model < 1 || m.num_heads < 1 ||
      m.moe.n_group < 1 || m.moe.topk_group < 1 || m.mla.v_head_dim < 1) {
    Findings incomplete(options.origins);
    incomplete.error("MISSING_KEY", "model",
                     "the model's sizes are incomplete: vocab_size, num_layers, d_model and "
                     "num_heads must be positive",
                     "start from a preset: dsv3ctl configs show 1b");
    return incomplete.take();
  }
  Findings out(options.origins);
  check_model(job, out);
  check_layout(job, options, out);
  check_training(job, options, out);
  check_effects(job, out);
  return without_accepted(job, out.take());
}

}  // namespace dsv3::spec
