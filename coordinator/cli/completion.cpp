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

// COMP_WORDBREAKS cuts words at '=' and ':'; the words before the cursor are put together again by
// the candidates' side, which only looks at whole option names.
constexpr const char* kBash = R"sh(_dsv3ctl() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _dsv3ctl dsv3ctl
)sh";
// Works both sourced and as the file _dsv3ctl of a folder in fpath.
constexpr const char* kZsh = R"sh(#compdef dsv3ctl
_dsv3ctl() {
  local -a candidates
  candidates=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)}")
  candidates=("${(@)candidates:#}")
  (( $#candidates )) && compadd -a candidates
  _files
}
if [ "$funcstack[1]" = _dsv3ctl ]; then
  _dsv3ctl "$@"
else
  compdef _dsv3ctl dsv3ctl
fi
)sh";
constexpr const char* kFish = R"sh(function __dsv3ctl_complete
  set -l words (commandline -opc)
  $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c dsv3ctl -a '(__dsv3ctl_complete)'
)sh";

void add_values(const Globals& globals, Completes completes, std::vector<std::string>* out) {
  if (completes == Completes::kConfig || completes == Completes::kJobOrConfig) {
    if (auto presets = spec::list_presets(); presets.ok()) {
      for (const spec::Preset& preset : *presets) out->push_back(preset.name);
    }
  }
  if (completes == Completes::kOverlay) {
    if (const auto overlays = spec::list_overlays(); overlays.ok())
      out->insert(out->end(), overlays->begin(), overlays->end());
  }
  if (completes == Completes::kKey) {
    for (const spec::Section& section : spec::section_table()) out->emplace_back(section.path);
    for (const spec::Field& field : spec::field_table()) out->emplace_back(field.key);
  }
  if (completes == Completes::kVerb) {
    out->emplace_back("config");
    for (const Verb& verb : all_verbs()) {
      if (!verb.group.empty()) out->push_back(verb.name);
    }
  }
  if (completes == Completes::kJob || completes == Completes::kEndedJob ||
      completes == Completes::kJobOrConfig) {
    auto client = transport::Client::connect(globals.state_dir);
    wire::Envelope request, envelope;
    request.mutable_status();
    if (client.ok() && ask(*client, request, &envelope, 1000).ok()) {
      for (const wire::JobStatus& job : envelope.status_reply().jobs()) {
        const bool ended = job.state() == wire::FAILED || job.state() == wire::CANCELLED;
        if (ended || completes != Completes::kEndedJob) out->push_back(job.id());
      }
    }
  }
}

// The option that the last typed word names and that still waits for its value, or null.
const Option* waiting_option(const Verb& verb, const std::string& last) {
  for (const Option& option : verb.options) {
    const bool takes_value = !std::holds_alternative<bool*>(option.target);
    if (option.name[0] == '-' && takes_value &&
        option.name.substr(option.name.rfind(',') + 1) == last)
      return &option;
  }
  return nullptr;
}

// Takes the options of every verb out of the words; false when the last one waits for its value.
bool take_globals(Globals* globals, std::vector<std::string>* words) {
  std::vector<std::string> rest;
  constexpr std::string_view kWithValue = "--state-dir=";
  for (size_t i = 0; i < words->size(); ++i) {
    const std::string& word = (*words)[i];
    if (word == "--state-dir") {
      if (i + 1 == words->size()) return false;
      globals->state_dir = (*words)[++i];
      // bash gives the '=' as a word of its own.
      if (globals->state_dir == "=" && i + 1 < words->size()) globals->state_dir = (*words)[++i];
    } else if (word.starts_with(kWithValue)) {
      globals->state_dir = word.substr(kWithValue.size());
    } else if (word != "--json") {
      rest.push_back(word);
    }
  }
  *words = std::move(rest);
  return true;
}

std::vector<std::string> candidates(Globals globals, std::vector<std::string> words) {
  std::vector<std::string> out;
  if (!take_globals(&globals, &words)) return out;  // a folder: the shell's own completion
  const std::vector<Verb> verbs = all_verbs();
  if (words.empty()) {
    for (const Verb& verb : verbs) {
      if (!verb.group.empty()) out.push_back(verb.name);
    }
    return out;
  }
  for (const Verb& verb : verbs) {
    if (verb.name != words[0] || verb.group.empty()) continue;
    const Option* waiting = words.size() > 1 ? waiting_option(verb, words.back()) : nullptr;
    for (const Option& option : verb.options) {
      if (waiting != nullptr && waiting != &option && waiting->name != option.name) continue;
      const bool positional = option.name[0] != '-';
      if (!positional && waiting == nullptr) {
        out.push_back(option.name.substr(option.name.rfind(',') + 1));
        continue;
      }
      out.insert(out.end(), option.choices.begin(), option.choices.end());
      add_values(globals, option.completes, &out);
    }
    if (waiting != nullptr) return out;
    out.insert(out.end(), verb.next_words.begin(), verb.next_words.end());
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
