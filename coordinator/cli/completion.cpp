// dsv3ctl completion and the hidden __complete: what the shells ask while a person types.
//
// Law: candidates come from the verbs' own table, the presets, the field table and the live jobs; a
// failure completes nothing and is silent.
#include <fmt/format.h>

#include <memory>

#include "configs/spec/field_table.h"
#include "configs/spec/presets.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

constexpr const char* kBash = R"sh(_dsv3ctl() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(dsv3ctl __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _dsv3ctl dsv3ctl
)sh";
constexpr const char* kZsh = R"sh(#compdef dsv3ctl
_dsv3ctl() {
  local -a candidates
  candidates=("${(@f)$(dsv3ctl __complete -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)}")
  compadd -a candidates
  _files
}
compdef _dsv3ctl dsv3ctl
)sh";
constexpr const char* kFish = R"sh(function __dsv3ctl_complete
  set -l words (commandline -opc)
  dsv3ctl __complete -- $words[2..-1] 2>/dev/null
end
complete -c dsv3ctl -a '(__dsv3ctl_complete)'
)sh";

void add_values(const Globals& globals, Completes completes, std::vector<std::string>* out) {
  if (completes == Completes::kConfig) {
    if (auto presets = spec::list_presets(); presets.ok()) {
      for (const spec::Preset& preset : *presets) out->push_back(preset.name);
    }
  }
  if (completes == Completes::kKey) {
    for (const spec::Section& section : spec::section_table()) out->emplace_back(section.path);
    for (const spec::Field& field : spec::field_table()) out->emplace_back(field.key);
  }
  if (completes == Completes::kJob || completes == Completes::kEndedJob) {
    auto client = transport::Client::connect(globals.state_dir);
    wire::Envelope request, envelope;
    request.mutable_status();
    if (client.ok() && ask(*client, request, &envelope, 1000).ok()) {
      for (const wire::JobStatus& job : envelope.status_reply().jobs()) {
        const bool ended = job.state() == wire::FAILED || job.state() == wire::CANCELLED;
        if (ended || completes == Completes::kJob) out->push_back(job.id());
      }
    }
  }
}

std::vector<std::string> candidates(const Globals& globals, const std::vector<std::string>& words) {
  std::vector<std::string> out;
  const std::vector<Verb> verbs = all_verbs();
  if (words.empty()) {
    for (const Verb& verb : verbs) {
      if (!verb.group.empty()) out.push_back(verb.name);
    }
    return out;
  }
  for (const Verb& verb : verbs) {
    if (verb.name != words[0]) continue;
    for (const Option& option : verb.options) {
      const bool positional = option.name[0] != '-';
      if (!positional) out.push_back(option.name.substr(option.name.rfind(',') + 1));
      if (!positional && words.back() != out.back()) continue;
      out.insert(out.end(), option.choices.begin(), option.choices.end());
      add_values(globals, option.completes, &out);
    }
    out.insert(out.end(), {"--json", "--state-dir", "--help"});
  }
  return out;
}

}  // namespace

Verb make_completion() {
  auto shell = std::make_shared<std::string>();
  Verb verb;
  verb.name = "completion";
  verb.group = "Help";
  verb.summary = "Completion for bash, zsh or fish";
  verb.help =
      "Examples:\n"
      "  source <(dsv3ctl completion bash)\n"
      "  dsv3ctl completion fish > ~/.config/fish/completions/dsv3ctl.fish";
  verb.options = {{"SHELL",
                   shell.get(),
                   "bash, zsh or fish",
                   true,
                   Completes::kNothing,
                   {"bash", "zsh", "fish"}}};
  verb.run = [shell](const Globals&) {
    print(*shell == "bash" ? kBash : *shell == "zsh" ? kZsh : kFish);
    return 0;
  };
  return verb;
}

Verb make_complete() {
  auto words = std::make_shared<std::vector<std::string>>();
  Verb verb;
  verb.name = "__complete";
  verb.summary = "Candidates for the next word";
  verb.pass_through = true;
  verb.words = words.get();
  verb.run = [words](const Globals& globals) {
    std::vector<std::string> typed = *words;
    if (!typed.empty() && typed.front() == "--") typed.erase(typed.begin());
    for (const std::string& candidate : candidates(globals, typed)) print(candidate + "\n");
    return 0;
  };
  return verb;
}

}  // namespace dsv3::cli
