// The constraints on a layout, one sentence each; see layout.h.
#include "cluster/plan/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace dsv3::plan {

std::string to_string(const Layout& layout) {
  std::string text;
  const auto axis = [&text](const char* name, int64_t size) {
    if (size > 1) text += fmt::format("{}{} ", name, size);
  };
  axis("TP", layout.tp);
  axis("CP", layout.cp);
  axis("PP", layout.pp);
  axis("EP", layout.ep);
  axis("DP", layout.dp);
  axis("ETP", layout.etp);
  if (text.empty()) text = "one rank ";
  text += fmt::format("ZeRO-{} recompute {}", layout.zero_stage, layout.recompute);
  if (layout.pp > 1 && layout.schedule != "1f1b") text += " " + layout.schedule;
  if (layout.virtual_stages > 1) text += fmt::format(" VPP{}", layout.virtual_stages);
  if (layout.micro_batch > 1) text += fmt::format(" MBS{}", layout.micro_batch);
  if (layout.moments_dtype == "bf16") text += " moments bf16";
  if (layout.grads_dtype == "bf16") text += " gradients bf16";
  if (layout.offload_optimizer) text += " offload";
  if (!layout.pipeline_layers.empty())
    text += fmt::format(" stages {}", fmt::join(layout.pipeline_layers, "/"));
  return text;
}

int recompute_level(const std::string& recompute) {
  return recompute == "full" ? 2 : recompute == "selective" ? 1 : 0;
}

bool defers_weights(const Layout& layout) {
  return layout.pp > 1 && layout.schedule == "zero_bubble" && layout.recompute != "full";
}

