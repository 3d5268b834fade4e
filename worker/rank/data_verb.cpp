// `dsv3-worker data-prepare`: text files, or the demo's dictionary, into Megatron's indexed token
// format.
//
// Law: nothing is decided here: options in, runtime/data's prepare(), a report out (with --json one
// object on stdout).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "runtime/data/demo_text.h"
#include "runtime/data/prepare.h"
#include "worker/rank/verb_io.h"
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

Status use_demo_text(Words* words) {
  say("getting the demo's text (package dict-gcide, unpacked, not installed)\n");
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
  ProgressLine progress(true);
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
    const nlohmann::ordered_json json{{"prefix", words.prepare.prefix},
                                      {"up_to_date", report.up_to_date},
                                      {"tokenizer", info.tokenizer},
                                      {"vocab_size", info.vocab_size},
                                      {"documents", info.num_documents},
                                      {"tokens", info.num_tokens},
                                      {"unigram_entropy_nats", info.unigram_entropy_nats},
                                      {"input_bytes", info.input_bytes}};
    print_object(json);
    return;
  }
  say("{} {}:\n{} tokens in {} documents, vocabulary {}, unigram entropy {:.4f} nats\n",
      words.prepare.prefix, report.up_to_date ? "is up to date" : "written",
      with_commas(info.num_tokens), with_commas(info.num_documents), with_commas(info.vocab_size),
      info.unigram_entropy_nats);
}

}  // namespace

int data_prepare_verb(const std::vector<std::string>& arguments) {
  Words words;
  CLI::App app("Text files into Megatron's indexed token format: PREFIX.bin, .idx, .json");
  app.name("dsv3ctl data prepare");
  add_options(app, words);
  return run_verb(app, arguments, words.json, [&words]() -> Status {
    DSV3_ASSIGN_OR_RETURN(const data::PrepareReport report, prepare(&words));
    print_report(words, report);
    return {};
  });
}

}  // namespace dsv3::rank
