// From argv to one verb: the only home of CLI11. Its own exit codes (100–127) never leave this
// file.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {
namespace {

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
  if (!option.choices.empty()) added->check(CLI::IsMember(option.choices));
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

// CLI11's sentence, with the verb that was meant when the word is unknown.
Status usage_error(const CLI::ParseError& error, const std::vector<Verb>& verbs, int argc,
                   const char* const* argv) {
  std::string hint = "see 'dsv3ctl --help'";
  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string_view> names;
    bool known = false;
    for (const Verb& verb : verbs) {
      names.push_back(verb.name);
      known |= verb.name == argv[1];
    }
    if (known) {
      hint = std::string("see 'dsv3ctl ") + argv[1] + " --help'";
    } else {
      const std::string near = did_you_mean(argv[1], names);
      return Status(Code::kInvalid, std::string("unknown command '") + argv[1] + "'",
                    near.empty() ? hint : "did you mean '" + near + "'?");
    }
  }
  return Status(Code::kInvalid, error.what(), hint);
}

bool wants_color() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_color != nullptr && *no_color != '\0') return false;
  return ::isatty(STDOUT_FILENO) != 0 && (term == nullptr || std::string_view(term) != "dumb");
}

// How many words of argv are ours: a verb that hands its words on ends them, and CLI11 never sees
// what follows ("--" and options of another program would confuse it). A help word right behind the
// verb is ours.
int own_words(int argc, const char* const* argv, const std::vector<Verb>& verbs) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--state-dir") ++i;
    if (word.starts_with("-")) continue;
    for (const Verb& verb : verbs) {
      if (verb.pass_through && verb.name == word) {
        const std::string_view next = i + 1 < argc ? argv[i + 1] : "";
        return next == "--help" || next == "-h" ? argc : i + 1;
      }
    }
    return argc;
  }
  return argc;
}

// What no verb need look at: bytes that fit into no message, and job ids that no job can have.
Status check_words(const Verb& verb, int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (find_not_utf8(argv[i]) != std::string_view::npos)
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

}  // namespace

int run(int argc, const char* const* argv) {
  Globals globals;
  globals.state_dir = default_state_dir();
  globals.color = wants_color();
  std::vector<Verb> verbs = all_verbs();

  CLI::App app("", "dsv3ctl");
  app.set_version_flag("--version", std::string("dsv3ctl ") + DSV3_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  add_globals(app, globals);
  std::vector<CLI::App*> commands;
  for (const Verb& verb : verbs) {
    CLI::App* command = app.add_subcommand(verb.name);
    for (const Option& option : verb.options) add_option(*command, option);
    commands.push_back(command);
  }
  for (const char* const* word = argv + 1; word < argv + argc; ++word) {
    if (std::string_view(*word) == "--json")
      globals.json = true;  // so that a usage error is JSON too
  }
  const int own = own_words(argc, argv, verbs);
  try {
    app.parse(own, const_cast<char**>(argv));
  } catch (const CLI::CallForHelp&) {
    for (size_t i = 0; i < verbs.size(); ++i) {
      if (commands[i]->parsed()) return print(verb_help(verbs[i])), 0;
    }
    return print(overview(verbs)), 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return fail(globals, usage_error(error, verbs, argc, argv));
  }
  std::error_code error;
  globals.state_dir =
      std::filesystem::absolute(globals.state_dir, error).lexically_normal().string();
  for (size_t i = 0; i < verbs.size(); ++i) {
    if (!commands[i]->parsed()) continue;
    if (Status status = check_words(verbs[i], own, argv); !status.ok())
      return fail(globals, status);
    if (verbs[i].pass_through) verbs[i].words->assign(argv + own, argv + argc);
    return verbs[i].run(globals);
  }
  return static_cast<int>(Code::kInvalid);
}

}  // namespace dsv3::cli
