// See submit_auto.h.
#include "coordinator/cli/submit_auto.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "configs/spec/parse.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/submit.h"
#include "coordinator/cli/wait.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

constexpr int kPatienceMs = 30'000;

// A file, seen from the coordinator; names of overlays that ship stay as they are.
std::string as_path(const std::string& word) {
  std::error_code error;
  const bool is_file = word.find('/') != std::string::npos || path_exists(word);
  return is_file ? std::filesystem::absolute(word, error).lexically_normal().string() : word;
}

Result<wire::Envelope> request_of(const AutoQuestion& question) {
  wire::Envelope envelope;
  wire::SubmitAutoRequest& request = *envelope.mutable_submit_auto();
  for (const std::string& word : question.config.set) request.add_overrides(word);
  for (const std::string& word : question.config.overlays) request.add_overlays(as_path(word));
  DSV3_ASSIGN_OR_RETURN(const std::string deepspeed,
                        one_text("--deepspeed", question.config.deepspeed));
  if (!deepspeed.empty()) request.set_deepspeed(as_path(deepspeed));
  request.set_tokens(question.tokens);
  request.set_launcher(question.launcher);
  request.set_request_key(random_key());
  std::error_code error;
  request.set_working_dir(std::filesystem::current_path(error).string());
  return envelope;
}

// The data of the pick are there, or are made.
Status make_data(const Globals& globals, const std::string& spec_yaml) {
  const spec::Parsed parsed = spec::parse_yaml(spec_yaml, "the coordinator's pick");
  if (!parsed.ok()) return spec::to_status(parsed.diagnostics);
  const spec::JobSpec& job = parsed.job;
  const bool wants_demo = !job.data.path.empty() && job.data.path[0].first == demo_prefix(globals);
  if (wants_demo) DSV3_RETURN_IF_ERROR(prepare_demo_data(globals, job));
  return check_data(job);
}

int show(const Globals& globals, const wire::SubmitAutoReply& reply) {
  const auto plan = nlohmann::ordered_json::parse(reply.plan_json());
  if (globals.json) {
    print_json({{"config", reply.config()}, {"why", reply.why()}, {"plan", plan}});
  } else {
    print(reply.config() + "\n" + wrap(reply.why(), 0) + "\n" + plan.dump(2) + "\n");
  }
  return 0;
}

}  // namespace

int submit_auto(const Globals& globals, const AutoQuestion& question) {
  auto request = request_of(question);
  if (!request.ok()) return fail(globals, request.status());
  if (!question.dry_run) {
    say_when_interrupted(
        "dsv3ctl: interrupted before the coordinator answered; 'dsv3ctl status' shows whether the "
        "job was taken\n");
  }
  auto client = question.dry_run ? connect(globals) : connect_or_start_and_say(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope reply;
  request->mutable_submit_auto()->set_dry(true);
  if (Status status = ask(*client, *request, &reply, kPatienceMs); !status.ok())
    return fail(globals, status);
  if (question.dry_run) return show(globals, reply.submit_auto_reply());
  if (Status status = make_data(globals, reply.submit_auto_reply().spec_yaml()); !status.ok())
    return fail(globals, status);
  request->mutable_submit_auto()->set_dry(false);
  if (Status status = ask(*client, *request, &reply, kPatienceMs); !status.ok())
    return fail(globals, status);
  const wire::SubmitAutoReply& taken = reply.submit_auto_reply();
  if (globals.json) {
    print_json({{"job", taken.job()}, {"config", taken.config()}, {"why", taken.why()}});
  } else {
    note(wrap(taken.why(), 0));
    print(taken.job() + "\n");
  }
  return question.wait ? show_to_end(globals, *client, taken.job()) : 0;
}

}  // namespace dsv3::cli
