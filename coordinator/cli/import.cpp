// dsv3ctl import: a Hugging Face folder into a checkpoint. The work is the worker's.
#include <memory>

#include "coordinator/cli/run_worker.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {

Verb make_import() {
  struct Words {
    std::string folder, out;
  };
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "import";
  verb.group = "Data and models";
  verb.summary = "A Hugging Face folder into a checkpoint to train from";
  verb.help =
      "Reads config.json and model.safetensors, or the shards of its index: F32, BF16, F16, and\n"
      "DeepSeek's FP8 with weight_scale_inv. Weights are streamed: memory stays small.\n"
      "Examples:\n"
      "  dsv3ctl import DeepSeek-V2-Lite --out ckpt/v2-lite\n"
      "  dsv3ctl score --checkpoint ckpt/v2-lite --tokens 100000,549,6077\n"
      "Then train with the model's config.json and '--set checkpoint.load=ckpt/v2-lite'.";
  verb.options = {
      {"HFDIR", &words->folder, "Folder with config.json and *.safetensors", true},
      {"--out", &words->out, "Folder of the checkpoint; must not exist, or be empty", true}};
  verb.run = [words](const Globals& globals) {
    return run_worker(globals, "import", {"--out=" + words->out, "--", words->folder});
  };
  return verb;
}

}  // namespace dsv3::cli
