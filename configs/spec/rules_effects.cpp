// NO_EFFECT: nothing that someone wrote is ignored without a word. A rule looks at a key only where
// it was given and differs from its default.
#include <fmt/core.h>

#include "configs/spec/field_table.h"
#include "configs/spec/rules.h"

namespace dsv3::spec {
namespace {

class Effects {
 public:
  Effects(const JobSpec& job, Findings& out) : job_(job), out_(out) {}

  // Says that the key changes nothing because of `why`.
  void idle(const char* key, const std::string& why, const char* hint) {
    const Field* field = find_field(key);
    if (!out_.given(key)) return;
    const std::string value = value_text(*field, job_);
    if (value == default_text(*field)) return;
    out_.warning("NO_EFFECT", key,
                 fmt::format("{}={} has no effect {}", field->key.substr(field->key.rfind('.') + 1),
                             value, why),
                 hint);
  }
  void idle_section(std::string_view section, const std::string& why, const char* hint) {
    for (const Field& f : field_table()) {
      const bool below = f.key.starts_with(section) && f.key[section.size()] == '.';
      if (below) idle(std::string(f.key).c_str(), why, hint);
    }
  }

  void attention();
  void experts();
  void layout();
  void training();

 private:
  const JobSpec& job_;
  Findings& out_;
};

void Effects::attention() {
  const ModelSpec& m = job_.model;
  const RopeScaling& rope = m.mla.rope_scaling;
  if (m.mla.qk_rope_head_dim == 0) {
    idle("model.mla.rope_theta", "with qk_rope_head_dim 0: no dimension is rotated",
         "leave it out");
    idle("model.mla.rope_scaling.type", "with qk_rope_head_dim 0: no dimension is rotated",
         "leave it out");
  }
  if (rope.type == "none") {  // of factor: ROPE_SCALING_IGNORED
    for (const char* key :
         {"original_max_position", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}) {
      idle(fmt::format("model.mla.rope_scaling.{}", key).c_str(), "with rope_scaling.type none",
           "type: yarn, or leave it out");
    }
  }
  if (m.mtp_layers == 0) {
    idle("model.mtp_loss_weight", "with mtp_layers 0", "mtp_layers: 1, or leave it out");
  }
}

void Effects::experts() {
  const ModelSpec& m = job_.model;
  const MoeSpec& e = m.moe;
  if (e.num_experts == 0) {
    return idle_section("model.moe", "with num_experts 0: every layer is dense",
                        "give num_experts, or leave it out");
  }
  if (e.first_k_dense == 0) {
    idle("model.dense_intermediate_size", "with first_k_dense 0: no layer is dense",
         "first_k_dense: 1, or leave it out");
  }
  if (e.n_group > 1 && e.topk_group == e.n_group) {
    idle("model.moe.n_group",
         fmt::format("with topk_group={}: a token may choose from every group", e.topk_group),
         "a smaller topk_group, or n_group: 1 and topk_group: 1");
  }
  if (e.num_experts_per_token % e.topk_group == 0) {
    idle("model.moe.allow_uneven_groups", "with a top-k that is a multiple of topk_group",
         "leave it out");
  }
  if (!e.use_aux_loss_free) {
    idle("model.moe.bias_update_rate", "without use_aux_loss_free: there is no bias",
         "use_aux_loss_free: true, or leave it out");
  }
  if (!e.use_deep_ep) {
    idle("model.moe.deep_ep_fp8", "without use_deep_ep", "use_deep_ep: true, or leave it out");
  } else if (job_.parallel.expert_parallel_size == 1) {
    idle("model.moe.use_deep_ep", "with expert_parallel_size 1: no token leaves its rank",
         "leave it out");
  }
}

void Effects::layout() {
  const ParallelSpec& p = job_.parallel;
  const bool data_fixed = is_fixed(p.expert_parallel_size) && is_fixed(p.data_parallel_size) &&
                          is_fixed(p.context_parallel_size);
  const int64_t copies = p.expert_parallel_size * p.data_parallel_size * p.context_parallel_size;
  if (data_fixed && copies == 1) {
    if (p.zero_stage > 1)
      idle("parallel.zero_stage", "with CP*EP*DP=1: there is no other rank to share state with",
           "leave it out");
    idle("parallel.overlap_grad_reduce", "with CP*EP*DP=1: no gradient is reduced", "leave it out");
  }
  if (p.expert_parallel_size == 1 && p.tensor_parallel_size == 1) {
    idle("parallel.overlap_expert_exchange",
         "with expert_parallel_size 1 and tensor_parallel_size 1: every expert is on each rank",
         "leave it out");
  }
  if (p.pipeline_parallel_size == 1 && p.pipeline_schedule != "auto") {
    idle("parallel.pipeline_schedule", "with pipeline_parallel_size 1", "leave it out");
  }
  if (p.pipeline_parallel_size == 1 && p.pipeline_layers.size() == 1) {
    idle("parallel.pipeline_layers", "with pipeline_parallel_size 1", "leave it out");
  }
  if (p.tensor_parallel_size == 1 && p.expert_tensor_parallel_size < 1) {
    idle("parallel.expert_tensor_parallel_size", "with tensor_parallel_size 1: it can only be 1",
         "leave it out");
  }
  if (job_.cluster.devices == "cpu") {
    idle("parallel.offload_optimizer", "on CPUs: their memory is the host's", "leave it out");
  }
}

void Effects::training() {
  const TrainingSpec& t = job_.training;
  if (t.lr_schedule == "constant") {
    idle("training.min_learning_rate", "with lr_schedule constant",
         "lr_schedule: cosine, or leave it out");
  }
  const bool validates = job_.data.split.size() != 2 || job_.data.split[1] > 0;
  if (!validates) {
    idle("training.eval_interval_steps", "with no share of the documents for validation",
         "data.split: [0.99, 0.01]");
    idle("training.eval_batches", "with no share of the documents for validation",
         "data.split: [0.99, 0.01]");
  }
}

}  // namespace

void check_effects(const JobSpec& job, Findings& out) {
  Effects effects(job, out);
  effects.attention();
  effects.experts();
  effects.layout();
  effects.training();
}

}  // namespace dsv3::spec
