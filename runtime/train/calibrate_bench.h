// Timing one op: operands from two pools of random values, and the call repeated.
//
// Law: see calibrate.h. Only for runtime/train/calibrate*.cpp.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "cluster/plan/calibration.h"
#include "kernels/ops/cost.h"
#include "kernels/ops/ops.h"
#include "runtime/comm/communicator.h"
#include "runtime/tensor/arena.h"

namespace dsv3::train {

class Bench {
 public:
  // arena and group (or null) outlive it; `set` gets the points.
  Bench(tensor::Arena& arena, comm::Communicator* group, plan::CalibrationSet* set);

  tensor::Arena& arena() { return arena_; }
  // The same measurements follow again, in the same order: the shorter time is kept.
  void begin_pass() { next_ = 0; }
  // The operands of the op before are no longer used.
  void begin_op() { warm_used_ = {}; }
  // [rows, cols] that no call before used lately (as far as the pool goes), or that all calls of
  // this op use. dtype: f32 or bf16.
  ops::Matrix cold(DType dtype, int64_t rows, int64_t cols);
  ops::Matrix warm(DType dtype, int64_t rows, int64_t cols);
  ops::Vector<float> cold(int64_t size);
  ops::Vector<float> warm(int64_t size);
  ops::Stack cold_stack(DType dtype, int64_t groups, int64_t rows, int64_t cols);
  // Whether that many bytes fit into the cold pool at once.
  bool fits(double bytes) const;

  // Times run(context, make()) with new cold operands each time. `like`: class, groups and head
  // dims; the rest is from the arguments.
  template <typename Make, typename Run>
  void measure(std::string_view name, plan::StepOp like, const Make& make, const Run& run) {
    const auto args = make();
    const ops::OpSignature signature = ops::signature_of(args);
    const ops::OpCost cost = ops::cost_of(args);
    like.shape = signature.shape;
    like.flops = cost.flops;
    like.bytes = cost.bytes;
    const ops::Context context = arena_.context();
    add(name, ops::role_name(signature.role), signature.dtype, like,
        seconds([&] { run(context, make()); }));
  }
  // A call that is no op with arguments of its own (a copy): [1, bytes / 4] of f32.
  void measure_copy(std::string_view name, double bytes_moved, int64_t bytes,
                    const std::function<void()>& call);

  // The lower quartile of repeated calls after one.
  double seconds(const std::function<void()>& call);
  // The same of a call that all ranks make together, as often on each.
  double seconds_together(const std::function<void()>& call);

 private:
  struct Pool {
    tensor::Tensor memory;
    int64_t used = 0;  // bytes
  };
  struct Used {
    int64_t f32 = 0, bf16 = 0;
  };
  void add(std::string_view name, std::string_view role, DType dtype, const plan::StepOp& like,
           double seconds);
  void* take_cold(DType dtype, int64_t elements);
  void* take_warm(DType dtype, int64_t elements);

  tensor::Arena& arena_;
  comm::Communicator* group_;
  plan::CalibrationSet* set_;
  Pool cold_f32_, cold_bf16_;
  tensor::Tensor warm_f32_, warm_bf16_;
  Used warm_used_;
  size_t next_ = 0;  // point of this pass
};

// The parts, each with its sizes (calibrate_*.cpp).
void measure_products(Bench& bench, DType dtype, bool quick);
void measure_grouped_products(Bench& bench, DType dtype, bool quick);
void measure_attention(Bench& bench, DType dtype, bool quick);
void measure_rows(Bench& bench, DType dtype, bool quick);
void measure_routing(Bench& bench, DType dtype, bool quick);
void measure_optimizer(Bench& bench, bool quick);
// What a reference model's steps add to the sum of their ops by `set`; the shortest of some rounds.
plan::InStep measure_in_step(device::Device& device, comm::Communicator* group, DType dtype,
                             int rounds, const plan::CalibrationSet& set);

}  // namespace dsv3::train
