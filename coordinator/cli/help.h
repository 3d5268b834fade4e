// The help texts, from the table of verbs: the overview, and a page a verb.
//
// Law: every line fits a terminal of 80 columns (a narrower one: but for examples); a text says
// which exit codes can follow. The man pages (man.cpp) are the same table in roff.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coordinator/cli/verb.h"

namespace dsv3::cli {

inline constexpr int kHelpColumns = 80;
// kHelpColumns, or what a narrower terminal has.
int help_columns();

// What `dsv3ctl --help` prints: hidden verbs (without a group) are left out.
std::string overview(const std::vector<Verb>& verbs);
// What `dsv3ctl VERB --help` prints.
std::string verb_help(const Verb& verb);

// ---- the parts, for the man pages

// "dsv3ctl submit [OPTIONS] FILE".
std::string usage_of(const Verb& verb);
// "-f, --follow", "--gpus N", "--launcher local|ssh|slurm", "FILE".
std::string option_words(const Option& option);
// The verb's own options, then the two that every verb takes and --help.
std::vector<Option> shown_options(const Verb& verb);
// The help text as paragraphs: lines that belong together are joined, an indented line (an example)
// stands alone, and a sentence about exit codes is there, also where the verb's own text has none.
std::vector<std::string> paragraphs(const Verb& verb);

struct ExitCode {
  int code;
  std::string_view meaning;
};
// Of dsv3ctl, in order; the numbers are those of base/status.h.
const std::vector<ExitCode>& exit_codes();

// `text` in lines of at most `columns` characters, broken at spaces; every line but the first is
// indented. A word that is longer stands alone.
std::string wrap(std::string_view text, int indent, int columns = help_columns());

}  // namespace dsv3::cli
