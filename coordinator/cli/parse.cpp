// From argv to one verb: the only home of CLI11. Its own exit codes (100–127) never leave this
// file.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {
namespace {

using Words = std::vector<const char*>;

constexpr size_t kJobIdMax = 80;

// "" when the word is a number of the range, else what is wrong with it.
std::string outside(const Range& range, const std::string& word) {
  char* end = nullptr;
  const double value = std::strtod(word.c_str(), &end);
  if (end == word.c_str() || *end != '\0') return {};  // no number: the conversion will say so
  if (value >= range.min && value <= range.max) return {};
  return range.max >= kAnyCount
             ? fmt::format("{} is too {}", word, value > range.max ? "large" : "small") +
                   fmt::format(": from {:.15g}", range.min)
             : fmt::format("{} is not a number from {:.15g} to {:.15g}", word, range.min,
                           range.max);
}

// "" when the word is one of the choices.
std::string no_choice(const std::vector<std::string>& choices, const std::string& word) {
  if (std::find(choices.begin(), choices.end(), word) != choices.end()) return {};
  std::string text = "'" + word + "' is not one of ";
  for (const std::string& choice : choices)
    text += choice + (&choice == &choices.back() ? "" : ", ");
  return text;
}

void add_option(CLI::App& app, const Option& option) {
  const bool positional = option.name[0] != '-';
  CLI::Option* added = std::visit(
      [&](auto* target) -> CLI::Option* {
        using T = std::remove_pointer_t<decltype(target)>;
        if constexpr (std::is_same_v<T, bool>) {
          return app.add_flag(option.name, *target, option.help);
        } else {
          return app.add_option(option.name, *target, option.help);
        }
      },
      option.target);
  if (option.required) added->required();
  if (!option.choices.empty()) {
    added->check(
        [choices = option.choices](const std::string& word) { return no_choice(choices, word); });
  }
  if (std::holds_alternative<std::vector<std::string>*>(option.target) && !positional)
    added->allow_extra_args(false);
  if (option.range) {
    added->check([range = *option.range](const std::string& word) { return outside(range, word); });
  }
}

void add_globals(CLI::App& app, Globals& globals) {
  app.add_option("--state-dir", globals.state_dir);
  app.add_flag("--json", globals.json);
}

// The first word of an option that the verb does not have, "" when there is none.
std::string unknown_option(const Verb& verb, const Words& words, std::vector<std::string>* names) {
  for (const Option& option : shown_options(verb)) {
    for (const std::string& name : split(option.name, ','))
      if (name[0] == '-') names->push_back(name);
  }
  if (verb.name.empty()) names->emplace_back("--version");
  for (const char* word : words) {
    const std::string name = std::string(word).substr(0, std::string_view(word).find('='));
    if (name == "--") return {};
    if (name.size() < 2 || name[0] != '-' || std::isdigit(static_cast<unsigned char>(name[1])) != 0)
      continue;
    if (std::find(names->begin(), names->end(), name) == names->end()) return name;
  }
  return {};
}

// The first example of a verb's help.
std::string example_of(const Verb& verb) {
  for (const std::string& line : split(verb.help, '\n')) {
    if (line.starts_with("  dsv3ctl " + verb.name)) return wrap(line, 0, INT_MAX);
  }
  return {};
}

// CLI11's sentence in this program's words.
std::string said(const CLI::ParseError& error) {
  const std::string text = error.what();
  constexpr std::string_view kConvert = "Could not convert: ";
  const size_t equals = text.find(" = ");
  if (text.starts_with(kConvert) && equals != std::string::npos) {
    return fmt::format("{} takes a number, not '{}'",
                       text.substr(kConvert.size(), equals - kConvert.size()),
                       text.substr(equals + 3));
  }
  // "--gpus: At Most 1 required but received 2".
  const size_t most = text.find(": At Most 1 required but received ");
  if (most != std::string::npos)
    return fmt::format("{} is given {} times, and takes one value", text.substr(0, most),
                       text.substr(text.rfind(' ') + 1));
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
    return "unexpected" + text.substr(std::min(text.size(), text.find(':')));
  return text;
}

Status unknown_verb(const std::vector<Verb>& verbs, const std::string& word) {
  std::vector<std::string_view> names;
  for (const Verb& verb : verbs) {
    if (!verb.group.empty()) names.push_back(verb.name);
  }
  const std::string near = did_you_mean(word, names);
  return Status(Code::kInvalid, "unknown command '" + word + "'",
                near.empty() ? "see 'dsv3ctl --help'" : "did you mean '" + near + "'?");
}

// The first word that is neither an option of every verb nor its value; "" when there is none.
std::string first_word(const Words& words) {
  for (size_t i = 1; i < words.size(); ++i) {
    if (std::string_view(words[i]) == "--state-dir")
      ++i;
    else if (words[i][0] != '-')
      return words[i];
  }
  return {};
}

// What is wrong with the words, and what to type instead.
Status usage_error(const CLI::ParseError& error, const std::vector<Verb>& verbs,
                   const Words& words) {
  const Verb* verb = nullptr;
  Verb none;
  if (const std::string word = first_word(words); !word.empty()) {
    for (const Verb& known : verbs)
      if (known.name == word) verb = &known;
    if (verb == nullptr) return unknown_verb(verbs, word);
  }
  const std::string help =
      verb == nullptr ? "see 'dsv3ctl --help'" : "see 'dsv3ctl " + verb->name + " --help'";
  std::vector<std::string> names;
  const std::string option = unknown_option(verb == nullptr ? none : *verb, words, &names);
  if (!option.empty()) {
    const std::vector<std::string_view> views(names.begin(), names.end());
    const std::string near = option.starts_with("--") ? did_you_mean(option, views) : "";
    return Status(Code::kInvalid, "unknown option '" + option + "'",
                  near.empty() ? help : "did you mean '" + near + "'?");
  }
  const std::string example = verb == nullptr ? "" : example_of(*verb);
  if (!example.empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr)
    return Status(Code::kInvalid, said(error), "for example '" + example + "'; " + help);
  return Status(Code::kInvalid, said(error), help);
}

bool wants_color() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_color != nullptr && *no_color != '\0') return false;
  return ::isatty(STDOUT_FILENO) != 0 && (term == nullptr || std::string_view(term) != "dumb");
}

