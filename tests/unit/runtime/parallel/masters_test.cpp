// Masters in pieces: bf16 models that train on several ranks have the losses and the bits of ZeRO
// 0, with less memory and half the bytes gathered.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/optim/adamw.h"
#include "runtime/parallel/gradient_sync.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::parallel {
namespace {

using dsv3::testing_support::random_tokens;
using dsv3::testing_support::tiny_job;
using model::Scalar;

constexpr int64_t kSequences = 8;
constexpr int kSteps = 4;

struct Way {
  int64_t zero_stage = 0;
  DType compute = DType::kBf16;
};

int64_t sent(const comm::Groups& groups) {
  int64_t bytes = 0;
  for (const comm::Lanes* lanes : {&groups.dense, &groups.replicated, &groups.expert}) {
    if (lanes != &groups.dense && *lanes == groups.dense) continue;
    for (const comm::Communicator* lane : *lanes) bytes += lane->traffic().bytes_sent;
  }
  return bytes;
}

// One rank of a run that trains on real gradients, each step in one micro-batch.
class Trainee {
 public:
  Trainee(const Way& way, const comm::Groups& groups)
      : job_(tiny_job()),
        groups_(groups),
        device_(dsv3::testing_support::cpu_device()),
        arena_(*device_) {
    groups_.layout.zero_stage = way.zero_stage;
    const SyncOptions sync{
        .num_layers = 4, .bytes_min = 4096, .zero_stage = groups_.layout.zero_stage};
    model_ = std::make_unique<model::Transformer>(
        job_.model,
        model::TransformerOptions{.sequence = job_.training.seq_length,
                                  .global_sequences = kSequences,
                                  .compute = way.compute,
                                  .groups = &groups_,
                                  .master = master_of(job_.model, groups_, sync, way.compute)},
        arena_);
    model_->params().initialise(job_.training.seed);
    sync_ = std::make_unique<GradientSync>(model_->params(), groups_, sync);
    optimizer_ = std::make_unique<optim::Optimizer>(job_.training, model_->params(),
                                                    sync_->ownership(), arena_);
  }

  // The loss and the norm of its gradients.
  std::vector<double> step(int64_t number) {
    const std::vector<int32_t> all = random_tokens(job_, kSequences);
    const auto share = all.size() / static_cast<size_t>(groups_.data_ranks());
    const auto first = share * static_cast<size_t>(groups_.data_rank());
    model_->step().reset();
    model_->params().zero_grad();
    model_->train_micro_batch(std::span(all).subspan(first, share), sync_.get());
    sync_->finish();
    optimizer_->add_squared_norm(model_->step());
    const ops::Vector<double> scalars = model_->step().scalars();
    groups_.world->all_reduce("scalars", {scalars.data, scalars.size, DType::kF64});
    optimizer_->update(number, model_->step());
    const int64_t before = sent(groups_);
    sync_->gather_parameters();
    gathered_bytes_ = sent(groups_) - before;
    model_->step().read_back();
    return {model_->step().host_scalar(Scalar::kLmLoss),
            model_->step().host_scalar(Scalar::kGradNorm)};
  }

  const model::ParamStore& params() const { return model_->params(); }
  const Ownership& ownership() const { return sync_->ownership(); }
  const tensor::Ledger& ledger() const { return arena_.ledger(); }
  int64_t gathered_bytes() const { return gathered_bytes_; }  // sent in the last step

