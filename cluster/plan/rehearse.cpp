// See rehearse.h.
#include "cluster/plan/rehearse.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace dsv3::plan {
namespace {

// A step then moves the loss by about a hundredth: a thousand times what may differ.
constexpr double kLearningRate = 3e-3;

int64_t half_up(int64_t n) {
  return (n + 1) / 2;
}

int64_t multiple_of(int64_t step, int64_t at_least) {
  return std::max<int64_t>(1, (at_least + step - 1) / step) * step;
}

// Ranks that hold one layer's experts between them.
int64_t expert_members(const Layout& layout) {
  return layout.etp > 1 ? layout.ep : layout.ep * layout.tp;
}

// ---- folding

// In the order in which equals give way.
std::array<int64_t*, 4> foldable(Layout* layout) {
  return {&layout->ep, &layout->pp, &layout->tp, &layout->cp};
}

int64_t* largest_axis(Layout* layout) {
  int64_t* largest = nullptr;
  for (int64_t* axis : foldable(layout)) {
    if (largest == nullptr || *axis > *largest) largest = axis;
  }
  return largest;
}

// ---- the small model

// Two layers a stage (one where the job has no more), as uneven as the job's own where stages may
// be; at least one layer with experts behind the dense ones.
int64_t num_layers(const spec::ModelSpec& model, const Layout& planned, const Layout& first) {
  const int64_t chunks = first.pp * first.virtual_stages;
  const int64_t per_chunk = std::min<int64_t>(
      2, std::max<int64_t>(1, model.num_layers / (planned.pp * planned.virtual_stages)));
  const int64_t behind_dense =
      model.moe.num_experts > 0 && model.moe.first_k_dense < model.num_layers
          ? model.moe.first_k_dense + 1
          : 1;
  const int64_t even = multiple_of(chunks, std::max(chunks * per_chunk, behind_dense));
  const bool uneven =
      first.virtual_stages == 1 && first.pp > 1 && model.num_layers % planned.pp != 0;
  return std::min(even + (uneven ? 1 : 0), std::max(model.num_layers, even));
}

// A multiple of what is divided by; more of them than a token chooses, also within the groups that
// are kept.
int64_t num_experts(const spec::MoeSpec& moe, const Layout& planned, const Layout& first) {
  const int64_t members = expert_members(first);
  const int64_t per_member =
      std::min<int64_t>(2, std::max<int64_t>(1, moe.num_experts / expert_members(planned)));
  const int64_t groups = std::max<int64_t>(1, moe.n_group);
  const int64_t step = std::lcm(members, groups);
  int64_t experts = multiple_of(step, members * per_member);
  const auto too_few = [&] {
    if (groups > 1 && experts < 2 * groups) return true;
    return experts * std::max<int64_t>(1, moe.topk_group) <= moe.num_experts_per_token * groups;
  };
  while (too_few() && experts + step <= std::max(moe.num_experts, step)) experts += step;
  return experts;
}

void shrink_model(const spec::ModelSpec& model, const Layout& planned, const Layout& first,
                  spec::ModelSpec* small) {
  const int64_t heads_each = std::max<int64_t>(1, model.num_heads / planned.tp);
  small->name = "rehearsal";
  small->vocab_size = multiple_of(first.tp, kRehearsalTokens + 3);
  small->d_model = multiple_of(first.tp, 32);
  small->num_heads = first.tp * std::min<int64_t>(2, heads_each);
  small->num_key_value_heads.reset();
  small->num_layers = num_layers(model, planned, first);
  small->dense_intermediate_size = multiple_of(first.tp, 48);
  small->mla.kv_lora_rank = 12;
  if (model.mla.q_lora_rank) small->mla.q_lora_rank = 20;
  small->mla.qk_nope_head_dim = 8;
  small->mla.qk_rope_head_dim = 4;
  small->mla.v_head_dim = 8;
  spec::MoeSpec& moe = small->moe;
  moe.moe_layers.reset();
  if (model.moe.num_experts == 0) return;
  moe.num_experts = num_experts(model.moe, planned, first);
  moe.expert_intermediate_size = multiple_of(first.tp, 16);
}

// ---- the small run

// As many micro-batches as keep every stage busy, where the job has them.
int64_t micro_batches(const Layout& planned, const Layout& first) {
  const int64_t stood_for = planned.grad_accumulation * std::max<int64_t>(1, planned.dp / first.dp);
  const int64_t busy = 2 * first.pp;
  if (first.schedule == "interleaved" && first.pp > 1) return busy;
  return std::clamp<int64_t>(stood_for, 1, busy);
}

void settle_run(const RehearseOptions& options, const Layout& first, spec::JobSpec* small) {
  spec::TrainingSpec& training = small->training;
  training.dtype = "fp32";
  training.moments_dtype = "fp32";
  training.grads_dtype = "fp32";
  training.max_steps = options.steps;
  training.seq_length = multiple_of((first.cp > 1 ? 2 : 1) * first.cp * first.tp, 32);
  training.micro_batch_size = first.micro_batch;
  training.global_batch_size = first.micro_batch * first.grad_accumulation * first.dense_dp();
  // What depends on a run's length would part the two runs from the one they are compared with.
  training.lr_schedule = "constant";
  training.learning_rate = kLearningRate;
  training.lr_warmup_steps = 0;
  training.min_learning_rate = 0;
  training.eval_interval_steps = 0;
  training.eval_batches = 1;
  training.deterministic = true;
  small->model.max_context_length = std::max(training.seq_length, small->model.max_context_length);
  small->model.mla.use_flash_mla = false;
  small->model.mla.use_fp8_kv = false;
  small->model.moe.use_deep_ep = false;
  small->model.moe.deep_ep_fp8 = false;
  small->data = {};
  small->data.tokenizer = "byte";
  small->data.split = {0.9, 0.1};
  small->checkpoint = {};
  small->checkpoint.async = false;
  small->logging = {};
  small->logging.jsonl = true;
  const int64_t timeout_s = small->parallel.collective_timeout_s;
  small->parallel = {};
  small->parallel.collective_timeout_s = timeout_s;
  small->cluster = {};
  small->preset = {};
}

void say_folded(const Layout& planned, const Layout& first, std::vector<std::string>* folded) {
  const auto axis = [folded](const char* name, int64_t from, int64_t to) {
    if (from != to) folded->push_back(fmt::format("{} {} is rehearsed as {}", name, from, to));
  };
  if (planned.dp != first.dp) {
    folded->push_back(fmt::format("DP {} is rehearsed as {}{}", planned.dp, first.dp,
                                  first.dp == 1 ? ": micro-batches stand for the data ranks" : ""));
  }
  axis("EP", planned.ep, first.ep);
  axis("PP", planned.pp, first.pp);
  axis("TP", planned.tp, first.tp);
  axis("CP", planned.cp, first.cp);
  axis("VPP", planned.virtual_stages, first.virtual_stages);
  axis("ZeRO", planned.zero_stage, first.zero_stage);
}

void say_changed(const spec::JobSpec& job, const Layout& planned,
                 std::vector<std::string>* changed) {
  const auto say = [changed](bool is, std::string text) {
    if (is) changed->push_back(std::move(text));
  };
  say(job.training.dtype != "fp32",
      fmt::format("training.dtype {} as fp32, so that losses can be compared", job.training.dtype));
  say(planned.moments_dtype != "fp32", "moments in fp32");
  say(planned.grads_dtype != "fp32", "gradients in fp32");
  say(planned.offload_optimizer,
      "the optimizer is not offloaded: there is no device to offload from");
  say(job.model.mla.use_flash_mla, "attention without FlashMLA");
  say(job.model.moe.use_deep_ep, "the expert exchange without DeepEP");
  say(!planned.pipeline_layers.empty(), "layers in even stages");
  say(true, "a constant learning rate, large enough that a wrong gradient shows");
}

// Axes and choices on which two layouts differ.
int64_t differences(const Layout& a, const Layout& b) {
  return (a.tp != b.tp) + (a.cp != b.cp) + (a.pp != b.pp) + (a.ep != b.ep) + (a.dp != b.dp) +
         (a.etp != b.etp);
}

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> found;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) found.push_back(d);
  }
  return found;
}

