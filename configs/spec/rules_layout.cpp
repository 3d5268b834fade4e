// Rules of the layout, the batch and the hardware. A size of −1 is the planner's choice: a rule
// about it holds when what is fixed leaves room for it.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "configs/spec/gpu_table.h"
#include "configs/spec/rules.h"

namespace dsv3::spec {
namespace {

void check_sizes(const JobSpec& job, Findings& out) {
  const ParallelSpec& p = job.parallel;
  const auto check = [&](const char* key, int64_t size) {
    if (size != 0) return;
    out.error("OUT_OF_RANGE", key, fmt::format("{} is 0", key),
              "use a positive number, or -1 for the planner's choice");
  };
  check("parallel.tensor_parallel_size", p.tensor_parallel_size);
  check("parallel.pipeline_parallel_size", p.pipeline_parallel_size);
  check("parallel.expert_parallel_size", p.expert_parallel_size);
  check("parallel.data_parallel_size", p.data_parallel_size);
  check("parallel.context_parallel_size", p.context_parallel_size);
  check("parallel.expert_tensor_parallel_size", p.expert_tensor_parallel_size);
  check("training.micro_batch_size", job.training.micro_batch_size);
}

// What TP cuts by its width.
void check_widths(const JobSpec& job, int64_t gpus_per_node, Findings& out) {
  const ModelSpec& model = job.model;
  const MoeSpec& moe = model.moe;
  const int64_t tp = job.parallel.tensor_parallel_size;
  const auto check = [&](bool is_cut, const char* name, int64_t width) {
    if (!is_cut || width % tp == 0) return;
    out.error("TP_NOT_DIVIDING_WIDTH", "parallel.tensor_parallel_size",
              fmt::format("{}={} % TP={} != 0", name, width, tp),
              fmt::format("TP can be {}", divisors_text(width, gpus_per_node)));
  };
  check(moe.num_experts == 0 || moe.first_k_dense > 0, "dense_intermediate_size",
        model.dense_intermediate_size);
  check(moe.num_experts > 0, "num_shared_experts*expert_intermediate_size",
        moe.num_shared_experts * moe.expert_intermediate_size);
  check(moe.num_experts > 0 && job.parallel.expert_tensor_parallel_size > 1,
        "expert_intermediate_size", moe.expert_intermediate_size);
  check(model.mtp_layers > 0, "d_model (MTP's projection)", model.d_model);
}

void check_tensor_parallel(const JobSpec& job, int64_t gpus_per_node, Findings& out) {
  const int64_t tp = job.parallel.tensor_parallel_size;
  if (!is_fixed(tp)) return;
  constexpr const char* kKey = "parallel.tensor_parallel_size";
  if (job.model.num_heads % tp != 0) {
    out.error("TP_NOT_DIVIDING_HEADS", kKey,
              fmt::format("num_heads={} % TP={} != 0", job.model.num_heads, tp),
              fmt::format("TP can be {}", divisors_text(job.model.num_heads, gpus_per_node)));
  }
  if (job.model.vocab_size % tp != 0) {
    out.error("TP_NOT_DIVIDING_VOCAB", kKey,
              fmt::format("vocab_size={} % TP={} != 0", job.model.vocab_size, tp),
              fmt::format("TP can be {}, or pad vocab_size to {}",
                          divisors_text(job.model.vocab_size, gpus_per_node),
                          (job.model.vocab_size + tp - 1) / tp * tp));
  }
  if (tp > gpus_per_node) {
    out.error(
        "TP_CROSSES_NODE", kKey,
        fmt::format("TP={} > {} GPUs per node: tensor parallelism needs the links inside a node",
                    tp, gpus_per_node),
        fmt::format("use TP ≤ {} and more pipeline stages", gpus_per_node));
  }
  check_widths(job, gpus_per_node, out);
  const int64_t etp = job.parallel.expert_tensor_parallel_size;
  if (etp > 1 && etp != tp) {
    out.error("ETP_INVALID", "parallel.expert_tensor_parallel_size",
              fmt::format("expert_tensor_parallel_size={} is neither 1 nor TP={}", etp, tp),
              fmt::format("use 1 or {}", tp));
  }
}

// A stage has two chunks of layers or more, all equal where nobody says how many each has.
void check_interleaving(const JobSpec& job, Findings& out) {
  const int64_t pp = job.parallel.pipeline_parallel_size, layers = job.model.num_layers;
  if (pp == 1 || !job.parallel.pipeline_layers.empty()) return;
  if (layers % pp == 0 && layers / pp > 1) return;
  std::string sizes;
  for (int64_t size = 2; 2 * size <= layers; ++size) {
    if (layers % size == 0) sizes += fmt::format("{}{}", sizes.empty() ? "" : ", ", size);
  }
  out.error("INTERLEAVED_NOT_DIVISIBLE", "parallel.pipeline_schedule",
            fmt::format("num_layers={} isn't divisible by PP={} times two or more equal chunks",
                        layers, pp),
            fmt::format("{}give parallel.pipeline_layers, or pipeline_schedule: 1f1b",
                        sizes.empty() ? "" : fmt::format("PP can be {}; ", sizes)));
}

void check_pipeline_parallel(const JobSpec& job, Findings& out) {
  const int64_t pp = job.parallel.pipeline_parallel_size, layers = job.model.num_layers;
  if (!is_fixed(pp)) return;
  constexpr const char* kKey = "parallel.pipeline_parallel_size";
  if (pp > layers) {
    out.error("PP_GT_LAYERS", kKey, fmt::format("PP={} > num_layers={}", pp, layers),
              fmt::format("use at most {}", layers));
  } else if (job.parallel.pipeline_schedule == "interleaved") {
    check_interleaving(job, out);
  } else if (layers % pp != 0 && job.parallel.pipeline_layers.empty()) {
    out.warning("PP_UNEVEN_STAGES", kKey,
                fmt::format("num_layers={} % PP={} != 0: stages have {} or {} layers, and the "
                            "largest sets the pace",
                            layers, pp, layers / pp, layers / pp + 1),
                fmt::format("even stages: PP {}", divisors_text(layers, layers)));
  }
  if (pp > 1 && job.parallel.zero_stage >= 2) {
    out.warning("ZERO23_WITH_PP", "parallel.zero_stage",
                fmt::format("zero_stage={} with PP={}: gradients would be reduced again for every "
                            "micro-batch; falls back to 1",
                            job.parallel.zero_stage, pp),
                "zero_stage: 1");
  }
  if (pp > 1 && job.parallel.pipeline_schedule == "zero_bubble" &&
      job.parallel.recompute == "full") {
    out.warning("ZERO_BUBBLE_RECOMPUTE", "parallel.pipeline_schedule",
                "zero_bubble with recompute=full: what a later weight gradient needs isn't kept, "
                "so all are computed at once and nothing fills the bubble",
                "recompute: selective, or pipeline_schedule: 1f1b");
  }
}

void check_pipeline_layers(const JobSpec& job, Findings& out) {
  const std::vector<int64_t>& given = job.parallel.pipeline_layers;
  if (given.empty()) return;
  constexpr const char* kKey = "parallel.pipeline_layers";
  const int64_t layers = job.model.num_layers, pp = job.parallel.pipeline_parallel_size;
  const auto stages = static_cast<int64_t>(given.size());
  const int64_t sum = std::accumulate(given.begin(), given.end(), int64_t{0});
  if (sum != layers) {
    out.error("PIPELINE_LAYERS_SUM", kKey,
              fmt::format("pipeline_layers has {} layers, num_layers={}", sum, layers),
              fmt::format("{} {} layers, or leave it out", sum < layers ? "add" : "take away",
                          std::abs(sum - layers)));
  }
  if (!is_fixed(pp)) return;
  const std::string& schedule = job.parallel.pipeline_schedule;
  const bool chunked = (schedule == "interleaved" || schedule == "auto") && pp > 1;
  if (chunked ? stages % pp != 0 : stages != pp) {
    out.error("PIPELINE_LAYERS_STAGES", kKey,
              fmt::format("pipeline_layers has {} entries, PP={}", stages, pp),
              fmt::format("give {}{}, or leave it out", pp,
                          chunked ? " times the chunks of a stage" : ""));
  } else if (schedule == "interleaved" && stages == pp && pp > 1) {
    out.error(
        "PIPELINE_LAYERS_STAGES", kKey,
        fmt::format("pipeline_layers has {} entries, one chunk a stage: nothing to interleave",
                    stages),
        fmt::format("give {} for two chunks, or pipeline_schedule: 1f1b", 2 * pp));
  }
}

void check_expert_parallel(const JobSpec& job, int64_t gpus_per_node, Findings& out) {
  const ParallelSpec& p = job.parallel;
  const int64_t ep = p.expert_parallel_size, tp = p.tensor_parallel_size,
                experts = job.model.moe.num_experts;
  constexpr const char* kKey = "parallel.expert_parallel_size";
  if (experts > 0 && is_fixed(ep) && experts % ep != 0) {
    out.error("EP_NOT_DIVIDING_EXPERTS", kKey,
              fmt::format("num_experts={} % EP={} != 0", experts, ep),
              fmt::format("EP can be {}", divisors_text(experts, experts)));
  }
  const int64_t width = or_one(ep) * or_one(tp);
  if (experts > 0 && p.expert_tensor_parallel_size == 1 && is_fixed(tp) && tp > 1 &&
      experts % width != 0) {
    out.error("EP_TP_NOT_DIVIDING_EXPERTS", kKey,
              fmt::format("num_experts={} % (EP*TP={}*{}={}) != 0: with "
                          "expert_tensor_parallel_size 1 a TP group's ranks hold different experts",
                          experts, or_one(ep), tp, width),
              fmt::format("EP*TP can be {}, or expert_tensor_parallel_size: {}",
                          divisors_text(experts, experts), tp));
  }
  if (width > gpus_per_node && is_fixed(ep) && ep > 1) {
    out.warning(
        "EP_CROSSES_NODE", kKey,
        fmt::format("TP*EP={} > {}: expert all-to-all leaves the node", width, gpus_per_node),
        fmt::format("EP ≤ {} stays inside; group-limited routing (n_group) bounds the traffic",
                    std::max<int64_t>(1, gpus_per_node / or_one(tp))));
  }
}

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t d = 1; d * d <= n; ++d) {
    if (n % d != 0) continue;
    out.push_back(d);
    if (d * d != n) out.push_back(n / d);
  }
  return out;
}