 private:
  spec::JobSpec job_;
  comm::Groups groups_;
  std::unique_ptr<device::Device> device_;
  tensor::Arena arena_;
  std::unique_ptr<model::Transformer> model_;
  std::unique_ptr<GradientSync> sync_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  int64_t gathered_bytes_ = 0;
};

// What a rank computes with.
std::vector<std::byte> bits_of(const model::ParamStore& params) {
  const auto* compute = static_cast<const std::byte*>(params.compute().data);
  std::vector<std::byte> bits(compute, compute + params.compute().bytes());
  const Range rest{params.layout().compute_elements, params.layout().elements};
  const auto* read = reinterpret_cast<const std::byte*>(params.master_at(rest));
  bits.insert(bits.end(), read, read + rest.size() * 4);
  return bits;
}

class MasterRanks : public ::testing::TestWithParam<plan::Layout> {
 protected:
  // In every rank of the layout.
  void in_ranks(const std::function<void(const comm::Groups&)>& body) {
    const plan::Layout& layout = GetParam();
    const auto world = static_cast<int>(layout.world_size());
    const std::string rendezvous = comm::unique_rendezvous();
    comm::all_ranks(world, [&](int rank) {
      ::omp_set_num_threads(1);
      const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
      const comm::RankGroups groups(*mesh, layout, false);
      body(groups.groups());
      groups.groups().world->barrier("end");
    });
  }
};

TEST_P(MasterRanks, TrainWithTheLossesAndTheBitsOfZero0) {
  in_ranks([](const comm::Groups& groups) {
    Trainee whole({.zero_stage = 0}, groups), pieces({.zero_stage = 1}, groups),
        windows({.zero_stage = 2}, groups);
    double first = 0, last = 0;
    for (int step = 1; step <= kSteps; ++step) {
      const std::vector<double> want = whole.step(step);
      comm::expect(pieces.step(step) == want, "ZeRO 1: another loss or norm");
      // Its pieces are others, so the norm is added up in another order.
      const std::vector<double> got = windows.step(step);
      comm::expect(got[0] == want[0], "ZeRO 2: another loss");
      comm::expect(std::abs(got[1] - want[1]) <= 1e-14 * want[1], "ZeRO 2: another norm");
      comm::expect(bits_of(pieces.params()) == bits_of(whole.params()), "ZeRO 1: other bits");
      comm::expect(bits_of(windows.params()) == bits_of(whole.params()), "ZeRO 2: other bits");
      (step == 1 ? first : last) = want[0];
    }
    comm::expect(last < 0.99 * first, "it learns");
  });
}

// The ledger's "weights" are the pieces and what is read in f32; "weights/compute" stays whole.
TEST_P(MasterRanks, HaveTheirPiecesInMemory) {
  in_ranks([](const comm::Groups& groups) {
    const auto weights = [](const Trainee& t) { return t.ledger().peak_bytes("weights"); };
    const auto compute = [](const Trainee& t) { return t.ledger().peak_bytes("weights/compute"); };
    const Trainee whole({.zero_stage = 0}, groups), pieces({.zero_stage = 1}, groups),
        exact({.zero_stage = 1, .compute = DType::kF32}, groups);
    const model::ParamLayout& layout = whole.params().layout();
    int64_t here = layout.elements - layout.compute_elements;
    for (const Range& range : pieces.ownership().updated)
      here += std::max<int64_t>(0, std::min(range.end, layout.compute_elements) - range.begin);
    comm::expect(weights(whole) == 4 * layout.elements, "ZeRO 0 has all of it");
    comm::expect(weights(exact) == 4 * layout.elements, "f32 has all of it");
    comm::expect(weights(pieces) == 4 * here, "ZeRO 1 has its pieces");
    comm::expect(weights(pieces) < weights(whole) * 7 / 10, "and they are less");
    comm::expect(compute(pieces) == 2 * layout.compute_elements, "the copy is whole");
    comm::expect(compute(whole) == compute(pieces), "the copy is whole");
  });
}

// Over all ranks the gather of a class sends (ranks − 1) times its bytes to each: two an element of
// the compute copy, four of the master.
TEST_P(MasterRanks, GatherTheComputeCopy) {
  in_ranks([](const comm::Groups& groups) {
    const auto gathered = [&groups](DType compute) {
      Trainee one({.zero_stage = 1, .compute = compute}, groups);
      one.step(1);
      // Of every class what the ranks that sum it hold between them, once.
      const model::ParamLayout& layout = one.params().layout();
      double expected = 0;
      for (size_t i = 0; i < layout.blocks.size(); ++i) {
        const model::ParamBlock& block = layout.blocks[i];
        const bool last = i + 1 == layout.blocks.size();
        const int64_t size = (last ? layout.elements : layout.blocks[i + 1].offset) - block.offset;
        const bool half = compute == DType::kBf16 && block.offset < layout.compute_elements;
        const int64_t ranks = sum_place(block.cls, groups.layout, groups.position).ranks;
        expected +=
            static_cast<double>(size * (half ? 2 : 4) * (ranks - 1)) / static_cast<double>(ranks);
      }
      double numbers[2] = {static_cast<double>(one.gathered_bytes()), expected};
      groups.world->all_reduce("bytes", {numbers, 2, DType::kF64});
      comm::expect(std::abs(numbers[0] - numbers[1]) < 0.5,
                   std::to_string(numbers[0]) + " bytes, not " + std::to_string(numbers[1]));
      return numbers[0];
    };
    comm::expect(gathered(DType::kBf16) < 0.55 * gathered(DType::kF32), "about half");
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, MasterRanks,
                         ::testing::Values(plan::Layout{.dp = 2}, plan::Layout{.ep = 2, .dp = 2},
                                           plan::Layout{.dp = 4}, plan::Layout{.cp = 2, .dp = 2},
                                           plan::Layout{.tp = 2, .ep = 2}),
                         [](const auto& test) {
                           const plan::Layout& l = test.param;
                           return "TP" + std::to_string(l.tp) + "CP" + std::to_string(l.cp) + "EP" +
                                  std::to_string(l.ep) + "DP" + std::to_string(l.dp);
                         });

}  // namespace
}  // namespace dsv3::parallel