// Every cut of `world` ranks that trains `job`'s batch.
template <typename Visit>
void for_each_cut(const spec::JobSpec& job, int64_t world, const Layout& like, Visit visit) {
  for (const int64_t tp : divisors(world)) {
    for (const int64_t cp : divisors(world / tp)) {
      for (const int64_t pp : divisors(world / tp / cp)) {
        for (const int64_t ep : divisors(world / tp / cp / pp)) {
          Layout cut{.tp = tp, .cp = cp, .pp = pp, .ep = ep, .dp = world / tp / cp / pp / ep};
          cut.micro_batch = like.micro_batch;
          const int64_t share = cut.micro_batch * cut.dense_dp();
          if (job.training.global_batch_size % share != 0) continue;
          cut.grad_accumulation = job.training.global_batch_size / share;
          cut.recompute = like.recompute;
          cut.zero_stage = like.zero_stage == 0 ? 1 : 0;
          if (check_layout(job, cut, 0).empty()) visit(cut);
        }
      }
    }
  }
}

}  // namespace

Layout fold_layout(const Layout& planned, int64_t ranks_max) {
  Layout first = planned;
  while (first.dp > 1 && first.world_size() > ranks_max) first.dp /= 2;
  while (first.world_size() > ranks_max) {
    int64_t* axis = largest_axis(&first);
    if (*axis > 2) {
      *axis = half_up(*axis);
      continue;
    }
    for (int64_t* last : {&first.cp, &first.tp, &first.pp, &first.ep}) {
      if (*last == 1) continue;
      *last = 1;
      break;
    }
  }
  while (first.dp * 2 <= planned.dp && first.world_size() * 2 <= ranks_max) first.dp *= 2;
  if (planned.etp > 1) first.etp = first.tp;
  if (first.pp == 1) {
    first.virtual_stages = 1;
    first.schedule = planned.schedule == "interleaved" ? "1f1b" : planned.schedule;
  }
  first.virtual_stages = std::min<int64_t>(first.virtual_stages, 4);
  first.zero_stage = std::min<int64_t>(first.zero_stage, first.pp > 1 ? 1 : 2);
  first.micro_batch = std::min<int64_t>(first.micro_batch, 2);
  first.grad_accumulation = micro_batches(planned, first);
  first.moments_dtype = "fp32";
  first.grads_dtype = "fp32";
  first.offload_optimizer = false;
  first.pipeline_layers.clear();
  return first;
}

