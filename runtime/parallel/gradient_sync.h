// GradientSync: sums the gradients of the ranks that hold the same parameters, while backward still
// computes the rest; and, where each rank updates its pieces alone, brings the others' back.
//
// Laws: (1) what is summed (buckets.h) follows from the parameters' layout alone, and a sum adds in
// the order of the ranks: overlap, lanes and ZeRO 0 or 1 change no bit of it. (2) The ranks of a
// sum start their sums in the same order: they run the same schedule. (3) A bucket is on its way
// only when nothing more is added to it. Sums: plan::ParamClass; a copied embedding is summed over
// its class first, then over the two stages that hold it.
//
// ZeRO 0 sums everywhere, ZeRO 1 into the pieces of their owners, both in the last micro-batch.
// ZeRO 2 (model::gradients_in_windows()) sums a layer's matrices after EVERY micro-batch: a layer's
// gradients lie in one of two windows; while the next layer is computed in the other they travel,
// the own pieces are then added to params.grad_sums(), and the window is zeroed for the next layer
// but one. Embedding, head, norms and other vectors are accumulated whole and summed at the end.
//
// After the update under ZeRO 1 and 2 each rank has new values of its pieces. They are gathered as
// they are multiplied: of [0, params.compute_elements) the compute copy where there is one, which
// its owner has rounded (half the bytes of the master, which stays in pieces: master_of()), else
// and of what is always read in f32 the master.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/comm/groups.h"
#include "runtime/model/params.h"
#include "runtime/model/pass.h"
#include "runtime/parallel/ownership.h"

namespace dsv3::parallel {

struct SyncOptions {
  int64_t num_layers = 0;  // with MTP modules
  bool overlap = true;     // false: sums are started at the end alone, or waited for at once
  int64_t bytes_min = int64_t{1} << 20;
  int64_t zero_stage = 0;  // 2 is 1 where the store's layout has no windows
};

// The elements whose f32 master a rank keeps under a GradientSync of these groups and options: what
// its store is made with.
std::vector<Range> master_of(const spec::ModelSpec& model, const comm::Groups& groups,
                             const SyncOptions& options, DType compute);

// Of one rank. Gradients must lie in memory that the communicator can read (CPU). Any layout, that
// of a rank alone too: nothing is sent then.
class GradientSync final : public model::BackwardObserver {
 public:
  // params and groups outlive it; `groups` are those of the store's cut, its master is that of
  // master_of(). Under ZeRO 2 takes "gradients/sums" from the store's arena.
  GradientSync(model::ParamStore& params, const comm::Groups& groups, const SyncOptions& options);

  // Before a micro-batch of a chunk: whether it is the chunk's last. In others the events mean
  // nothing (ZeRO 0, 1), or layers alone (ZeRO 2, which must hear every micro-batch). Without a
  // call it is the last.
  void begin_micro_batch(bool last) { last_ = last; }
  // Each at most once a micro-batch; layers in any order, the same on all ranks of a stage. Under
  // ZeRO 2 head_done() comes first, and layers in order, up or down, each complete before the next
  // begins.
  void head_done() override;
  void layer_done(int64_t layer) override;
  // After the step's last backward pass: starts what is left and waits. The sums, the same bits on
  // every rank that has them, are then in params.grad(): all under ZeRO 0, those of
  // ownership().updated under ZeRO 1 (the rest is spoiled); under ZeRO 2 in params.grad_sums().
  // Throws Failure.
  void finish();

  const Ownership& ownership() const { return ownership_; }
  // After the update: gathers the pieces that others updated into what is multiplied, compute copy
  // or master. Nothing under ZeRO 0. Throws Failure.
  void gather_parameters();

 private:
  struct Sum {
    Bucket bucket;
    Range piece;                         // this rank's
    float* grad = nullptr;               // the bucket's
    comm::Communicator* lane = nullptr;  // null: a rank alone sums it
    std::vector<int64_t> counts;         // elements of the members' pieces
    std::string name;
    float* kept = nullptr;  // ZeRO 2: the piece in grad_sums()
    size_t events_missing = 0;
    bool started = false;
    comm::Ticket ticket = 0;

    float* own() const { return grad + (piece.begin - bucket.range.begin); }
  };
  // Of a bucket what has one dtype.
  struct Gather {
    comm::Communicator* lane = nullptr;
    std::string name;
    comm::Buffer piece, whole;
    std::vector<int64_t> counts;
    comm::Ticket ticket = 0;
  };

  const comm::Lanes& lanes_of(plan::ParamClass cls) const;
  void add_sum(Bucket bucket, size_t number);
  void add_gathers(const Sum& sum, size_t number);
  void keep_sums();
  void event(int64_t event);
  void layer_of_window_done(int64_t event);
  void start(Sum& sum);
  void keep(Sum& sum);
  void empty_windows(int64_t except_event);
  void sum_copies(Sum& sum);

  model::ParamStore& params_;
  const comm::Groups& groups_;
  SyncOptions options_;
  Ownership ownership_;
  std::vector<Sum> sums_;
  std::vector<Gather> gathers_;  // none under ZeRO 0
  std::vector<std::vector<size_t>> sums_of_event_;
  bool last_ = true;
  bool windows_ = false;
};

}  // namespace dsv3::parallel
