// dsv3ctl man: the man pages as roff, dsv3ctl(1), one page a verb, and dsv3ctl-config(5).
//
// Law: nothing is written for a page alone: verbs, options and exit codes come from the verbs' own
// table, keys from the field table. Every text is escaped, so none of it can be taken for a request
// of roff.
#include <memory>

#include "base/file.h"
#include "base/text.h"
#include "configs/spec/field_table.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

// A text as roff prints it: no request, no escape; a minus stays one, so that it can be copied.
std::string roff(std::string_view text) {
  std::string out;
  bool at_line_start = true;
  for (const char c : text) {
    if (at_line_start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
    at_line_start = c == '\n';
  }
  return out;
}

std::string bold(std::string_view text) {
  return "\\fB" + roff(text) + "\\fR";
}

std::string header(std::string_view page, int section, std::string_view what) {
  return ".TH \"" + roff(page) + "\" " + std::to_string(section) +
         " \"" DSV3_DATE "\" \"dsv3ctl " DSV3_VERSION "\"\n.SH NAME\n" + roff(page) + " \\- " +
         roff(what) + "\n";
}

// A term and its sentence.
std::string item(std::string_view term, std::string_view text) {
  return ".TP\n" + bold(term) + "\n" + roff(text) + "\n";
}

std::string options_of(const Verb& verb) {
  std::string out;
  for (const Option& option : shown_options(verb)) {
    out += item(option_words(option), option.help + (option.required ? " (required)." : "."));
  }
  return out;
}

// Paragraphs; runs of examples stand in one block without filling.
std::string text_of(const Verb& verb) {
  std::string out;
  bool block = false;
  for (const std::string& paragraph : paragraphs(verb)) {
    const bool example = paragraph.starts_with("  ");
    if (example && !block) out += ".PP\n.RS 4\n.nf\n";
    if (!example && block) out += ".fi\n.RE\n";
    if (!example) out += ".PP\n";
    out += roff(example ? paragraph.substr(2) : paragraph) + "\n";
    block = example;
  }
  return out + (block ? ".fi\n.RE\n" : "");
}

std::string exit_status() {
  std::string out = ".SH EXIT STATUS\n";
  for (const ExitCode& code : exit_codes())
    out += item(std::to_string(code.code), std::string(code.meaning) + ".");
  return out;
}

std::string main_page(const std::vector<Verb>& verbs) {
  std::string out = header("dsv3ctl", 1, "train DeepSeek-V3-style models: plan, launch, watch");
  out += ".SH SYNOPSIS\n.B dsv3ctl\n.I COMMAND\n[OPTIONS]\n";
  out +=
      ".SH DESCRIPTION\nA coordinator takes a YAML configuration, checks it, plans it, starts the "
      "workers, watches them, and records every step, every expert's load and every event in "
      "SQLite.\n";
  out += ".SH COMMANDS\n";
  for (const Verb& verb : verbs) {
    if (verb.group.empty()) continue;
    out += ".SS " + roff(verb.name) + "\n" + roff(verb.summary) + ".\n.PP\n" +
           bold(usage_of(verb)) + "\n" + options_of(verb) + text_of(verb);
  }
  out += exit_status();
  out += ".SH ENVIRONMENT\n";
  out +=
      item("XDG_STATE_HOME", "The state directory is dsv3ctl below it (default: ~/.local/state).");
  out += item("DSV3CTL_CONFIG_DIR", "The folder of the presets.");
  out += item("NO_COLOR", "No colours on a terminal.");
  out += ".SH FILES\n";
  out += item("$XDG_STATE_HOME/dsv3ctl/dsv3d.db",
              "The database: jobs, events, metrics, expert usage.");
  out += item("$XDG_STATE_HOME/dsv3ctl/jobs/", "A folder for each job: logs and checkpoints.");
  out += item("$XDG_STATE_HOME/dsv3ctl/keys/", "Keys, and the list of those that are answered.");
  return out + ".SH SEE ALSO\n.BR dsv3ctl\\-config (5)\n";
}

std::string verb_page(const Verb& verb) {
  std::string text = text_of(verb);
  if (text.starts_with(".PP\n")) text.erase(0, 4);  // a heading begins a paragraph by itself
  return header("dsv3ctl-" + verb.name, 1, verb.summary) + ".SH SYNOPSIS\n" + bold(usage_of(verb)) +
         "\n.SH OPTIONS\n" + options_of(verb) + ".SH DESCRIPTION\n" + text + exit_status() +
         ".SH SEE ALSO\n.BR dsv3ctl (1),\n.BR dsv3ctl\\-config (5)\n";
}

std::string key_item(const spec::Field& field) {
  std::string text(field.doc);
  text += "\n.br\n" + roff(spec::type_name(field));
  if (const std::string range = spec::range_text(field); !range.empty()) text += ", " + roff(range);
  if (!field.unit.empty()) text += ", " + roff(field.unit);
  text += field.required ? "; required" : "; default " + roff(spec::default_text(field));
  std::string names;
  for (const std::string_view name : field.bare) names += (names.empty() ? "" : ", ") + roff(name);
  for (const spec::Alias& alias : field.aliases)
    names += (names.empty() ? "" : ", ") + roff(alias.path);
  if (!names.empty()) text += "\n.br\nAlso: " + names;
  const std::string doc(field.doc);
  return ".TP\n" + bold(field.key) + "\n" + roff(doc) + text.substr(doc.size()) + "\n";
}

std::string config_page() {
  std::string out = header("dsv3ctl-config", 5, "the configuration of a job");
  out +=
      ".SH DESCRIPTION\nA YAML file (or a Hugging Face config.json) with the sections below. Any "
      "key can be given as " +
      bold("--set KEY=VALUE") + " too. An unknown key is an error.\n";
  for (const spec::Section& section : spec::section_table()) {
    out += ".SH \"" + roff(section.path) + "\"\n" + roff(section.doc) + "\n";
    for (const spec::Field& field : spec::field_table()) {
      if (field.key.substr(0, field.key.rfind('.')) == section.path) out += key_item(field);
    }
  }
  return out + ".SH SEE ALSO\n.BR dsv3ctl (1)\n";
}

// Every page as man/man1/… and man/man5/…, where `cmake --install` takes them.
Status write_pages(const std::string& dir, const std::vector<Verb>& verbs) {
  DSV3_RETURN_IF_ERROR(make_dirs(dir + "/man1"));
  DSV3_RETURN_IF_ERROR(make_dirs(dir + "/man5"));
  DSV3_RETURN_IF_ERROR(write_file(dir + "/man1/dsv3ctl.1", main_page(verbs)));
  for (const Verb& verb : verbs) {
    if (verb.group.empty()) continue;
    DSV3_RETURN_IF_ERROR(write_file(dir + "/man1/dsv3ctl-" + verb.name + ".1", verb_page(verb)));
  }
  return write_file(dir + "/man5/dsv3ctl-config.5", config_page());
}

int man(const Globals& globals, const std::string& page, const std::string& out) {
  const std::vector<Verb> verbs = all_verbs();
  if (!out.empty()) {
    const Status status =
        page.empty() ? write_pages(out, verbs)
                     : Status(Code::kInvalid, "man takes a PAGE or --out DIR, one of them");
    return status.ok() ? 0 : fail(globals, status);
  }
  if (page.empty()) return print(main_page(verbs)), 0;
  if (page == "config") return print(config_page()), 0;
  std::vector<std::string_view> names = {"config"};
  for (const Verb& verb : verbs) {
    if (verb.group.empty()) continue;
    if (verb.name == page) return print(verb_page(verb)), 0;
    names.push_back(verb.name);
  }
  const std::string near = did_you_mean(page, names);
  return fail(globals,
              Status(Code::kNotFound, "there is no page about '" + page + "'",
                     near.empty() ? "see 'dsv3ctl --help'" : "did you mean '" + near + "'?"));
}

}  // namespace

Verb make_man() {
  struct Words {
    std::string page, out;
  };
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "man";
  verb.group = "Help";
  verb.summary = "A man page as roff: of all commands, of one, or of the configuration";
  verb.help =
      "Examples:\n"
      "  dsv3ctl man | man -l -\n"
      "  dsv3ctl man submit | man -l -\n"
      "  dsv3ctl man --out ~/.local/share/man\n"
      "Exit codes: 5 no such page.";
  verb.options = {
      {"PAGE", &words->page, "A command, or config; left out: dsv3ctl(1)", false, Completes::kVerb},
      {"--out", &words->out, "Write every page into man1/ and man5/ of this folder"}};
  verb.run = [words](const Globals& globals) { return man(globals, words->page, words->out); };
  return verb;
}

}  // namespace dsv3::cli
