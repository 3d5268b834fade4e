// A verb of dsv3ctl as data: its words, options and action. Parsing, help, completion and man pages
// read the same table.
//
// Law: a verb decides nothing about printing style or exit codes by itself: Status becomes an exit
// code in output.h, and results go to stdout, everything else to stderr. The only home of CLI11 is
// parse.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"

namespace dsv3::cli {

// Options that every verb takes.
struct Globals {
  std::string
      state_dir;  // where the coordinator keeps everything; default_state_dir() unless given
  bool json = false;
  bool color = false;  // stdout is a terminal and NO_COLOR is not set
};

// Where a parsed value goes; the pointee belongs to the verb (kept alive by its run function).
using Target = std::variant<bool*, int64_t*, double*, std::string*, std::optional<int64_t>*,
                            std::optional<double>*, std::vector<std::string>*>;

// What completes a value: nothing, presets (and files, by the shell), overlays, job ids (all, or
// those that can be resumed), either of both, keys of the field table, names of verbs.
enum class Completes { kNothing, kConfig, kOverlay, kJob, kEndedJob, kJobOrConfig, kKey, kVerb };

// The numbers an option accepts, both ends included.
struct Range {
  double min = 0;
  double max = 0;
};
inline constexpr double kAnyCount =
    9e15;  // of a count without a limit of its own: exact in a double

struct Option {
  std::string name;  // "--gpus"; "-f,--follow"; a positional has no dash: "FILE"
  Target target;
  std::string help;
  bool required = false;
  Completes completes = Completes::kNothing;
  std::vector<std::string> choices;  // the only values accepted; empty: any
  std::optional<Range> range;        // for numbers; NaN is outside of every range
  std::string value;  // what stands for the value in the help ("FILE"); "": by name and type
};

struct Verb {
  std::string name;     // "validate"
  std::string group;    // heading in the overview: "Plan", "Run", "Look", "Data and models", "Help"
  std::string summary;  // one line
  std::string help;     // paragraphs and examples, shown under the options
  std::vector<Option> options;
  std::string one_of;                      // for the usage line: options of which one is needed
  std::function<int(const Globals&)> run;  // returns the exit code
  bool pass_through = false;               // all further words go to `words` unparsed
  std::vector<std::string>* words = nullptr;
  std::vector<std::string> next_words;  // what completes the words of a verb that passes them on
};

// Every verb, in the order of the overview.
std::vector<Verb> all_verbs();

// Parses argv and runs one verb; returns the process's exit code. Usage errors: one sentence on
// stderr, code 2.
int run(int argc, const char* const* argv);

// Whether run() would get past the words: kInvalid with the sentence that it would print. Runs
// nothing; what a verb hands on to another program is not looked at.
Status check_command_line(int argc, const char* const* argv);

}  // namespace dsv3::cli