namespace {

// What TP cuts by its width.
std::string check_widths(const spec::ModelSpec& model, int64_t tp) {
  const auto uneven = [tp](const char* what, int64_t width) {
    return width % tp == 0 ? "" : fmt::format("{} {} is not divisible by TP {}", what, width, tp);
  };
  const spec::MoeSpec& moe = model.moe;
  std::string fault;
  if (moe.num_experts == 0 || moe.first_k_dense > 0)
    fault = uneven("dense_intermediate_size", model.dense_intermediate_size);
  if (fault.empty() && moe.num_experts > 0)
    fault = uneven("width of the shared experts",
                   moe.num_shared_experts * moe.expert_intermediate_size);
  if (fault.empty() && model.mtp_layers > 0) fault = uneven("d_model", model.d_model);
  return fault;
}

std::string check_model_axes(const spec::ModelSpec& model, const Layout& layout) {
  if (model.num_heads % layout.tp != 0) {
    return fmt::format("num_heads {} is not divisible by TP {}", model.num_heads, layout.tp);
  }
  if (model.vocab_size % layout.tp != 0) {
    return fmt::format("vocab_size {} is not divisible by TP {}", model.vocab_size, layout.tp);
  }
  if (layout.pp > model.num_layers) {
    return fmt::format("PP {} is more than num_layers {}", layout.pp, model.num_layers);
  }
  if (std::string fault = check_widths(model, layout.tp); !fault.empty()) return fault;
  const int64_t experts = model.moe.num_experts;
  if (experts == 0) {
    return layout.ep > 1 ? fmt::format("EP {} needs experts, the model has none", layout.ep) : "";
  }
  if (experts % layout.ep != 0) {
    return fmt::format("num_experts {} is not divisible by EP {}", experts, layout.ep);
  }
  if (layout.etp == 1 && experts % (layout.ep * layout.tp) != 0) {
    return fmt::format("num_experts {} is not divisible by EP·TP {}", experts,
                       layout.ep * layout.tp);
  }
  if (layout.etp > 1 && model.moe.expert_intermediate_size % layout.etp != 0) {
    return fmt::format("expert_intermediate_size {} is not divisible by ETP {}",
                       model.moe.expert_intermediate_size, layout.etp);
  }
  return "";
}

// CP cuts a sequence into 2·CP equal parts, TP what CP leaves into TP runs.
std::string check_sequence(int64_t seq_length, const Layout& layout) {
  const int64_t parts = layout.cp == 1 ? 1 : 2 * layout.cp;
  const int64_t runs = layout.cp * layout.tp;
  if (seq_length % parts == 0 && seq_length % runs == 0) return "";
  const int64_t step = std::lcm(parts, runs);
  const int64_t below = seq_length / step * step;
  const std::string instead = below > 0 ? fmt::format("{} or {} would do", below, below + step)
                                        : fmt::format("{} would do", step);
  if (seq_length % parts != 0) {
    return fmt::format("seq_length {} is not divisible by 2·CP {}: {}", seq_length, parts, instead);
  }
  return fmt::format(
      "seq_length/CP {} is not divisible by TP {} (sequence parallelism): seq_length {}",
      seq_length / layout.cp, layout.tp, instead);
}

// "2, 4": the pipelines over which so many layers can be interleaved; "1" where there is none.
std::string interleavable(int64_t num_layers) {
  std::string sizes;
  for (int64_t pp = 2; 2 * pp <= num_layers; ++pp) {
    if (num_layers % pp == 0) sizes += fmt::format("{}{}", sizes.empty() ? "" : ", ", pp);
  }
  return sizes.empty() ? "1" : sizes;
}

std::string check_schedule(const spec::ModelSpec& model, const Layout& layout) {
  const bool interleaved = layout.schedule == "interleaved";
  if (layout.pp == 1 || !interleaved) {
    return layout.virtual_stages == 1
               ? ""
               : fmt::format("{} virtual stages need pipeline_schedule interleaved and PP > 1",
                             layout.virtual_stages);
  }
  const int64_t chunks = layout.pp * layout.virtual_stages;
  const bool split = model.num_layers % chunks == 0 || !layout.pipeline_layers.empty();
  if (layout.virtual_stages < 2 || !split) {
    return fmt::format(
        "num_layers {} can't be interleaved over PP {}: it must be divisible by PP·VPP with VPP of "
        "at least 2 (VPP {} is not); PP can be {}, or pipeline_schedule 1f1b",
        model.num_layers, layout.pp, layout.virtual_stages, interleavable(model.num_layers));
  }
  if (layout.grad_accumulation % layout.pp != 0) {
    return fmt::format("interleaved stages need micro-batches as multiples of PP {}, there are {}",
                       layout.pp, layout.grad_accumulation);
  }
  return "";
}

// The layers of each stage, where they are given.
std::string check_split(const spec::ModelSpec& model, const Layout& layout) {
  const std::vector<int64_t>& given = layout.pipeline_layers;
  if (given.empty()) return "";
  const auto stages = static_cast<int64_t>(given.size());
  if (stages != layout.pp * layout.virtual_stages) {
    return fmt::format("pipeline_layers has {} stages, PP·VPP is {}", stages,
                       layout.pp * layout.virtual_stages);
  }
  int64_t sum = 0;
  for (const int64_t layers : given) {
    if (layers < 1 || layers > model.num_layers)
      return fmt::format("pipeline_layers gives a stage {} of {} layers", layers, model.num_layers);
    sum += layers;
  }
  return sum == model.num_layers ? ""
                                 : fmt::format("pipeline_layers has {} layers, num_layers is {}",
                                               sum, model.num_layers);
}

}  // namespace

std::string check_layout(const spec::JobSpec& job, const Layout& layout, int64_t devices_per_node) {
  if (devices_per_node > 0 && layout.tp > devices_per_node) {
    return fmt::format("TP {} is more than the {} devices of a node", layout.tp, devices_per_node);
  }
  if (std::string fault = check_model_axes(job.model, layout); !fault.empty()) return fault;
  if (layout.etp != 1 && layout.etp != layout.tp) {
    return fmt::format("expert_tensor_parallel_size {} is neither 1 nor TP {}", layout.etp,
                       layout.tp);
  }
  if (std::string fault = check_sequence(job.training.seq_length, layout); !fault.empty())
    return fault;
  const int64_t batch = job.training.global_batch_size;
  const int64_t share = layout.micro_batch * layout.dense_dp();
  if (batch > 0 && batch % share != 0) {
    return fmt::format("global_batch_size {} is not divisible by micro_batch_size·EP·DP {}", batch,
                       share);
  }
  if (std::string fault = check_split(job.model, layout); !fault.empty()) return fault;
  return check_schedule(job.model, layout);
}

}  // namespace dsv3::plan
