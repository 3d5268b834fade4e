// What `recommend` asks a person at a terminal: a few questions with defaults, each answer checked
// where it is given.
//
// Law: no terminal, stream or signal here; whoever calls brings a way to ask, so a test can.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "cluster/plan/recommend.h"

namespace dsv3::cli {

// The line that was typed after the prompt, without its line break; nullopt at the end of input.
using AskLine = std::function<std::optional<std::string>(const std::string& prompt)>;
// Tells what was wrong with an answer, one line.
using Tell = std::function<void(const std::string& line)>;

struct DialogAnswers {
  plan::Hardware hardware;  // gpus 0: the CPUs of the machines at hand
  plan::Wishes wishes;
};

// `at_hand` gives the defaults (gpus 0: there are none). An empty line takes the default; a wrong
// answer is asked for again. nullopt when the input ended before the last answer.
std::optional<DialogAnswers> ask_for_hardware(const AskLine& ask, const Tell& tell,
                                              const plan::Hardware& at_hand);

// "low" … "extreme" or dollars ("20K", "$5,000") into budget or budget_usd. kInvalid otherwise.
Status parse_budget(std::string_view option, const std::string& text, plan::Wishes* wishes);

}  // namespace dsv3::cli
