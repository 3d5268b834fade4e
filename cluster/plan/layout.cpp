// The constraints on a layout, one sentence each; see layout.h.
#include "cluster/plan/layout.h"

#include <fmt/format.h>

#include <algorithm>

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
  return text;
}

int recompute_level(const std::string& recompute) {
  return recompute == "full" ? 2 : recompute == "selective" ? 1 : 0;
}

namespace {

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

std::string check_schedule(const spec::ModelSpec& model, const Layout& layout) {
  const bool interleaved = layout.schedule == "interleaved";
  if (layout.pp == 1 || !interleaved) {
    return layout.virtual_stages == 1
               ? ""
               : fmt::format("{} virtual stages need pipeline_schedule interleaved and PP > 1",
                             layout.virtual_stages);
  }
  const int64_t chunks = layout.pp * layout.virtual_stages;
  if (layout.virtual_stages < 2 || model.num_layers % chunks != 0) {
    return fmt::format(
        "num_layers {} can't be interleaved over PP {}: it must be divisible by "
        "PP·VPP with VPP of at least 2 (VPP {} is not)",
        model.num_layers, layout.pp, layout.virtual_stages);
  }
  if (layout.grad_accumulation % layout.pp != 0) {
    return fmt::format("interleaved stages need micro-batches as multiples of PP {}, there are {}",
                       layout.pp, layout.grad_accumulation);
  }
  return "";
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
  const int64_t seq_length = job.training.seq_length;
  if (seq_length % (layout.cp == 1 ? 1 : 2 * layout.cp) != 0) {
    return fmt::format("seq_length {} is not divisible by 2·CP {}", seq_length, 2 * layout.cp);
  }
  if (seq_length / layout.cp % layout.tp != 0) {
    return fmt::format("seq_length/CP {} is not divisible by TP {} (sequence parallelism)",
                       seq_length / layout.cp, layout.tp);
  }
  const int64_t batch = job.training.global_batch_size;
  const int64_t share = layout.micro_batch * layout.dense_dp();
  if (batch > 0 && batch % share != 0) {
    return fmt::format("global_batch_size {} is not divisible by micro_batch_size·EP·DP {}", batch,
                       share);
  }
  return check_schedule(job.model, layout);
}

}  // namespace dsv3::plan
