// What a stage needs is asked for an action ahead, not sooner: an operation's deadline
// (parallel.collective_timeout_s) runs from when it is started, so a gradient that is asked for
// while the step's forwards still run would make the deadline one of the whole step.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>

#include "runtime/comm/cpu/rank_groups.h"
#include "tests/parity/watched_groups.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/pipeline/layout_run.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::parallel {
namespace {

constexpr int64_t kMicroBatches = 6;

// Names of what this rank starts between the stages, in order.
std::vector<std::string> started(const comm::Groups& groups, const spec::JobSpec& job) {
  std::vector<std::string> names;
  const parity::WatchedGroups watched(groups, [&](const std::string& group, std::string_view op) {
    if (group.starts_with("pp")) names.emplace_back(op);
  });
  const auto device = dsv3::testing_support::cpu_device();
  tensor::Arena arena(*device);
  model::Transformer transformer(job.model,
                                 {.sequence = job.training.seq_length,
                                  .global_sequences = kMicroBatches,
                                  .groups = &watched.groups()},
                                 arena);
  transformer.params().initialise(job.training.seed);
  Pipeline pipeline(transformer);
  const std::vector<int32_t> tokens = dsv3::testing_support::random_tokens(job, kMicroBatches);
  testing_support::Share share(tokens, job.training.seq_length + 1, watched.groups(), 1);
  const Status status = pipeline.train(share, nullptr);
  comm::expect(status.ok(), status.to_string());
  return names;
}

TEST(PipelinePosting, AGradientIsAskedForAnActionAhead) {
  const spec::JobSpec job = testing_support::deep_job(2, 1, 0);
  const plan::Layout layout{.pp = 2, .zero_stage = 0, .schedule = "afab"};
  const std::string rendezvous = comm::unique_rendezvous();
  comm::all_ranks(2, [&](int rank) {
    ::omp_set_num_threads(1);
    const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, 2));
    const comm::RankGroups owned(*mesh, layout, false);
    const std::vector<std::string> names = started(owned.groups(), job);
    if (rank != 0) return;
    // Six forwards are sent, then six gradients come; the first is asked for as the last forward
    // begins, each other as the backward before it does.
    comm::expect(names.size() == 12, "twelve messages");
    for (size_t i = 0; i < names.size(); ++i) {
      const bool gradient = names[i].starts_with("backward");
      comm::expect(gradient == (i == 5 || i > 6), names[i] + " is operation " + std::to_string(i));
    }
  });
}

}  // namespace
}  // namespace dsv3::parallel
