// Where two runs differ; see run.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "configs/spec/model_tensors.h"
#include "tests/parity/run.h"

namespace dsv3::parity {
namespace {

constexpr double kLossTolerance = 1e-5;      // of the loss
constexpr double kGradientTolerance = 1e-4;  // of the tensor's largest value
constexpr double kModelTolerance = 1e-7;     // of the model's largest value

double largest(const std::vector<float>& values) {
  double most = 0;
  for (const float value : values) most = std::max<double>(most, std::abs(value));
  return most;
}

std::string step_difference(const StepNumbers& whole, const StepNumbers& ranks) {
  const struct {
    const char* name;
    double whole, ranks;
  } pairs[] = {{"loss", whole.loss, ranks.loss},
               {"lm loss", whole.lm_loss, ranks.lm_loss},
               {"mtp loss", whole.mtp_loss, ranks.mtp_loss},
               {"aux loss", whole.aux_loss, ranks.aux_loss},
               {"z loss", whole.z_loss, ranks.z_loss},
               {"gradient norm", whole.grad_norm, ranks.grad_norm}};
  std::string text;
  for (const auto& pair : pairs) {
    // Not "greater": not a number must fail too.
    if (std::abs(pair.ranks - pair.whole) <= kLossTolerance * std::abs(pair.whole)) continue;
    text += fmt::format("; {} {:.9g}, one process has {:.9g}", pair.name, pair.ranks, pair.whole);
  }
  return text;
}

std::string place_of(const spec::TensorInfo& tensor, size_t index) {
  if (tensor.shape.size() == 1) return fmt::format("{}[{}]", tensor.name, index);
  const auto cols = static_cast<size_t>(tensor.shape[1]);
  return fmt::format("{}[{}, {}]", tensor.name, index / cols, index % cols);
}

// The tensor that is farthest off, in its worst element, and the names of the others.
std::string gradient_difference(const std::vector<spec::TensorInfo>& tensors, const Outcome& whole,
                                const Outcome& ranks) {
  double model = 0;
  for (const auto& gradient : whole.gradients) model = std::max(model, largest(gradient));
  if (!(model > 0)) return "; the reference has no gradients";
  std::string worst, others;
  double most = 1;
  int count = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const std::vector<float>&a = whole.gradients[t], &b = ranks.gradients[t];
    const double allowed = kGradientTolerance * largest(a) + kModelTolerance * model;
    double off = 0;
    size_t at = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      double ratio = std::abs(static_cast<double>(b[i]) - a[i]) / allowed;
      if (std::isnan(ratio)) ratio = 1e30;
      if (ratio > off) off = ratio, at = i;
    }
    if (off <= 1) continue;
    ++count;
    if (count <= 8) others += " " + tensors[t].name;
    if (off <= most) continue;
    most = off;
    worst = fmt::format("gradient of {}: {:.6g}, one process has {:.6g} (largest {:.3g})",
                        place_of(tensors[t], at), b[at], a[at], largest(a));
  }
  return count == 0 ? "" : fmt::format("; {} ({} tensors are off:{})", worst, count, others);
}

}  // namespace

std::string difference(const Case& c, const Outcome& reference, const Outcome& run) {
  const std::string who = to_string(c) + ": ";
  if (!reference.fault.empty()) return who + "one process: " + reference.fault;
  if (!run.fault.empty()) return who + run.fault;
  if (run.steps.size() != reference.steps.size()) return who + "another number of steps";
  const spec::ModelSpec model = parity_job(c, "").model;
  // The first step's gradients say where it is, so they go first.
  std::string text = gradient_difference(spec::model_tensors(model), reference, run);
  for (size_t step = 0; step < run.steps.size(); ++step) {
    const std::string off = step_difference(reference.steps[step], run.steps[step]);
    if (!off.empty()) text += fmt::format("; step {}{}", step + 1, off.substr(1));
  }
  const auto experts = static_cast<size_t>(model.moe.num_experts);
  for (size_t i = 0; i < reference.counts.size(); ++i) {
    if (run.counts.size() == reference.counts.size() && run.counts[i] == reference.counts[i])
      continue;
    text +=
        fmt::format("; MoE layer {} gives expert {} {} tokens, one process {}", i / experts,
                    i % experts, i < run.counts.size() ? run.counts[i] : -1, reference.counts[i]);
    break;
  }
  return text.empty() ? "" : who + text.substr(2);
}

}  // namespace dsv3::parity
