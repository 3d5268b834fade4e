// Data parallel gradients are those of one process: the same batch on 1, 2 and 4 ranks, which are
// processes connected by the real mesh.
#include <gtest/gtest.h>
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "runtime/comm/cpu/mesh.h"
#include "runtime/parallel/gradient_sync.h"
#include "tests/unit/runtime/comm/shared_floats.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::parallel {
namespace {

using testing_support::random_tokens;
using testing_support::tiny_job;
using testing_support::TinyModel;

constexpr int64_t kSequences = 8;

struct Setting {
  int ranks = 1;
  bool overlap = true;
  size_t lanes = 1;
  int64_t micro_batch = 1;
  DType compute = DType::kF32;
};

// One rank: its share of the batch, in micro-batches; the last with the observer.
std::vector<float> rank_gradients(const Setting& setting, int rank, const std::string& name) {
  auto mesh = comm::Mesh::connect(
      {.rank = rank, .world = setting.ranks, .rendezvous = "local:" + name, .token = "test"});
  if (!mesh.ok()) return {};
  std::vector<int> members(static_cast<size_t>(setting.ranks));
  std::iota(members.begin(), members.end(), 0);
  std::vector<std::unique_ptr<comm::Communicator>> owned;
  comm::Groups groups;
  groups.layout.dp = setting.ranks;
  groups.layout.zero_stage = 0;
  groups.position.dp_rank = rank;
  for (size_t i = 0; i < setting.lanes && setting.ranks > 1; ++i) {
    owned.push_back((*mesh)->create_group("lane " + std::to_string(i), members));
    groups.dense.push_back(owned.back().get());
  }
  groups.replicated = groups.expert = groups.dense;
  if (setting.ranks > 1) groups.world = groups.dense[0];
  TinyModel tiny(tiny_job(), kSequences, setting.compute);
  GradientSync sync(tiny.transformer->params(), groups,
                    {.num_layers = 4, .overlap = setting.overlap, .bytes_min = 4096});
  const std::vector<int32_t> tokens = random_tokens(tiny.job, kSequences);
  const auto row = static_cast<size_t>(tiny.job.training.seq_length + 1);
  const int64_t share = kSequences / setting.ranks;
  tiny.transformer->step().reset();
  tiny.transformer->params().zero_grad();
  for (int64_t done = 0; done < share; done += setting.micro_batch) {
    const bool last = done + setting.micro_batch == share;
    const auto at = static_cast<size_t>(rank * share + done) * row;
    tiny.transformer->train_micro_batch(
        std::span(tokens).subspan(at, static_cast<size_t>(setting.micro_batch) * row),
        last ? &sync : nullptr);
  }
  sync.finish();
  return tiny.grads();
}

// Gradients of every rank, one after the other.
std::vector<float> gradients(const Setting& setting) {
  const int64_t elements = model::param_layout(tiny_job().model).elements;
  const auto size = static_cast<size_t>(elements);
  comm::SharedFloats shared(size * static_cast<size_t>(setting.ranks));
  const std::string name = "gradient-sync-" + std::to_string(::getpid());
  std::vector<pid_t> children;
  for (int rank = 0; rank < setting.ranks; ++rank) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::alarm(60);
      ::omp_set_num_threads(1);  // ranks that share cores have one each
      const std::vector<float> own = rank_gradients(setting, rank, name);
      if (own.size() != size) ::_exit(1);
      std::memcpy(shared.data() + static_cast<size_t>(rank) * size, own.data(),
                  size * sizeof(float));
      ::_exit(0);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
  return {shared.data(), shared.data() + size * static_cast<size_t>(setting.ranks)};
}

float largest(const std::vector<float>& values) {
  float most = 0;
  for (const float value : values) most = std::max(most, std::abs(value));
  return most;
}

class GradientSyncRanks : public ::testing::TestWithParam<int> {};

TEST_P(GradientSyncRanks, AgreeWithOneProcess) {
  const std::vector<float> whole = gradients({.ranks = 1, .micro_batch = kSequences});
  const std::vector<float> ranks = gradients({.ranks = GetParam()});
  const float scale = largest(whole);
  ASSERT_GT(scale, 0);
  for (size_t i = 0; i < whole.size(); ++i) {
    ASSERT_NEAR(ranks[i], whole[i], 1e-6 * scale) << i;
  }
}

TEST_P(GradientSyncRanks, HaveTheSameBits) {
  const std::vector<float> ranks = gradients({.ranks = GetParam()});
  const size_t size = ranks.size() / static_cast<size_t>(GetParam());
  for (size_t rank = 1; rank < static_cast<size_t>(GetParam()); ++rank) {
    EXPECT_EQ(std::memcmp(ranks.data(), ranks.data() + rank * size, size * sizeof(float)), 0);
  }
}

TEST_P(GradientSyncRanks, OverlapAndLanesChangeNoBit) {
  for (const DType compute : {DType::kF32, DType::kBf16}) {
    const Setting on{.ranks = GetParam(), .overlap = true, .lanes = 3, .compute = compute};
    Setting off = on;
    off.overlap = false;
    off.lanes = 1;
    EXPECT_EQ(gradients(on), gradients(off));
  }
}

INSTANTIATE_TEST_SUITE_P(Counts, GradientSyncRanks, ::testing::Values(2, 4),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace dsv3::parallel
