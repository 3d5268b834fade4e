// dsv3ctl score: log-probabilities of tokens under a checkpoint's model. The work is the worker's.
#include <memory>

#include "coordinator/cli/run_worker.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {

Verb make_score() {
  struct Words {
    std::string checkpoint, tokens, tokens_file, logits;
  };
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "score";
  verb.group = "Data and models";
  verb.summary = "Log-probabilities of tokens under a checkpoint's model";
  verb.help =
      "Computes in fp32, with memory for the weights. Prints the log-probability (natural) of "
      "each\n"
      "token after the first, their mean and the perplexity.\n"
      "Examples:\n"
      "  dsv3ctl score --checkpoint ckpt/mine --tokens 5,17,3,99\n"
      "  dsv3ctl score --checkpoint ckpt/mine --tokens-file text.tokens --json\n"
      "  dsv3ctl score --checkpoint ckpt/mine --tokens 5,17 --logits l.safetensors";
  verb.options = {{"--checkpoint", &words->checkpoint,
                   "A checkpoint, or a folder of them: the newest valid one", true},
                  {"--tokens", &words->tokens, "Numbers with commas between"},
                  {"--tokens-file", &words->tokens_file,
                   "File of numbers, with spaces, commas or lines between"},
                  {"--logits", &words->logits,
                   "Also write tensor \"logits\" [tokens, vocabulary] f32 to this "
                   ".safetensors file"}};
  verb.run = [words](const Globals& globals) {
    std::vector<std::string> argv = {"--checkpoint=" + words->checkpoint};
    if (!words->tokens.empty()) argv.push_back("--tokens=" + words->tokens);
    if (!words->tokens_file.empty()) argv.push_back("--tokens-file=" + words->tokens_file);
    if (!words->logits.empty()) argv.push_back("--logits=" + words->logits);
    return run_worker(globals, "score", argv);
  };
  return verb;
}

}  // namespace dsv3::cli
