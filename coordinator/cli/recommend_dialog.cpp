// See recommend_dialog.h.
#include "coordinator/cli/recommend_dialog.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/text.h"
#include "coordinator/cli/amounts.h"
#include "coordinator/cli/config_options.h"

namespace dsv3::cli {
namespace {

// Takes the answer, or says why not.
using Take = std::function<Status(const std::string& answer)>;

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// One question, until its answer is taken; false at the end of input.
bool ask_until(const AskLine& ask, const Tell& tell, const std::string& question,
               const std::string& by_default, const Take& take) {
  while (true) {
    const auto line = ask(question + (by_default.empty() ? ": " : " [" + by_default + "]: "));
    if (!line) return false;
    const std::string given = trimmed(*line);
    const Status status = take(given.empty() ? by_default : given);
    if (status.ok()) return true;
    tell(status.to_string());
  }
}

Result<double> number_in(const Range& range, const std::string& what, const std::string& text) {
  const auto number = parse_amount(what, text.empty() ? "0" : text);
  if (number.ok() && *number >= range.min && *number <= range.max) return *number;
  return Status(Code::kInvalid, fmt::format("'{}' is not a number from {:.15g} to {:.15g}", text,
                                            range.min, range.max));
}

Status take_gpus(const std::string& text, int64_t* gpus) {
  if (text == "0") {
    *gpus = 0;
    return {};
  }
  DSV3_ASSIGN_OR_RETURN(const double number, number_in(kGpus, "GPUs", text));
  if (number != static_cast<double>(static_cast<int64_t>(number)))
    return Status(Code::kInvalid, fmt::format("'{}' is not a whole number", text));
  *gpus = static_cast<int64_t>(number);
  return {};
}

Status take_use_case(const std::string& text, plan::Wishes* wishes) {
  const auto& known = plan::use_cases();
  if (!text.empty() && std::find(known.begin(), known.end(), text) == known.end()) {
    const std::vector<std::string_view> names(known.begin(), known.end());
    const std::string near = did_you_mean(text, names);
    return Status(Code::kInvalid,
                  fmt::format("'{}' is not one of {}", text, fmt::join(known, ", ")),
                  near.empty() ? "" : "did you mean '" + near + "'?");
  }
  wishes->use_case = text;
  return {};
}

bool ask_for_card(const AskLine& ask, const Tell& tell, const plan::Hardware& at_hand,
                  plan::Hardware* hardware) {
  const bool named = ask_until(
      ask, tell, "Which GPU (h100, a100-80, ...; - for another)",
      at_hand.gpu_name.empty() ? "h100" : at_hand.gpu_name, [&](const std::string& text) -> Status {
        if (text == "-") return {};
        auto name = known_gpu({text});
        if (name.ok()) hardware->gpu_name = std::move(name).value();
        if (name.ok()) return {};
        const std::string& hint = name.status().hint();
        return Status(Code::kInvalid, fmt::format("the GPU '{}' is not known", text),
                      hint + (hint.empty() ? "" : "; ") + "type - for a card by its memory");
      });
  if (!named) return false;
  const bool same = hardware->gpu_name == at_hand.gpu_name && at_hand.gpu_memory_gb > 0;
  const double known = same ? at_hand.gpu_memory_gb : label_gb_of(hardware->gpu_name);
  if (known > 0) {
    hardware->gpu_memory_gb = known;
    return true;
  }
  return ask_until(ask, tell, "Memory of one GPU in GB, as on its label", "80",
                   [&](const std::string& text) -> Status {
                     DSV3_ASSIGN_OR_RETURN(hardware->gpu_memory_gb,
                                           number_in(kGpuMemoryGb, "memory", text));
                     return {};
                   });
}

}  // namespace

Status parse_budget(std::string_view option, const std::string& text, plan::Wishes* wishes) {
  const auto& known = plan::budgets();
  if (std::find(known.begin(), known.end(), text) != known.end()) {
    wishes->budget = text;
    return {};
  }
  const auto usd = parse_amount(option, text.starts_with("$") ? text.substr(1) : text);
  if (usd.ok()) {
    wishes->budget_usd = *usd;
    return {};
  }
  const std::vector<std::string_view> names(known.begin(), known.end());
  const std::string near = did_you_mean(text, names);
  return Status(
      Code::kInvalid,
      fmt::format("{} takes {} or dollars (20K), not '{}'", option, fmt::join(known, ", "), text),
      near.empty() ? "" : "did you mean '" + near + "'?");
}

std::optional<DialogAnswers> ask_for_hardware(const AskLine& ask, const Tell& tell,
                                              const plan::Hardware& at_hand) {
  DialogAnswers answers;
  answers.hardware.gpus_per_node = at_hand.gpus > 0 ? at_hand.gpus_per_node : 8;
  const bool counted =
      ask_until(ask, tell, "How many GPUs (0: the CPUs here)", std::to_string(at_hand.gpus),
                [&](const std::string& text) { return take_gpus(text, &answers.hardware.gpus); });
  if (!counted) return std::nullopt;
  if (answers.hardware.gpus == 0) return answers;
  if (!ask_for_card(ask, tell, at_hand, &answers.hardware)) return std::nullopt;
  plan::Wishes* wishes = &answers.wishes;
  const bool rest =
      ask_until(ask, tell,
                fmt::format("What for: {}\n(empty: the largest that fits)",
                            fmt::join(plan::use_cases(), ", ")),
                "", [&](const std::string& text) { return take_use_case(text, wishes); }) &&
      ask_until(
          ask, tell,
          fmt::format("Budget ({}, or dollars; empty: any)", fmt::join(plan::budgets(), ", ")), "",
          [&](const std::string& text) {
            return text.empty() ? Status() : parse_budget("the budget", text, wishes);
          }) &&
      ask_until(ask, tell, "Tokens to train on (300B; empty: as the preset has it)", "",
                [&](const std::string& text) -> Status {
                  if (text.empty()) return {};
                  DSV3_ASSIGN_OR_RETURN(wishes->tokens, parse_tokens("tokens", text));
                  return {};
                });
  if (!rest) return std::nullopt;
  return answers;
}

}  // namespace dsv3::cli
