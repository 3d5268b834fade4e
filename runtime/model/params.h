// ParamStore: the model's parameters and their gradients, flat, with a view for every matrix and
// every Hugging Face name.
//
// Laws: the master copy is f32 and the only truth; the compute copy (bf16, where matrices are
// multiplied in bf16) is derived from it. Gradients are f32 and accumulate until zero_grad(). Norm
// gains and the router's weight are always read from the master.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "configs/spec/job_spec.h"
#include "runtime/model/param_layout.h"
#include "runtime/tensor/arena.h"

namespace dsv3::model {

// A linear layer's weight [out, in] in the dtype it is multiplied in, and its f32 gradient.
struct Weight {
  ops::ConstMatrix value;
  ops::Matrix grad;
};
// A norm's gain [n], f32.
struct Gain {
  ops::Vector<const float> value;
  ops::Vector<float> grad;
};
// All experts' weights of one projection: [experts, out, in].
struct ExpertWeight {
  ops::ConstStack value;
  ops::Stack grad;
};

class ParamStore {
 public:
  // Takes the memory from `arena`, zeroed. compute: kF32 (the master is multiplied) or kBf16.
  // Without gradients the model can only run forward.
  ParamStore(const spec::ModelSpec& model, tensor::Arena& arena, DType compute,
             bool gradients = true, const plan::Layout& cut = {},
             const plan::RankPosition& position = {});
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  const ParamLayout& layout() const { return layout_; }
  tensor::Arena& arena() const { return arena_; }
  DType compute_dtype() const { return compute_dtype_; }
  const tensor::Tensor& master() const { return master_; }    // [elements] f32
  const tensor::Tensor& grad() const { return grad_; }        // [grad_elements] f32, or empty
  const tensor::Tensor& compute() const { return compute_; }  // [decay_elements] bf16, or empty

  // Where the gradient of flat element `offset` is accumulated in a micro-batch. Requires
  // gradients.
  float* grad_at(int64_t offset) const;
  // Under ZeRO 2 (parallel/gradient_sync.h): the sums over ranks and micro-batches, of the elements
  // that this rank updates, one behind the other [n] f32; else empty, and the sums are in grad().
  const tensor::Tensor& grad_sums() const { return grad_sums_; }
  void keep_grad_sums(int64_t elements);

  // Views by block name (param_layout.h); an unknown name or another shape of block aborts. The
  // f32 weight is the master's.
  Weight weight(std::string_view block) const;
  Weight f32_weight(std::string_view block) const;
  Gain gain(std::string_view block) const;
  ExpertWeight experts(std::string_view block) const;

  // The slice of a Hugging Face name; nullptr when the model has no such tensor.
  const ParamSlice* find(std::string_view hf_name) const;

  // Writes initial values: CounterRng(seed, name_key(Hugging Face name)).normal(index) · init_std,
  // or ones. A value depends on seed, name and index alone: never on order, layout, threads or
  // dtype.
  void initialise(int64_t seed);
  void zero_grad();
  // Derives the compute copy; call after writing the master (the optimizer does its own).
  void refresh_compute();
  // The same for what of elements [begin, end) has one.
  void refresh_compute(int64_t begin, int64_t end);

  // Host copies of elements [begin, begin + out.size()) of a flat f32 buffer of this store's
  // layout (master, grad, a moment).
  void read(const tensor::Tensor& flat, int64_t begin, std::span<float> out) const;
  void write(const tensor::Tensor& flat, int64_t begin, std::span<const float> values);

 private:
  const ParamBlock& block(std::string_view name) const;
  float* grad_of(const ParamBlock& block) const {
    return grad_.empty() ? nullptr : grad_.as<float>() + block.grad_offset;
  }

  tensor::Arena& arena_;
  double init_std_;
  DType compute_dtype_;
  ParamLayout layout_;
  tensor::Tensor master_, grad_, grad_sums_, compute_;
  std::unordered_map<std::string, size_t> block_by_name_, slice_by_name_;
};

}  // namespace dsv3::model