Layout other_layout(const spec::JobSpec& job, const Layout& first) {
  Layout best = first;
  int64_t most = -1;
  const int64_t world = first.world_size();
  const std::array<int64_t, 2> worlds = {world == 1 ? 2 : world, world == 1 ? 1 : world / 2};
  for (const int64_t ranks : worlds) {
    if (ranks < 1) continue;
    for_each_cut(job, ranks, first, [&](const Layout& cut) {
      if (const int64_t differ = differences(first, cut); differ > most) {
        most = differ;
        best = cut;
      }
    });
  }
  return best;
}

Result<Rehearsal> make_rehearsal(const spec::JobSpec& job, const Layout& planned,
                                 const RehearseOptions& options) {
  Rehearsal made;
  made.job = job;
  made.planned = planned;
  made.first = fold_layout(planned, options.ranks_max);
  shrink_model(job.model, planned, made.first, &made.job.model);
  settle_run(options, made.first, &made.job);
  if (std::string fault = check_layout(made.job, made.first, 0); !fault.empty()) {
    return Status(Code::kInvalid, fmt::format("the rehearsal as {} can't be cut: {}",
                                              to_string(made.first), fault));
  }
  made.second = other_layout(made.job, made.first);
  made.alone = {.zero_stage = 0, .recompute = "none", .micro_batch = made.first.micro_batch};
  made.alone.grad_accumulation = made.job.training.global_batch_size / made.first.micro_batch;
  say_folded(planned, made.first, &made.folded);
  say_changed(job, planned, &made.changed);
  return made;
}

}  // namespace dsv3::plan
