// dsv3ctl data: text → token files. The work is the worker's (only it links the runtime); this verb
// hands its words over.
#include <memory>

#include "coordinator/cli/output.h"
#include "coordinator/cli/run_worker.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

int data(const Globals& globals, const std::vector<std::string>& words) {
  if (words.empty() || words[0] != "prepare") {
    return fail(
        globals,
        Status(Code::kInvalid,
               words.empty() ? "data needs a command" : "unknown data command '" + words[0] + "'",
               "use 'dsv3ctl data prepare --input FILES --tokenizer SPEC --out PREFIX'"));
  }
  return run_worker(globals, "data-prepare", {words.begin() + 1, words.end()});
}

}  // namespace

Verb make_data() {
  auto words = std::make_shared<std::vector<std::string>>();
  Verb verb;
  verb.name = "data";
  verb.group = "Data and models";
  verb.summary = "prepare: text files into Megatron's indexed token format";
  verb.help =
      "Examples:\n"
      "  dsv3ctl data prepare --input a.txt b.txt \\\n"
      "      --tokenizer sentencepiece:bpe:8192 --out data/mine\n"
      "  dsv3ctl data prepare --input a.txt --tokenizer byte --out data/bytes\n"
      "  dsv3ctl data prepare --help\n"
      "Then train with 'data: {path: data/mine}'.";
  verb.pass_through = true;
  verb.words = words.get();
  verb.next_words = {"prepare", "--input", "--tokenizer", "--out"};
  verb.run = [words](const Globals& globals) { return data(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