// The layout for `gpus` nearest to the wanted one (fewest doublings away) that the model divides
// by; "" when there is none.
std::string nearest_layout(const JobSpec& job, int64_t gpus, int64_t gpus_per_node) {
  const ModelSpec& m = job.model;
  const ParallelSpec& want = job.parallel;
  if (gpus % or_one(want.context_parallel_size) != 0) return "";
  const int64_t world = gpus / or_one(want.context_parallel_size);
  const auto steps = [](int64_t a, int64_t b) {
    return std::abs(std::log2(static_cast<double>(a) / static_cast<double>(or_one(b))));
  };
  double best = std::numeric_limits<double>::infinity();
  std::string text;
  for (const int64_t tp : divisors(world)) {
    if (tp > gpus_per_node || m.num_heads % tp != 0 || m.vocab_size % tp != 0) continue;
    for (const int64_t pp : divisors(world / tp)) {
      if (pp > m.num_layers) continue;
      for (const int64_t ep : divisors(world / tp / pp)) {
        const int64_t width = want.expert_tensor_parallel_size == 1 ? ep * tp : ep;
        if (m.moe.num_experts > 0 && m.moe.num_experts % width != 0) continue;
        const double distance =
            steps(tp, want.tensor_parallel_size) + steps(pp, want.pipeline_parallel_size) +
            steps(ep, want.expert_parallel_size) + (m.num_layers % pp != 0 ? 0.5 : 0);
        if (distance >= best) continue;
        best = distance;
        text = fmt::format("TP={} PP={} EP={} DP={}", tp, pp, ep, world / tp / pp / ep);
      }
    }
  }
  return text;
}

