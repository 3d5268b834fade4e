// See train_options.h.
#include "worker/rank/train_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>

namespace dsv3::rank {

Result<TrainWords> parse_train_words(const std::vector<std::string>& words, bool* help) {
  TrainWords options;
  bool fresh = false;
  CLI::App app("One rank of a training job. Standalone: dsv3-worker --spec configs/demo.yaml");
  app.name("dsv3-worker train");
  app.add_option("--spec", options.spec, "a YAML file or the name of a preset")->required();
  app.add_option("--set", options.overrides, "a.b=c, wins over the file");
  app.add_option("--plan", options.plan, "plan.json");
  app.add_option("--rank", options.rank, "global rank")->check(CLI::NonNegativeNumber);
  app.add_option("--world", options.world, "number of ranks")->check(CLI::PositiveNumber);
  app.add_option("--job", options.job, "job id");
  app.add_option("--submission", options.submission, "what no other job has, whatever its id");
  app.add_option("--attempt", options.attempt, "attempt of the job")->check(CLI::NonNegativeNumber);
  app.add_option("--job-dir", options.job_dir, "checkpoints go to its checkpoints/ by default");
  app.add_option("--checkpoint-dir", options.checkpoint_dir, "where step-*/ folders go");
  app.add_option("--rendezvous", options.rendezvous,
                 "where the ranks meet: local:NAME (one host) or tcp:HOST:PORT (of rank 0); they "
                 "share the secret in DSV3_JOB_TOKEN");
  app.add_option("--saved-step", options.saved_step,
                 "the job has saved this step: if no checkpoint is found, end instead of beginning "
                 "afresh")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--link-fd", options.link_fd, "descriptor of the agent's socket");
  app.add_flag("--fresh", fresh, "don't resume from a checkpoint that is there");
  std::vector<std::string> reversed(words.rbegin(), words.rend());  // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    *help = true;
    std::cout << app.help();
    return options;
  } catch (const CLI::ParseError& fault) {
    return Status(Code::kInvalid, fault.what(), "see dsv3-worker train --help");
  }
  if (options.rank >= options.world) {
    return Status(Code::kInvalid, "--rank " + std::to_string(options.rank) +
                                      " is not below --world " + std::to_string(options.world));
  }
  if (options.world > 1 && options.rendezvous.empty()) {
    return Status(
        Code::kInvalid,
        "--world " + std::to_string(options.world) + " needs --rendezvous: where the ranks meet",
        "one host: --rendezvous local:NAME");
  }
  const char* token = std::getenv("DSV3_JOB_TOKEN");
  options.token = token ? token : "";
  if (options.rendezvous.starts_with("tcp:") && options.token.empty()) {
    return Status(Code::kInvalid, "--rendezvous tcp: needs a secret in DSV3_JOB_TOKEN",
                  "without one, whoever reaches the port is let in");
  }
  options.resume = !fresh;
  return options;
}

}  // namespace dsv3::rank
