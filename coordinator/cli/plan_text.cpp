// A plan for people: layout, why, memory and time by term, speed and cost, runners-up; see
// plan_views.h.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cluster/plan/time_model.h"
#include "configs/spec/counts.h"
#include "configs/spec/presets.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/plan_views.h"

namespace dsv3::cli {
namespace {

constexpr int kColumn = 13;
constexpr size_t kRunnersUp = 5;

std::string memory_text(const plan::Plan& plan) {
  const std::string peak = human_bytes(plan.predicted.peak_memory_bytes);
  if (plan.memory_bytes == 0) return peak + " on one GPU, and there is none";
  const std::string there = human_bytes(plan.memory_bytes);
  if (plan.ranks_per_device > 1)
    return fmt::format("{} on rank {}, {} ranks share {}", peak, plan.worst_rank,
                       plan.ranks_per_device, there);
  return fmt::format("{} of {} on rank {}", peak, there, plan.worst_rank);
}

// "12,345 tokens/s (1,543 a GPU), MFU 41.2 % of the bf16 peak, attention counted causally".
std::string speed_text(const plan::Plan& plan, const PlanNotes& notes) {
  const plan::Predicted& p = plan.predicted;
  std::string text;
  if (p.tokens_per_s) text = with_commas(static_cast<int64_t>(*p.tokens_per_s)) + " tokens/s";
  if (p.tokens_per_s_per_gpu && plan.gpus > 1)
    text += fmt::format(" ({} a GPU)", with_commas(static_cast<int64_t>(*p.tokens_per_s_per_gpu)));
  if (p.mfu)
    text += fmt::format("{}MFU {:.1f} % of the {}peak, attention counted causally",
                        text.empty() ? "" : ", ", 100 * *p.mfu,
                        notes.peak.empty() ? "" : notes.peak + " ");
  return text;
}

// "14.8T", "41.9B".
std::string tokens_text(int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  return n < 1e12 ? human_count(tokens) : fmt::format("{:.4g}T", n / 1e12);
}

// "for 14.8T tokens", "for 2.10B tokens, the job's own 500 steps".
std::string budget_text(const PlanNotes& notes) {
  std::string text = fmt::format("for {} tokens", tokens_text(notes.tokens));
  if (notes.steps == 0) return text;
  text += fmt::format(", the job's own {} steps", with_commas(notes.steps));
  // Ten times the rule of thumb: a preset's steps, hardly somebody's plan.
  if (notes.per_active > 10 * spec::kTokensPerActive)
    text += fmt::format(" ({:.0f} for each active parameter: give --tokens for another budget)",
                        notes.per_active);
  return text;
}

// "52.1 days, 2,560,000 GPU hours, $5,120,000, for 14.8T tokens".
std::string whole_run_text(const plan::Plan& plan, const PlanNotes& notes) {
  const plan::Predicted& p = plan.predicted;
  if (!p.days) return {};
  constexpr double kSecondsPerDay = 86'400;
  std::string text =
      *p.days < 2 ? human_duration(*p.days * kSecondsPerDay) : fmt::format("{:.1f} days", *p.days);
  if (plan.gpus > 0) {
    const double hours = *p.days * 24 * static_cast<double>(plan.gpus);
    text += hours < 100 ? fmt::format(", {:.1f} GPU hours", hours)
                        : fmt::format(", {} GPU hours", with_commas(static_cast<int64_t>(hours)));
  }
  if (p.cost_usd)
    text += *p.cost_usd < 100
                ? fmt::format(", ${:.2f}", *p.cost_usd)
                : fmt::format(", ${}", with_commas(static_cast<int64_t>(*p.cost_usd)));
  if (notes.tokens > 0) text += ", " + budget_text(notes);
  return text;
}

std::string step_seconds_text(double seconds) {
  return seconds < 1 ? fmt::format("{:.1f} ms", 1000 * seconds) : fmt::format("{:.2f} s", seconds);
}

std::string runners_up(const plan::Plan& plan, size_t most) {
  std::string out;
  const size_t shown = std::min(most, plan.rejected.size());
  for (size_t i = 0; i < shown; ++i) {
    const plan::Rejected& other = plan.rejected[i];
    out += plan_line(i == 0 ? "others" : "", plan::to_string(other.layout) + ": " + other.reason);
  }
  if (plan.rejected.size() > shown)
    out += plan_line("", fmt::format("and {} more: --explain", plan.rejected.size() - shown));
  return out;
}

// The largest preset with fewer parameters than the job that fits the GPUs; "" when none does.
std::string smaller_preset(const PlanQuestion& question) {
  const auto presets = spec::list_presets();  // smallest first
  if (!presets.ok()) return {};
  const int64_t params = spec::count_params(question.job.model).total;
  for (auto preset = presets->rbegin(); preset != presets->rend(); ++preset) {
    if (spec::count_params(preset->job.model).total >= params) continue;
    const plan::Plan tried = plan::plan(preset->job, question.cluster);
    if (tried.feasible && tried.device == plan::DeviceKind::kCuda) return preset->name;
  }
  return {};
}

}  // namespace

std::string timed_as_text(const plan::TimedBy& by) {
  return by.assumed ? fmt::format("{}, assumed from the memory: --gpu names another", by.name)
                    : fmt::format("{} ({})", by.name, by.source);
}

PlanNotes notes_of(const PlanQuestion& question, const plan::Plan& plan) {
  constexpr double kMost = 9e18;  // a configuration may ask for more tokens than int64 holds
  PlanNotes notes;
  const spec::TrainingSpec& training = question.job.training;
  notes.peak = training.dtype == "fp32" ? "fp32" : "bf16";  // as others tell it for fp8, too
  if (plan.predicted.days) {
    notes.tokens = question.options.tokens;
    if (notes.tokens == 0) {
      notes.steps = training.max_steps;
      notes.tokens = static_cast<int64_t>(
          std::min(kMost, static_cast<double>(training.max_steps) *
                              static_cast<double>(plan::sequences_per_step(plan.layout)) *
                              static_cast<double>(training.seq_length)));
    }
    const int64_t active = spec::count_params(question.job.model).active;
    notes.per_active = static_cast<double>(notes.tokens) / static_cast<double>(active);
  }
  if (!plan.feasible && plan.device == plan::DeviceKind::kCuda)
    notes.smaller = smaller_preset(question);
  return notes;
}

nlohmann::ordered_json noted_json(const plan::Plan& plan, const PlanNotes& notes) {
  using Json = nlohmann::ordered_json;
  Json json = Json::parse(plan::plan_json(plan));
  json["smaller"] = notes.smaller.empty() ? Json(nullptr) : Json(notes.smaller);
  json["tokens"] = notes.tokens > 0 ? Json(notes.tokens) : Json(nullptr);
  return json;
}

std::string plan_line(std::string_view name, const std::string& text) {
  return fmt::format("{:<{}}{}\n", name, kColumn, wrap(text, kColumn, help_columns() - kColumn));
}

std::string plan_text(const plan::Plan& plan, bool all, const PlanNotes& notes) {
  std::string out = plan_line("layout", plan::to_string(plan.layout));
  if (!plan.why.empty()) out += plan_line("why", plan.why);
  out += plan_line("fits", plan.feasible ? "yes" : "no: " + plan.reason);
  if (const std::string holder = plan::would_hold(plan); !holder.empty())
    out += plan_line("would need", holder);
  if (!notes.smaller.empty()) out += plan_line("smaller", notes.smaller + " fits here");
  out += plan_line("runs today", plan.runnable ? "yes" : "no");
  for (const std::string& reason : plan.not_runnable) out += plan_line("", "- " + reason);
  if (!plan.ledger.empty()) out += plan_line("memory", memory_text(plan));
  for (const plan::LedgerLine& entry : plan.ledger) {
    if (entry.bytes > 0)
      out += fmt::format("  {:<34}{:>12}\n", entry.name, human_bytes(entry.bytes));
  }
  if (plan.predicted.step_s) {
    out += plan_line("step", step_seconds_text(*plan.predicted.step_s));
    for (const plan::TimeLine& entry : plan.time)
      out += fmt::format("  {:<34}{:>12}{:>7.1f} %\n", entry.name, step_seconds_text(entry.seconds),
                         100 * entry.seconds / std::max(*plan.predicted.step_s, 1e-12));
  }
  if (const std::string text = speed_text(plan, notes); !text.empty())
    out += plan_line("speed", text);
  if (const std::string text = whole_run_text(plan, notes); !text.empty())
    out += plan_line("whole run", text);
  if (plan.timed_by) out += plan_line("timed as", timed_as_text(*plan.timed_by));
  return out + runners_up(plan, all ? plan.rejected.size() : kRunnersUp);
}

plan::MemoryModel memory_model_of(const PlanQuestion& question, plan::DeviceKind device,
                                  int64_t ranks_per_device) {
  const int64_t per_node =
      plan::ranks_of_node(question.job, question.cluster, device, ranks_per_device);
  return plan::MemoryModel(question.job, device, per_node,
                           plan::cpu_facts(question.cluster, ranks_per_device));
}

}  // namespace dsv3::cli
