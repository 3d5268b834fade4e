// See migrate.h.
#include "cluster/plan/migrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "base/text.h"
#include "cluster/plan/recommend.h"
#include "configs/spec/counts.h"
#include "configs/spec/diff.h"
#include "configs/spec/model_tensors.h"

namespace dsv3::plan {
namespace {

// The longest prefix of a key that stands here says why it changes.
struct Why {
  std::string_view prefix;
  std::string_view text;
};
constexpr std::array kWhy = {
    Why{"model.name", "the target's name"},
    Why{"model.vocab_size", "another vocabulary: the data have to be tokenized again"},
    Why{"model.num_layers", "depth of the target; it bounds the pipeline's stages"},
    Why{"model.d_model", "width of the target; everything else in a layer follows from it"},
    Why{"model.num_heads", "heads grow with the width; they bound tensor parallelism"},
    Why{"model.dense_intermediate_size", "width of the dense layers' feed-forward part"},
    Why{"model.max_context_length", "the longest sequence that the target is made for"},
    Why{"model.mtp", "extra prediction modules: more parameters, and a second loss"},
    Why{"model.init_std", "the deviation that suits the target's width"},
    Why{"model.mla.rope", "positions: the target's range needs its own angles"},
    Why{"model.mla.use_", "a choice of kernels; it doesn't change the model"},
    Why{"model.mla", "latents and head sizes go with the width"},
    Why{"model.moe.num_experts_per_token", "experts that a token uses: the work per token"},
    Why{"model.moe.num_experts",
        "more or fewer experts: parameters without work per token; expert parallelism must divide "
        "it"},
    Why{"model.moe.num_shared_experts", "experts that every token uses"},
    Why{"model.moe.expert_intermediate_size", "width of an expert, set with their number"},
    Why{"model.moe.first_k_dense", "layers without experts at the start"},
    Why{"model.moe.n_group", "experts are chosen within groups, so that few nodes are written to"},
    Why{"model.moe.topk_group", "groups that a token may use: the nodes it is sent to"},
    Why{"model.moe.use_deep_ep", "a choice of kernels; it doesn't change the model"},
    Why{"model.moe.deep_ep", "a choice of kernels; it doesn't change the model"},
    Why{"model.moe", "balancing and scores as the target was made with"},
    Why{"model", "the target's shape"},
    Why{"parallel.overlap", "as the target has it"},
    Why{"parallel", "the planner's choice for this cluster"},
    Why{"training.learning_rate", "a larger model wants a lower rate, a smaller one a higher"},
    Why{"training.min_learning_rate", "goes with the learning rate"},
    Why{"training.lr_", "the schedule of the target's length"},
    Why{"training.global_batch_size",
        "a larger model learns from larger batches; the layout has to divide it"},
    Why{"training.micro_batch_size", "sequences at a time: what the memory of this cluster allows"},
    Why{"training.max_steps", "tokens over the tokens of a step"},
    Why{"training.seq_length", "the sequence length that the target trains on"},
    Why{"training.dtype", "the precision that the target is trained in"},
    Why{"training.moments_dtype", "what the memory of this cluster allows"},
    Why{"training.grads_dtype", "what the memory of this cluster allows"},
    Why{"training", "as the target has it"},
    Why{"data.tokenizer", "goes with the vocabulary"},
    Why{"data", "the target's own data"},
    Why{"checkpoint", "a larger state is written less often"},
    Why{"logging", "as the target has it"},
    Why{"cluster", "the machines that this was made for"},
};

std::string_view why_of(std::string_view key) {
  std::string_view text = "as the target has it";
  size_t longest = 0;
  for (const Why& why : kWhy) {
    if (why.prefix.size() > longest && key.starts_with(why.prefix)) {
      longest = why.prefix.size();
      text = why.text;
    }
  }
  return text;
}

std::optional<double> fraction(const std::string& text) {
  if (text.find_first_of(".eE") == std::string::npos) return std::nullopt;
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && at == end ? std::optional(value) : std::nullopt;
}

// Both of "3.0e-04" and "0.00022" in one notation: 3e-04, 2.2e-04.
void write_alike(std::string* from, std::string* to) {
  const auto a = fraction(*from), b = fraction(*to);
  constexpr double kSmall = 1e-3;
  if (!a || !b || (std::abs(*a) >= kSmall && std::abs(*b) >= kSmall)) return;
  for (const auto& [value, text] : {std::pair(*a, from), std::pair(*b, to)}) {
    char buffer[40];
    const auto end =
        std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    *text = std::string(buffer, end);
  }
}

bool has_own_data(const spec::JobSpec& job) {
  return !job.data.path.empty() && job.data.path[0].first != "@demo";
}

// The name and shape of every tensor that a checkpoint holds are the same.
struct Shapes {
  int64_t tensors = 0;
  int64_t different = 0;
  std::string first;  // "model.embed_tokens.weight is [65536, 2048], was [32768, 1024]"
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

Shapes compare_shapes(const spec::ModelSpec& from, const spec::ModelSpec& to) {
  const auto before = spec::model_tensor_families(from), after = spec::model_tensor_families(to);
  Shapes out;
  out.tensors = static_cast<int64_t>(std::max(before.size(), after.size()));
  for (size_t i = 0; i < static_cast<size_t>(out.tensors); ++i) {
    const bool both = i < before.size() && i < after.size();
    if (both && before[i].tensor.name == after[i].tensor.name &&
        before[i].tensor.shape == after[i].tensor.shape && before[i].copies == after[i].copies)
      continue;
    ++out.different;
    if (!out.first.empty()) continue;
    if (both && before[i].tensor.name == after[i].tensor.name) {
      out.first =
          fmt::format("{} is {}, was {}", after[i].tensor.name, shape_text(after[i].tensor.shape),
                      shape_text(before[i].tensor.shape));
    } else {
      out.first = fmt::format("{} has no counterpart",
                              i < after.size() ? after[i].tensor.name : before[i].tensor.name);
    }
  }
  return out;
}

int64_t batch_tokens(const spec::JobSpec& job) {
  return job.training.global_batch_size * job.training.seq_length;
}

double compute_of(const spec::JobSpec& job) {
  const int64_t sequence = std::max<int64_t>(1, job.training.seq_length);
  return spec::flops_per_token(job.model, sequence).total_with_mtp *
         static_cast<double>(tokens_of(job));
}

void advise_data(const spec::JobSpec& from, const spec::JobSpec& job, Migration* out) {
  const int64_t before = from.model.vocab_size, after = job.model.vocab_size;
  if (before == after && from.data.tokenizer == job.data.tokenizer) {
    out->advice.push_back({"data",
                           "the vocabulary stays the same: the prepared data can be used "
                           "as they are."});
    return;
  }
  out->advice.push_back(
      {"data",
       before == after
           ? fmt::format(
                 "the tokenizer changes ('{}' to '{}'): prepare the data again with 'dsv3ctl "
                 "data prepare'.",
                 from.data.tokenizer, job.data.tokenizer)
           : fmt::format(
                 "the vocabulary changes from {} to {}: the token ids mean other things, so "
                 "prepare the data again with a tokenizer of at most {} entries ('dsv3ctl "
                 "data prepare').",
                 with_commas(before), with_commas(after), with_commas(after))});
}

void advise_checkpoints(const spec::JobSpec& from, const spec::JobSpec& job, Migration* out) {
  const Shapes shapes = compare_shapes(from.model, job.model);
  out->checkpoints_carry_over = shapes.different == 0;
  out->advice.push_back(
      {"checkpoints",
       shapes.different == 0
           ? "every tensor keeps its shape: a checkpoint of the source can be trained on "
             "(checkpoint.load), in any layout."
           : fmt::format("{} of {} kinds of tensors change ({}): a checkpoint of the source can't "
                         "be loaded, training starts from the beginning.",
                         shapes.different, shapes.tensors, shapes.first)});
}

void advise_training(const spec::JobSpec& from, const spec::JobSpec& job, Migration* out) {
  const double before = compute_of(from), after = compute_of(job);
  if (before > 0 && after > 0) {
    const double ratio = after / before;
    out->advice.push_back(
        {"learning_rate",
         fmt::format("the target's {:.1e}; its training computes {:.3g} times as much, for which "
                     "DeepSeek LLM's law (rate ~ C^-0.125) would turn the source's {:.1e} into "
                     "{:.1e}.",
                     job.training.learning_rate, ratio, from.training.learning_rate,
                     scaled_learning_rate(from.training.learning_rate, ratio))});
    out->advice.push_back(
        {"batch", fmt::format("the target's {} tokens a step; the same law (batch ~ C^0.327) would "
                              "turn the source's {} into {}.",
                              human_count(batch_tokens(job)), human_count(batch_tokens(from)),
                              human_count(std::llround(scaled_batch_tokens(
                                  static_cast<double>(batch_tokens(from)), ratio))))});
  }
  const int64_t active = spec::count_params(job.model).active;
  out->advice.push_back(
      {"tokens", fmt::format("its steps train on {} tokens (the source: {}); twenty for each of "
                             "its {} active parameters would be {}.",
                             human_count(tokens_of(job)), human_count(tokens_of(from)),
                             human_count(active), human_count(20 * active))});
}

void advise_model(const spec::JobSpec& from, const spec::JobSpec& job, Migration* out) {
  const spec::ModelSpec &a = from.model, &b = job.model;
  if (a.max_context_length != b.max_context_length || !(a.mla.rope_scaling == b.mla.rope_scaling) ||
      a.mla.rope_theta != b.mla.rope_theta) {
    out->advice.push_back(
        {"context",
         fmt::format("positions up to {} (were {}), trained on sequences of {}: the rotary "
                     "angles (rope_theta {:g}, rope_scaling {}) go with them.",
                     with_commas(b.max_context_length), with_commas(a.max_context_length),
                     with_commas(job.training.seq_length), b.mla.rope_theta,
                     b.mla.rope_scaling.type)});
  }
  if (a.moe.num_experts != b.moe.num_experts ||
      a.moe.num_experts_per_token != b.moe.num_experts_per_token) {
    out->advice.push_back(
        {"experts",
         fmt::format("{} of {} experts a token (were {} of {}): watch their balance anew with "
                     "'dsv3ctl experts JOB'.",
                     b.moe.num_experts_per_token, b.moe.num_experts, a.moe.num_experts_per_token,
                     a.moe.num_experts)});
  }
}

// The smallest number of equal GPUs that holds the target, with the settings that it takes there;
// "" where none is known.
std::string needed_text(const spec::JobSpec& job, const Plan& plan, const std::string& gpu_name) {
  if (!plan.gpus_needed) return {};
  const int64_t gpus = *plan.gpus_needed;
  std::string text =
      fmt::format("{} GPU{} of {:g} GB", gpus, gpus == 1 ? "" : "s", plan.gpu_label_gb);
  const Plan there = plan::plan(job, cluster_of_gpus(gpus, plan.gpu_label_gb, gpu_name));
  if (there.feasible) {
    text += fmt::format(" (the fastest that fits there takes {}: {})",
                        human_bytes(there.predicted.peak_memory_bytes), to_string(there.layout));
  }
  return text;
}

// What it takes as planned here, in words that go with `needed`'s: without a GPU that is the
// configuration as it stands, on one.
std::string too_large_text(const Plan& plan) {
  if (plan.device != DeviceKind::kCuda || plan.memory_bytes > 0) return plan.reason + ".";
  return fmt::format("{} on one GPU as the configuration stands ({} moments, recompute {}).",
                     human_bytes(plan.predicted.peak_memory_bytes), plan.layout.moments_dtype,
                     plan.layout.recompute);
}

void advise_cluster(const spec::JobSpec& from, const ClusterSpec& cluster, Migration* out) {
  const Plan& plan = out->plan;
  const std::string peak = human_bytes(plan.predicted.peak_memory_bytes);
  const std::string there = human_bytes(plan.memory_bytes);
  std::string before;
  if (!out->same) {
    const Plan source = plan::plan(from, cluster);
    if (source.feasible) {
      before =
          fmt::format(" (the source: {} with {})", human_bytes(source.predicted.peak_memory_bytes),
                      to_string(source.layout));
    }
  }
  out->advice.push_back({"memory", plan.feasible
                                       ? fmt::format("{} of {} on the fullest rank with {}{}.",
                                                     peak, there, to_string(plan.layout), before)
                                       : too_large_text(plan)});
  if (plan.device != DeviceKind::kCuda) return;
  const Hardware here = hardware_of(cluster);
  if (plan.feasible) {
    out->advice.push_back({"gpus", here.gpus == 1
                                       ? "it fits the one here."
                                       : fmt::format("it fits the {} here.", here.gpus)});
    return;
  }
  const std::string needed = needed_text(out->job, plan, here.gpu_name);
  if (needed.empty()) return;
  out->advice.push_back({"gpus", fmt::format("it needs {}; there {}.", needed,
                                             here.gpus == 0   ? std::string("are none")
                                             : here.gpus == 1 ? std::string("is one")
                                                              : fmt::format("are {}", here.gpus))});
}

}  // namespace

double scaled_learning_rate(double learning_rate, double compute_ratio) {
  return learning_rate * std::pow(compute_ratio, -0.125);
}

double scaled_batch_tokens(double batch_tokens, double compute_ratio) {
  return batch_tokens * std::pow(compute_ratio, 0.3271);
}

Migration migrate(const spec::JobSpec& from, const spec::JobSpec& to, const ClusterSpec& cluster,
                  const PlanOptions& options) {
  Migration out;
  spec::JobSpec job = to;
  if (count_devices(cluster, DeviceKind::kCuda) > 0) job.cluster.devices = "cuda";
  const bool same_text = from.model.vocab_size == to.model.vocab_size;
  if (same_text && has_own_data(from) && !has_own_data(to)) job.data = from.data;
  out.plan = plan(job, cluster, options);
  out.job = out.plan.feasible ? settled(job, out.plan) : job;
  out.same = spec::diff(from, to).empty();
  for (spec::Difference& d : spec::diff(from, out.job)) {
    std::string why(why_of(d.key));
    write_alike(&d.from, &d.to);
    out.changes.push_back({std::move(d.key), std::move(d.from), std::move(d.to), std::move(why)});
  }
  advise_data(from, out.job, &out);
  advise_checkpoints(from, out.job, &out);
  if (!out.same) {
    advise_training(from, out.job, &out);
    advise_model(from, out.job, &out);
  }
  advise_cluster(from, cluster, &out);
  return out;
}

}  // namespace dsv3::plan