// How many words are ours: a verb that hands its words on ends them, and CLI11 never sees what
// follows ("--" and options of another program would confuse it). A help word right behind the verb
// is ours.
size_t own_words(const Words& words, const std::vector<Verb>& verbs) {
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == "--state-dir") ++i;
    if (word.starts_with("-")) continue;
    for (const Verb& verb : verbs) {
      if (verb.pass_through && verb.name == word) {
        const std::string_view next = i + 1 < words.size() ? words[i + 1] : "";
        return next == "--help" || next == "-h" ? words.size() : i + 1;
      }
    }
    break;
  }
  return words.size();
}

// "help", "help VERB" and "version" are what many type first.
Words usual_words(int argc, const char* const* argv) {
  Words words(argv, argv + argc);
  if (words.size() < 2) return words;
  const std::string_view first = words[1];
  if (first == "version") words[1] = "--version";
  if (first != "help") return words;
  words.erase(words.begin() + 1);
  words.push_back("--help");
  return words;
}

// What no verb need look at: bytes that fit into no message, and job ids that no job can have.
Status check_words(const Verb& verb, const Words& words) {
  for (size_t i = 1; i < words.size(); ++i) {
    if (find_not_utf8(words[i]) != std::string_view::npos)
      return Status(Code::kInvalid, fmt::format("word {} of the command line is not UTF-8", i));
  }
  constexpr const char* kOfIds =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  for (const Option& option : verb.options) {
    const bool of_job =
        option.completes == Completes::kJob || option.completes == Completes::kEndedJob;
    if (!of_job) continue;
    const std::string& id = **std::get_if<std::string*>(&option.target);
    if (id.size() > kJobIdMax || id.find_first_not_of(kOfIds) != std::string::npos) {
      const std::string shown = id.substr(0, kJobIdMax) + (id.size() > kJobIdMax ? "..." : "");
      return Status(Code::kNotFound, fmt::format("no job can have the id '{}'", shown),
                    "see 'dsv3ctl status'");
    }
  }
  return {};
}