void check_product(const JobSpec& job, const ValidateOptions& o, Findings& out) {
  if (o.gpus <= 0) return;
  const ParallelSpec& p = job.parallel;
  const int64_t tp = p.tensor_parallel_size, pp = p.pipeline_parallel_size,
                ep = p.expert_parallel_size, dp = p.data_parallel_size;
  const int64_t product =
      or_one(tp) * or_one(p.context_parallel_size) * or_one(pp) * or_one(ep) * or_one(dp);
  const bool free = !is_fixed(tp) || !is_fixed(p.context_parallel_size) || !is_fixed(pp) ||
                    !is_fixed(ep) || !is_fixed(dp);
  if (free ? o.gpus % product == 0 : product == o.gpus) return;
  const std::string cp_name = p.context_parallel_size > 1 ? "*CP" : "";
  const std::string cp =
      p.context_parallel_size > 1 ? fmt::format("*{}", p.context_parallel_size) : "";
  std::string message;
  if (free) {
    message = fmt::format(
        "TP*PP*EP*DP leaves a fraction: the fixed sizes (TP={} PP={} EP={} DP={}) multiply to {}, "
        "which does not divide {} GPUs",
        tp, pp, ep, dp, product, o.gpus);
  } else {
    message = fmt::format("TP{}*PP*EP*DP = {}{}*{}*{}*{} = {} != {} GPUs", cp_name, tp, cp, pp, ep,
                          dp, product, o.gpus);
  }
  const std::string near = nearest_layout(job, o.gpus, o.gpus_per_node);
  out.error("LAYOUT_PRODUCT_MISMATCH", "parallel.data_parallel_size", std::move(message),
            near.empty() ? fmt::format("use {} GPUs", product)
                         : fmt::format("{} uses {} GPUs; the sizes as given take {}", near, o.gpus,
                                       product));
}

