// See step_line.h.
#include "worker/rank/step_line.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace dsv3::rank {
namespace {

// "bf16 (why)" → "bf16".
std::string first_word(const std::string& text) {
  return text.substr(0, text.find(' '));
}

}  // namespace

std::string StepLines::start(const train::TrainStart& start) {
  start_ = start;
  std::string text = fmt::format("training {} parameters on {} in {}\nsteps {} to {}",
                                 human_count(start.params_total), start.device, start.compute_dtype,
                                 start.first_step + 1, start.max_steps);
  if (start.flops_per_token > 0) {
    text += fmt::format("; {:.4g} GFLOP a token (forward and backward, causal attention half)",
                        start.flops_per_token / 1e9);
  }
  if (start.peak_flops_per_s > 0) {
    text += fmt::format("\nmfu is of {:.4g} GFLOP/s, a measured 1024x1024x1024 {} GEMM",
                        start.peak_flops_per_s / 1e9, first_word(start.compute_dtype));
  }
  if (start.unigram_entropy > 0) {
    text += fmt::format("\nunigram entropy of the text {:.4f} nats a token", start.unigram_entropy);
  }
  return text;
}

std::string StepLines::step(const train::StepReport& report) {
  pace_s_ = pace_s_ == 0 ? report.step_s : 0.9 * pace_s_ + 0.1 * report.step_s;
  std::string line =
      fmt::format("step {}/{} loss {:.4f}", report.step, start_.max_steps, report.loss);
  if (report.mtp_loss != 0) line += fmt::format(" mtp {:.4f}", report.mtp_loss);
  line += fmt::format(" aux {:.4f}", report.aux_loss);
  if (report.z_loss != 0) line += fmt::format(" z {:.4f}", report.z_loss);
  if (report.dropped > 0) line += fmt::format(" dropped {}", with_commas(report.dropped));
  line += fmt::format(" gnorm {:.2f} lr {:.1e} {} tok/s", report.grad_norm, report.lr,
                      with_commas(static_cast<int64_t>(report.tokens_per_s)));
  if (report.mfu > 0) {
    line += fmt::format(" mfu {:.1f}% (of measured {} GEMM peak, causal)", 100 * report.mfu,
                        first_word(start_.compute_dtype));
  }
  line += fmt::format(" mem {}", human_bytes(report.memory_bytes));
  if (report.exposed_comm_s > 0) line += fmt::format(" comm {:.1f}ms", 1e3 * report.exposed_comm_s);
  const int64_t left = start_.max_steps - report.step;
  if (left > 0) line += fmt::format(" eta {}", human_duration(static_cast<double>(left) * pace_s_));
  return line;
}

std::string StepLines::validation(const train::ValidationReport& report) const {
  std::string line = fmt::format("validation at step {} loss {:.4f} over {} tokens", report.step,
                                 report.loss, with_commas(report.tokens));
  if (start_.unigram_entropy > 0) {
    line += fmt::format(" (unigram entropy {:.4f})", start_.unigram_entropy);
  }
  return line;
}

std::string StepLines::checkpoint(const train::CheckpointReport& report) {
  return fmt::format("checkpoint at step {} in {} ({}, {})", report.step, report.path,
                     human_bytes(report.bytes), human_duration(report.seconds));
}

std::string metrics_line(int64_t attempt, const train::StepReport& report) {
  const nlohmann::ordered_json line{{"attempt", attempt},
                                    {"step", report.step},
                                    {"loss", report.loss},
                                    {"lm_loss", report.lm_loss},
                                    {"mtp_loss", report.mtp_loss},
                                    {"aux_loss", report.aux_loss},
                                    {"z_loss", report.z_loss},
                                    {"grad_norm", report.grad_norm},
                                    {"lr", report.lr},
                                    {"tokens", report.tokens},
                                    {"tokens_per_s", report.tokens_per_s},
                                    {"mfu", report.mfu},
                                    {"step_s", report.step_s},
                                    {"memory_bytes", report.memory_bytes},
                                    {"dropped", report.dropped}};
  return line.dump();
}

}  // namespace dsv3::rank