// What a command line asks for; the values are where the verb's options point.
struct CommandLine {
  Globals globals;
  std::vector<Verb> verbs;
  const Verb* verb = nullptr;  // null: dsv3ctl itself
  bool help = false, version = false;
};

Status parse(int argc, const char* const* argv, CommandLine* line) {
  line->globals.state_dir = default_state_dir();
  line->globals.color = wants_color();
  line->verbs = all_verbs();
  CLI::App app("", "dsv3ctl");
  app.add_flag("--version", line->version);
  app.require_subcommand(0, 1);
  app.fallthrough();
  add_globals(app, line->globals);
  std::vector<CLI::App*> commands;
  for (const Verb& verb : line->verbs) {
    CLI::App* command = app.add_subcommand(verb.name);
    for (const Option& option : verb.options) add_option(*command, option);
    commands.push_back(command);
  }
  const Words words = usual_words(argc, argv);
  for (const std::string_view word : words) {
    if (word == "--json") line->globals.json = true;  // so that a usage error is JSON too
  }
  const size_t own = own_words(words, line->verbs);
  const Words ours(words.begin(), words.begin() + static_cast<int64_t>(own));
  const auto note_verb = [&] {
    for (size_t i = 0; i < commands.size(); ++i)
      if (commands[i]->parsed()) line->verb = &line->verbs[i];
  };
  try {
    app.parse(static_cast<int>(own), const_cast<char**>(words.data()));
  } catch (const CLI::CallForHelp&) {
    note_verb();
    line->help = true;
    const std::string word = first_word(ours);
    return line->verb == nullptr && !word.empty() ? unknown_verb(line->verbs, word) : Status();
  } catch (const CLI::ParseError& error) {
    return usage_error(error, line->verbs, ours);
  }
  note_verb();
  if (line->verb == nullptr) return {};
  DSV3_RETURN_IF_ERROR(check_words(*line->verb, ours));
  if (line->verb->pass_through)
    line->verb->words->assign(words.begin() + static_cast<int64_t>(own), words.end());
  return {};
}

}  // namespace

Status check_command_line(int argc, const char* const* argv) {
  CommandLine line;
  return parse(argc, argv, &line);
}

namespace {

int run_line(int argc, const char* const* argv, Globals* globals) {
  CommandLine line;
  if (Status status = parse(argc, argv, &line); !status.ok()) return fail(line.globals, status);
  *globals = line.globals;
  if (line.help) return print(line.verb ? verb_help(*line.verb) : overview(line.verbs)), 0;
  if (line.version) return print("dsv3ctl " DSV3_VERSION "\n"), 0;
  if (line.verb == nullptr) {
    const Status status(Code::kInvalid, "a command is missing", "see 'dsv3ctl --help'");
    if (line.globals.json) return fail(line.globals, status);
    note(overview(line.verbs));
    return static_cast<int>(status.code());
  }
  std::error_code error;
  std::string& dir = line.globals.state_dir;
  dir = std::filesystem::absolute(dir, error).lexically_normal().string();
  return line.verb->run(line.globals);
}

}  // namespace

int run(int argc, const char* const* argv) {
  Globals globals;
  const int code = run_line(argc, argv, &globals);
  if (code != 0) return code;
  const Status written = output_status();
  return written.ok() ? 0 : fail(globals, written);
}

}  // namespace dsv3::cli