// A job on CPUs has as many ranks as its sizes make; ranks_per_node only counts where one is free.
void check_ranks_per_node(const JobSpec& job, const ValidateOptions& o, Findings& out) {
  constexpr const char* kKey = "cluster.ranks_per_node";
  const ParallelSpec& p = job.parallel;
  const bool given = o.origins != nullptr && o.origins->wished(kKey);
  const bool all_fixed = is_fixed(p.tensor_parallel_size) && is_fixed(p.pipeline_parallel_size) &&
                         is_fixed(p.context_parallel_size) && is_fixed(p.expert_parallel_size) &&
                         is_fixed(p.data_parallel_size);
  if (!given || !all_fixed || job.cluster.devices != "cpu") return;
  const int64_t ranks = p.tensor_parallel_size * p.context_parallel_size *
                        p.pipeline_parallel_size * p.expert_parallel_size * p.data_parallel_size;
  const int64_t places = job.cluster.ranks_per_node * job.cluster.nodes;
  if (ranks == places) return;
  out.warning("RANKS_PER_NODE_IGNORED", kKey,
              fmt::format("ranks_per_node={} on nodes={} makes {} places, but the sizes fix {} "
                          "rank{}, and those are what runs",
                          job.cluster.ranks_per_node, job.cluster.nodes, places, ranks,
                          ranks == 1 ? "" : "s"),
              "leave ranks_per_node out, or data_parallel_size: -1 to fill the places");
}

// Ranks that see different data, EP·DP, as far as it is fixed; 0 where the sizes leave a fraction
// of the GPUs (LAYOUT_PRODUCT_MISMATCH).
int64_t data_width(const ParallelSpec& p, int64_t gpus) {
  const int64_t fixed_part = or_one(p.expert_parallel_size) * or_one(p.data_parallel_size);
  if (is_fixed(p.expert_parallel_size) && is_fixed(p.data_parallel_size)) return fixed_part;
  if (gpus <= 0 || !is_fixed(p.tensor_parallel_size) || !is_fixed(p.pipeline_parallel_size) ||
      !is_fixed(p.context_parallel_size))
    return fixed_part;
  const int64_t others =
      p.tensor_parallel_size * p.pipeline_parallel_size * p.context_parallel_size;
  return gpus % (others * fixed_part) == 0 ? gpus / others : 0;
}

