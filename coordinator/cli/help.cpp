// See help.h.
#include "coordinator/cli/help.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/text.h"
#include "coordinator/cli/output.h"

namespace dsv3::cli {
namespace {

constexpr int kNameColumn = 26;  // where an option's sentence starts
constexpr int kVerbColumn = 14;
constexpr int kNarrowest = 48;

constexpr const char* kIntroduction =
    "Trains DeepSeek-V3-style models (MLA + MoE): plans, launches, watches and records jobs.";
constexpr const char* kStart =
    "Start here:\n"
    "  dsv3ctl doctor                            is this machine ready?\n"
    "  dsv3ctl submit demo --wait                train the demo model here\n"
    "  dsv3ctl status                            what runs, and how far it is\n"
    "  dsv3ctl configs list                      the presets, by size\n"
    "  dsv3ctl submit --help                     a command's options and examples\n";

// Characters on the screen.
int columns_of(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// "  name      text text\n            text": the text on a line of its own where the name is long.
std::string entry(const std::string& name, const std::string& text, int column) {
  std::string out = "  " + name;
  const int gap = column - columns_of(out);
  out += gap >= 2 ? std::string(static_cast<size_t>(gap), ' ')
                  : "\n" + std::string(static_cast<size_t>(column), ' ');
  return out + wrap(text, column, help_columns() - column) + "\n";
}

bool asks_for_job(const Verb& verb) {
  return std::any_of(verb.options.begin(), verb.options.end(), [](const Option& option) {
    return option.completes == Completes::kJob || option.completes == Completes::kEndedJob;
  });
}
bool reads_config(const Verb& verb) {
  return std::any_of(verb.options.begin(), verb.options.end(), [](const Option& option) {
    return option.required && option.completes == Completes::kConfig;
  });
}

// What stands for a value where its type says too little.
std::string value_of(std::string_view option) {
  static const std::map<std::string_view, const char*> values = {
      {"--checkpoint", "DIR"},   {"--out", "DIR"},       {"--state-dir", "DIR"},
      {"--tokens-file", "FILE"}, {"--logits", "FILE"},   {"--tokens", "N,N,..."},
      {"--hostfile", "FILE"},    {"--include", "HOSTS"}, {"--exclude", "HOSTS"},
      {"--gpu", "NAME"},         {"--gpu-memory", "GB"}, {"--max-shard-size", "GB"},
      {"--timeout", "SECONDS"},  {"--grace", "SECONDS"}};
  const auto at = values.find(option);
  return at == values.end() ? "" : at->second;
}

// For a verb whose own text says nothing of exit codes.
std::string usual_codes(const Verb& verb) {
  if (asks_for_job(verb)) return "Exit codes: 3 no coordinator, 5 no such job.";
  if (reads_config(verb)) return "Exit codes: 2 invalid, 5 no such file or preset.";
  return {};
}

}  // namespace

int help_columns() {
  const int there = terminal_columns(STDOUT_FILENO);
  return there <= 0 ? kHelpColumns : std::clamp(there, kNarrowest, kHelpColumns);
}

const std::vector<ExitCode>& exit_codes() {
  static const std::vector<ExitCode> codes = {
      {0, "it was done"},
      {1, "it failed; for a job: it failed or was cancelled"},
      {2, "wrong usage, or an invalid configuration"},
      {3, "no coordinator is running"},
      {4, "not authorised: the key is not on the coordinator's list"},
      {5, "there is no such job, file, preset or key"},
      {6, "it does not fit, or what it needs is not there"},
      {7, "a conflict: another one holds it, or its state forbids it"},
      {124, "a time-out"},
      {130, "interrupted (Ctrl-C); the job goes on"},
      {143, "terminated; the job goes on"},
  };
  return codes;
}

std::string wrap(std::string_view text, int indent, int columns) {
  std::string out;
  int used = 0;
  for (const std::string& word : split(text, ' ')) {
    if (word.empty()) continue;
    const int width = columns_of(word);
    if (used > 0 && used + 1 + width > columns) {
      out += "\n" + std::string(static_cast<size_t>(indent), ' ');
      used = 0;
    }
    if (used > 0) out += " ";
    out += word;
    used += width + (used > 0 ? 1 : 0);
  }
  return out;
}

std::string option_words(const Option& option) {
  std::string name = option.name;
  if (const size_t comma = name.find(','); comma != std::string::npos) name.insert(comma + 1, " ");
  if (name[0] != '-') return name;
  if (!option.choices.empty()) {
    std::string choices;
    for (const std::string& choice : option.choices)
      choices += (choices.empty() ? "" : "|") + choice;
    return name + " " + choices;
  }
  if (!option.value.empty()) return name + " " + option.value;
  if (const std::string value = value_of(option.name); !value.empty()) return name + " " + value;
  return std::visit(
      [&](auto* target) -> std::string {
        using T = std::remove_pointer_t<decltype(target)>;
        if constexpr (std::is_same_v<T, bool>) return name;
        if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::vector<std::string>>)
          return name + " TEXT";
        return name + " N";
      },
      option.target);
}

std::vector<Option> shown_options(const Verb& verb) {
  static bool flag = false;
  static std::string text;
  std::vector<Option> options = verb.options;
  options.push_back({"--json", &flag, "Print JSON, with every field"});
  options.push_back({"--state-dir", &text,
                     "Where the coordinator keeps everything (default: $XDG_STATE_HOME/dsv3ctl)"});
  options.push_back({"-h,--help", &flag, "Print this help"});
  return options;
}

std::string usage_of(const Verb& verb) {
  std::string out = "dsv3ctl " + verb.name;
  if (verb.pass_through)
    return out + (verb.next_words.empty() ? "" : " " + verb.next_words[0]) + " ...";
  out += " [OPTIONS]";
  for (const Option& option : verb.options) {
    if (option.name[0] == '-' && option.required) out += " " + option_words(option);
  }
  if (!verb.one_of.empty()) out += " " + verb.one_of;
  for (const Option& option : verb.options) {
    if (option.name[0] != '-')
      out += option.required ? " " + option.name : " [" + option.name + "]";
  }
  return out;
}

std::vector<std::string> paragraphs(const Verb& verb) {
  std::vector<std::string> out;
  bool open = false;  // the last paragraph goes on
  for (const std::string& line : split(verb.help, '\n')) {
    const bool indented = line.starts_with("  ");
    if (open && !indented) {
      out.back() += " " + line;
    } else {
      out.push_back(line);
    }
    open = !indented && !line.ends_with(".") && !line.ends_with(":");
  }
  const std::string usual = usual_codes(verb);
  if (verb.help.find("xit code") == std::string::npos && !usual.empty()) out.push_back(usual);
  return out;
}

std::string verb_help(const Verb& verb) {
  std::string out = wrap(verb.summary + ".", 0) + "\n\n";
  out += "Usage: " + wrap(usage_of(verb), 7, help_columns() - 7) + "\n\n";
  for (const Option& option : shown_options(verb)) {
    std::string text = option.help;
    if (option.name[0] != '-' && !option.choices.empty()) {
      // A positional's choices stand in its sentence.
      if (text.find(option.choices[0]) == std::string::npos) text += ": " + option.choices[0];
    }
    out += entry(option_words(option), text, kNameColumn);
  }
  out += "\n";
  for (const std::string& paragraph : paragraphs(verb)) {
    out += paragraph.starts_with("  ") ? paragraph : wrap(paragraph, 0);
    out += "\n";
  }
  return out;
}

std::string overview(const std::vector<Verb>& verbs) {
  std::string out = wrap(kIntroduction, 0) + "\n\nUsage: dsv3ctl COMMAND [OPTIONS]\n\n";
  out += kStart;
  std::vector<std::string> groups;
  for (const Verb& verb : verbs) {
    if (!verb.group.empty() && std::find(groups.begin(), groups.end(), verb.group) == groups.end())
      groups.push_back(verb.group);
  }
  for (const std::string& group : groups) {
    out += "\n" + group + ":\n";
    for (const Verb& verb : verbs) {
      if (verb.group == group) out += entry(verb.name, verb.summary, kVerbColumn);
    }
  }
  out += "\nEvery command:\n";
  for (const Option& option : shown_options({}))
    out += entry(option_words(option), option.help, kNameColumn);
  out += entry("--version", "Print the version", kNameColumn);
  std::string codes = "Exit codes: ";
  for (const ExitCode& code : exit_codes()) {
    const std::string_view meaning = code.meaning.substr(0, code.meaning.find_first_of(";:"));
    codes += fmt::format("{}{} {}", code.code == 0 ? "" : " · ", code.code, meaning);
  }
  return out + "\n" + wrap(codes + ".", 0) + "\n";
}

}  // namespace dsv3::cli
