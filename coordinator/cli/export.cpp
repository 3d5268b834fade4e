// dsv3ctl export: a checkpoint, or a job's newest one, as a Hugging Face folder. The work is the
// worker's; the coordinator says where a job's checkpoint is.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "base/text.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/run_worker.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

struct Words {
  std::string job, checkpoint, format, out, dtype;
  std::optional<double> shard_gb;
};

// The folder of the job's checkpoints, of which the worker takes the newest valid one: between two
// looks the one that `status` names may be retired, or damaged.
Result<std::string> checkpoint_of(const Globals& globals, const std::string& job) {
  DSV3_ASSIGN_OR_RETURN(transport::Client client, connect(globals));
  wire::Envelope request, envelope;
  request.mutable_status()->set_job(job);
  DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
  const wire::JobStatus& status = envelope.status_reply().jobs(0);
  if (status.has_checkpoint())
    return std::filesystem::path(status.checkpoint().path()).parent_path().string();
  return Status(Code::kNotFound, fmt::format("job {} has no checkpoint yet", job),
                fmt::format("'dsv3ctl checkpoint {}' makes a running job write one", job));
}

int export_job(const Globals& globals, const Words& words) {
  if (words.job.empty() == words.checkpoint.empty()) {
    return fail(globals,
                Status(Code::kInvalid, "export takes a JOB or --checkpoint DIR, one of them",
                       "see 'dsv3ctl export --help'"));
  }
  std::string checkpoint = words.checkpoint;
  if (checkpoint.empty()) {
    const auto found = checkpoint_of(globals, words.job);
    if (!found.ok()) return fail(globals, found.status());
    checkpoint = *found;
  }
  std::vector<std::string> argv = {"--checkpoint=" + checkpoint, "--format=" + words.format,
                                   "--out=" + words.out};
  if (!words.dtype.empty()) argv.push_back("--dtype=" + words.dtype);
  if (words.shard_gb) argv.push_back("--max-shard-size=" + exact_number(*words.shard_gb));
  return run_worker(globals, "export", argv);
}

}  // namespace

Verb make_export() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "export";
  verb.group = "Data and models";
  verb.summary = "A job's weights as a Hugging Face folder";
  verb.help =
      "Writes config.json and safetensors that transformers loads as DeepseekV3ForCausalLM\n"
      "(DeepseekV2ForCausalLM for a softmax router), and the tokenizer's model where it is at "
      "hand.\n"
      "Examples:\n"
      "  dsv3ctl export demo-1 --format hf --out hf/demo\n"
      "  dsv3ctl export --checkpoint ckpt/mine --format hf --out hf/mine --dtype fp32";
  verb.options = {{"JOB", &words->job, "Job id: its newest checkpoint", false, Completes::kJob, {}},
                  {"--checkpoint", &words->checkpoint,
                   "A checkpoint, or a folder of them: the newest valid one"},
                  {"--format", &words->format, "Kind of folder", true, Completes::kNothing, {"hf"}},
                  {"--out", &words->out, "Folder to write; must not exist, or be empty", true},
                  {"--dtype",
                   &words->dtype,
                   "Of the weights (default: fp32 where the job trained in fp32, else bf16)",
                   false,
                   Completes::kNothing,
                   {"bf16", "fp32"}},
                  {"--max-shard-size",
                   &words->shard_gb,
                   "GB of one file (default: 5)",
                   false,
                   Completes::kNothing,
                   {},
                   Range{1e-6, 1e6}}};
  verb.run = [words](const Globals& globals) { return export_job(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
