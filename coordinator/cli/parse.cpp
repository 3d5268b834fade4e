// From argv to one verb: the only home of CLI11. Its own exit codes (100–127) never leave this
// file.
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {
namespace {

constexpr const char* kOverview =
    "Trains DeepSeek-V3-style models (MLA + MoE): plans, launches, watches and records jobs.\n\n"
    "Start here:\n"
    "  dsv3ctl submit configs/demo.yaml --wait   train the demo model on this machine\n"
    "  dsv3ctl status                            what runs, and how far it is\n"
    "  dsv3ctl configs list                      the presets, by size\n";

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
  if (positional) added->type_name("");
}

void add_globals(CLI::App& app, Globals& globals) {
  app.add_option("--state-dir", globals.state_dir,
                 "Where the coordinator keeps everything (default: $XDG_STATE_HOME/dsv3ctl)");
  app.add_flag("--json", globals.json, "Print one JSON object with every field");
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

}  // namespace

int run(int argc, const char* const* argv) {
  Globals globals;
  globals.state_dir = default_state_dir();
  globals.color = wants_color();
  std::vector<Verb> verbs = all_verbs();

  CLI::App app(kOverview, "dsv3ctl");
  app.set_version_flag("--version", std::string("dsv3ctl ") + DSV3_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  add_globals(app, globals);
  std::vector<CLI::App*> commands;
  for (const Verb& verb : verbs) {
    CLI::App* command = app.add_subcommand(verb.name, verb.summary);
    command->group(verb.group);
    command->footer("\n" + verb.help);
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
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return fail(globals, usage_error(error, verbs, argc, argv));
  }
  std::error_code error;
  globals.state_dir =
      std::filesystem::absolute(globals.state_dir, error).lexically_normal().string();
  for (size_t i = 0; i < verbs.size(); ++i) {
    if (!commands[i]->parsed()) continue;
    if (verbs[i].pass_through) verbs[i].words->assign(argv + own, argv + argc);
    return verbs[i].run(globals);
  }
  return static_cast<int>(Code::kInvalid);
}

}  // namespace dsv3::cli
