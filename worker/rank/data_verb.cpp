// `dsv3-worker data-prepare`: text files, or the demo's dictionary, into Megatron's indexed token
// format.
//
// Law: nothing is decided here: options in, runtime/data's prepare(), a report out (with --json one
// object on stdout).
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "runtime/data/demo_text.h"
#include "runtime/data/prepare.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

constexpr double kFetchDeadlineS = 300;

struct Words {
  data::PrepareOptions prepare;
  std::string documents = "auto";
  bool demo = false;
  std::string demo_source;
  bool json = false;
};

void add_options(CLI::App& app, Words& words) {
  data::PrepareOptions& prepare = words.prepare;
  app.add_option("--input", prepare.inputs, "text files, read in this order");
  app.add_option("--tokenizer", prepare.tokenizer,
                 "sentencepiece:bpe:SIZE, byte, or an existing .model")
      ->capture_default_str();
  app.add_option("--out", prepare.prefix, "PREFIX of the outputs")->required();
  app.add_option("--documents", words.documents, "auto, paragraphs, lines, files, separator, jsonl")
      ->capture_default_str();
  app.add_option("--separator", prepare.separator, "string between documents");
  app.add_option("--sample-bytes", prepare.sample_bytes, "text to train a tokenizer on")
      ->capture_default_str();
  app.add_option("--seed", prepare.seed, "picks that sample")->capture_default_str();
  app.add_flag("--force", prepare.force, "build even when up to date");
  app.add_flag("--demo", words.demo, "the demo's text: the GNU English dictionary (dict-gcide)");
  app.add_option("--demo-source", words.demo_source,
                 "a .deb, .dict.dz or text file to use instead of the download");
  app.add_flag("--json", words.json, "print one JSON object");
}

int fail(const Words& words, const Status& status) {
  if (words.json) {
    const nlohmann::ordered_json error{{"error",
                                        {{"code", code_name(status.code())},
                                         {"message", status.message()},
                                         {"hint", status.hint()},
                                         {"where", status.where()}}}};
    fmt::print(stderr, "{}\n", error.dump());
  } else {
    fmt::print(stderr, "{}\n", status.to_string());
  }
  return static_cast<int>(status.code());  // a verb of dsv3ctl: its codes, not a rank's
}

// One line that is rewritten on a terminal; elsewhere a line a phase.
class ProgressLine {
 public:
  void show(std::string_view phase, int64_t done, int64_t total) {
    const int percent = total > 0 ? static_cast<int>(100 * done / total) : 100;
    if (terminal_) {
      fmt::print(stderr, "\r\033[K{} {}%", phase, percent);
      open_ = true;
    } else if (phase != last_phase_) {
      fmt::print(stderr, "{}\n", phase);
    }
    last_phase_ = phase;
  }
  void end() {
    if (open_) fmt::print(stderr, "\r\033[K");
    open_ = false;
  }

 private:
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool open_ = false;
  std::string last_phase_;
};

Status use_demo_text(Words* words) {
  fmt::print(stderr, "getting the demo's text (package dict-gcide, unpacked, not installed)\n");
  DSV3_ASSIGN_OR_RETURN(const std::string text,
                        data::ensure_demo_text(words->prepare.prefix + ".source",
                                               words->demo_source, kFetchDeadlineS));
  words->prepare.inputs = {text};
  words->prepare.documents = data::DocumentSplit::kSeparator;
  words->prepare.separator = data::kDemoSeparator;
  return {};
}

Result<data::PrepareReport> prepare(Words* words) {
  if (words->demo) {
    DSV3_RETURN_IF_ERROR(use_demo_text(words));
  } else {
    DSV3_ASSIGN_OR_RETURN(words->prepare.documents, data::parse_document_split(words->documents));
  }
  if (words->prepare.inputs.empty()) {
    return Status(Code::kInvalid, "data prepare needs --input FILES (or --demo)");
  }
  ProgressLine progress;
  words->prepare.progress = [&progress](std::string_view phase, int64_t done, int64_t total) {
    progress.show(phase, done, total);
  };
  Result<data::PrepareReport> report = data::prepare(words->prepare);
  progress.end();
  return report;
}

void print_report(const Words& words, const data::PrepareReport& report) {
  const data::DatasetInfo& info = report.info;
  if (words.json) {
    const nlohmann::ordered_json json{{"schema_version", 1},
                                      {"prefix", words.prepare.prefix},
                                      {"up_to_date", report.up_to_date},
                                      {"tokenizer", info.tokenizer},
                                      {"vocab_size", info.vocab_size},
                                      {"documents", info.num_documents},
                                      {"tokens", info.num_tokens},
                                      {"unigram_entropy_nats", info.unigram_entropy_nats},
                                      {"input_bytes", info.input_bytes}};
    fmt::print("{}\n", json.dump());
    return;
  }
  fmt::print(stderr,
             "{} {}: {} tokens in {} documents, vocabulary {}, unigram entropy {:.4f} nats\n",
             words.prepare.prefix, report.up_to_date ? "is up to date" : "written",
             with_commas(info.num_tokens), with_commas(info.num_documents),
             with_commas(info.vocab_size), info.unigram_entropy_nats);
}

}  // namespace

int data_prepare_verb(const std::vector<std::string>& arguments) {
  Words words;
  CLI::App app("Text files into Megatron's indexed token format: PREFIX.bin, .idx, .json");
  app.name("dsv3ctl data prepare");
  add_options(app, words);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& fault) {
    return fail(words, Status(Code::kInvalid, fault.what(), "see dsv3ctl data prepare --help"));
  }
  const Result<data::PrepareReport> report = prepare(&words);
  if (!report.ok()) return fail(words, report.status());
  print_report(words, *report);
  return 0;
}

}  // namespace dsv3::rank
