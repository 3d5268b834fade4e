// A state goes through checkpoints from 8 ranks to 4, to 1 and to 8 again, every time cut another
// way: every element on every rank is then what it was, bit by bit.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/train/checkpointing.h"
#include "runtime/train/group_saver.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/temporary_folder.h"
#include "tests/unit/runtime/train/synthetic_state.h"

namespace dsv3::train {
namespace {

using testing_support::cuttable_model;
using testing_support::SyntheticState;

constexpr const char* kJob = "reshard";

struct Moment {
  std::string dir;
  int64_t step = 0;
  plan::Layout layout;
};

checkpoint::SaveRequest request_for(const Moment& to, SyntheticState& state, int64_t rank) {
  checkpoint::SaveRequest request;
  request.dir = to.dir;
  request.job = kJob;
  request.step = to.step;
  request.rank = rank;
  request.world = to.layout.world_size();
  request.shard_bytes_max = 40'000;  // several files of each
  for (const StateTensor& piece : pieces_to_save(state.view(), rank == 0)) {
    request.tensors.push_back({.name = piece.name,
                               .dtype = piece.dtype,
                               .shape = piece.shape,
                               .data = piece.data,
                               .begin = piece.begin,
                               .end = piece.end,
                               .box = piece.box});
  }
  return request;
}

void save(const Moment& to, SyntheticState& state, comm::Communicator* world) {
  const checkpoint::SaveRequest request = request_for(to, state, world ? world->rank() : 0);
  if (world == nullptr) {
    const auto saved = checkpoint::save(request);
    comm::expect(saved.ok(), saved.ok() ? "" : saved.status().to_string());
    return;
  }
  GroupSaver saver(*world);
  const auto outcome = saver.save(
      {request.dir, request.attempt, request.step}, 10,
      [&](const std::string& folder) { return checkpoint::write_part(folder, request); });
  comm::expect(outcome.saved.ok(), outcome.saved.status().to_string());
}

void load(const Moment& from, SyntheticState& state) {
  const std::string path = fmt::format("{}/step-{:08}", from.dir, from.step);
  const auto saved = checkpoint::Checkpoint::open_for_reading(path);
  comm::expect(saved.ok(), saved.ok() ? "" : saved.status().to_string());
  size_t most = 0;
  const Status status =
      read_state(*saved, pieces_to_load(state.view()),
                 [&](const StateTensor& piece, int64_t at, std::span<const std::byte> bytes) {
                   most = std::max(most, bytes.size());
                   state.take(piece, at, bytes);
                 });
  comm::expect(status.ok(), status.to_string());
  comm::expect(most <= size_t{8} << 20, "too much at once");
}

// Every rank of `to`: takes the state from `from` (none: draws it), looks at every element, saves.
void pass_on(const Moment* from, const Moment& to, DType moments, DType compute) {
  const spec::ModelSpec model = cuttable_model();
  const auto body = [&](int rank, comm::Communicator* world) {
    SyntheticState expected(model, to.layout, rank, moments, compute), state = expected;
    expected.fill();
    from ? load(*from, state) : state.fill();
    comm::expect(state == expected,
                 fmt::format("rank {} of {} holds other values", rank, plan::to_string(to.layout)));
    save(to, state, world);
  };
  const int64_t ranks = to.layout.world_size();
  if (ranks == 1) return body(0, nullptr);
  const std::string rendezvous = comm::unique_rendezvous();
  comm::all_ranks(static_cast<int>(ranks), [&](int rank) {
    const auto mesh =
        comm::connect_or_throw(comm::options_for(rendezvous, rank, static_cast<int>(ranks)));
    const comm::RankGroups groups(*mesh, to.layout, plan::copies_embedding(model, to.layout));
    body(rank, groups.groups().world);
  });
}

// Every axis gets some of the factors of two of `ranks`.
plan::Layout random_layout(int64_t ranks, const CounterRng& rng, uint64_t* draw) {
  plan::Layout layout;
  int64_t* const axes[] = {&layout.tp, &layout.cp, &layout.pp, &layout.ep, &layout.dp};
  for (int64_t left = ranks; left > 1; left /= 2) *axes[rng.below((*draw)++, 5)] *= 2;
  layout.etp = rng.below((*draw)++, 2) == 0 ? 1 : layout.tp;
  layout.zero_stage = static_cast<int64_t>(rng.below((*draw)++, 3));
  if (layout.pp > 1 && layout.pp <= 4 && rng.below((*draw)++, 2) == 0) {
    layout.schedule = "interleaved";
    layout.virtual_stages = 2;
  }
  return layout;
}

TEST(Reshard, EveryElementSurvivesEveryChangeOfLayout) {
  const CounterRng rng(11, 12);
  uint64_t draw = 0;
  for (int chain = 0; chain < 5 && !HasFailure(); ++chain) {
    const TemporaryFolder folder;
    const DType moments = chain % 2 == 0 ? DType::kF32 : DType::kBf16;
    const DType compute = chain % 3 == 0 ? DType::kBf16 : DType::kF32;
    Moment before;
    int64_t step = 0;
    for (const int64_t ranks : {8, 4, 1, 8, 8}) {
      const Moment now{folder.path(), ++step, random_layout(ranks, rng, &draw)};
      SCOPED_TRACE(fmt::format("chain {}, step {}: {} then {}", chain, step,
                               plan::to_string(before.layout), plan::to_string(now.layout)));
      pass_on(step == 1 ? nullptr : &before, now, moments, compute);
      before = now;
    }
  }
}

// One axis at a time, so that a fault names its axis; each from and to a rank alone.
TEST(Reshard, EachAxisAlone) {
  for (const plan::Layout& layout :
       {plan::Layout{.tp = 4}, plan::Layout{.tp = 4, .etp = 4}, plan::Layout{.cp = 4},
        plan::Layout{.pp = 4}, plan::Layout{.ep = 4}, plan::Layout{.dp = 4},
        plan::Layout{.tp = 2, .ep = 2, .etp = 2, .zero_stage = 2},
        plan::Layout{.dp = 4, .zero_stage = 0}}) {
    const TemporaryFolder folder;
    SCOPED_TRACE(plan::to_string(layout));
    const Moment alone{folder.path(), 1, {}}, cut{folder.path(), 2, layout},
        again{folder.path(), 3, {}};
    pass_on(nullptr, alone, DType::kF32, DType::kBf16);
    pass_on(&alone, cut, DType::kF32, DType::kBf16);
    pass_on(&cut, again, DType::kF32, DType::kBf16);
  }
}

// Together the pieces of all ranks are as many elements as the model has: nothing is written twice.
TEST(Reshard, NothingIsWrittenTwice) {
  const spec::ModelSpec model = cuttable_model();
  int64_t elements = 0;
  for (const spec::TensorInfo& info : spec::model_tensors(model)) elements += info.num_elements();
  int64_t buffers = 0;
  for (const spec::TensorInfo& info : spec::model_buffers(model)) buffers += info.num_elements();
  const CounterRng rng(13, 14);
  uint64_t draw = 0;
  for (int round = 0; round < 20; ++round) {
    const plan::Layout layout = random_layout(8, rng, &draw);
    int64_t written = 0;
    for (int64_t rank = 0; rank < 8; ++rank) {
      SyntheticState state(model, layout, rank, DType::kF32, DType::kBf16);
      for (const StateTensor& piece : pieces_to_save(state.view(), rank == 0))
        written += piece.end - piece.begin;
    }
    EXPECT_EQ(written, 3 * elements + buffers) << plan::to_string(layout);
  }
}

}  // namespace
}  // namespace dsv3::train