void check_batch(const JobSpec& job, const ValidateOptions& o, Findings& out) {
  const TrainingSpec& t = job.training;
  const int64_t width = data_width(job.parallel, o.gpus), step = or_one(t.micro_batch_size) * width;
  if (t.global_batch_size < 1 || step < 1) return;
  if (t.global_batch_size % step != 0) {
    out.error(
        "GBS_NOT_DIVISIBLE", "training.global_batch_size",
        fmt::format("global_batch_size={} sequences is not a multiple of micro_batch_size*EP*DP={}",
                    t.global_batch_size, step),
        fmt::format("the nearest is {} ({} tokens)", nearest_multiple(t.global_batch_size, step),
                    nearest_multiple(t.global_batch_size, step) * t.seq_length));
  }
  const int64_t micro_batches = t.global_batch_size / step,
                pp = job.parallel.pipeline_parallel_size;
  if (is_fixed(pp) && pp > 1 && micro_batches < pp) {
    out.warning("PIPELINE_UNDERFILLED", "training.global_batch_size",
                fmt::format("{} microbatches < PP={}: stages stand idle", micro_batches, pp),
                fmt::format("global_batch_size ≥ {} fills it", pp * step));
  }
  if (is_fixed(pp) && pp > 1 && job.parallel.pipeline_schedule == "interleaved" &&
      micro_batches % pp != 0) {
    out.error("INTERLEAVED_MICRO_BATCHES", "training.global_batch_size",
              fmt::format("{} micro-batches a step aren't a multiple of PP={}, which interleaved "
                          "stages need",
                          micro_batches, pp),
              fmt::format("global_batch_size: {}, or pipeline_schedule: 1f1b",
                          nearest_multiple(t.global_batch_size, pp * step)));
  }
}

void check_kernels(const JobSpec& job, const ValidateOptions& o, Findings& out) {
  const MlaSpec& mla = job.model.mla;
  const MoeSpec& moe = job.model.moe;
  const bool fp8 = job.training.dtype == "fp8";
  const bool fp8_sent = moe.use_deep_ep && moe.deep_ep_fp8;
  // Where nobody chose a type (a config.json) FP8 is still open, so its alignment is worth knowing.
  const bool open = o.origins != nullptr && o.origins->count("training.dtype") == 0;
  if ((fp8 || fp8_sent || open) && moe.num_experts > 0 && moe.expert_intermediate_size % 128 != 0) {
    out.warning(
        "FP8_BLOCK_ALIGN", "model.moe.expert_intermediate_size",
        fmt::format("expert_intermediate_size={} is not a multiple of 128; FP8 1x128/128x128 "
                    "blocks pad to {}",
                    moe.expert_intermediate_size, (moe.expert_intermediate_size + 127) / 128 * 128),
        fp8 || fp8_sent ? "use a multiple of 128, or dtype bf16" : "only matters with dtype fp8");
  }
  if (mla.use_fp8_kv) {
    out.warning("FP8_KV_IGNORED_IN_TRAINING", "model.mla.use_fp8_kv",
                "use_fp8_kv=true: training keeps no KV cache", "leave it out; it is for serving");
  }
  if (o.gpu_name.empty()) return;
  const int sm = gpu_sm_version(o.gpu_name);
  if (sm == 0) {
    out.error("GPU_UNKNOWN", "", fmt::format("the GPU '{}' is not known", o.gpu_name),
              known_gpus_hint(o.gpu_name));
    return;
  }
  if ((fp8 || fp8_sent) && sm < 89) {
    out.error("FP8_UNSUPPORTED_GPU", fp8 ? "training.dtype" : "model.moe.deep_ep_fp8",
              fmt::format("FP8 requires sm_89+; {} is sm_{}", o.gpu_name, sm), "dtype: bf16");
  }
  if ((mla.use_flash_mla || moe.use_deep_ep) && sm < 90) {
    out.error("KERNEL_REQUIRES_SM90",
              mla.use_flash_mla ? "model.mla.use_flash_mla" : "model.moe.use_deep_ep",
              fmt::format("FlashMLA/DeepEP need sm_90+; {} is sm_{}", o.gpu_name, sm),
              "leave use_flash_mla and use_deep_ep out");
  }
}

}  // namespace

void check_layout(const JobSpec& job, const ValidateOptions& options, Findings& out) {
  check_sizes(job, out);
  check_tensor_parallel(job, options.gpus_per_node, out);
  check_pipeline_parallel(job, out);
  check_pipeline_layers(job, out);
  check_expert_parallel(job, options.gpus_per_node, out);
  check_product(job, options, out);
  check_ranks_per_node(job, options, out);
  check_batch(job, options, out);
  check_kernels(job, options, out);
}

int64_t resolved_data_parallel_size(const ParallelSpec& p, int64_t gpus) {
  if (is_fixed(p.data_parallel_size)) return p.data_parallel_size;
  const int64_t others = or_one(p.tensor_parallel_size) * or_one(p.context_parallel_size) *
                         or_one(p.pipeline_parallel_size) * or_one(p.expert_parallel_size);
  return gpus % others == 0 ? gpus / others : 0;
}

}  // namespace dsv3::spec
