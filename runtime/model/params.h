// ParamStore: the model's parameters and their gradients, flat, with a view for every matrix and
// every Hugging Face name.
//
// Laws: the master copy is f32 and the only truth; the compute copy (bf16, where matrices are
// multiplied in bf16) is derived from it and whole on every rank. Where ranks share out the update
// (ZeRO) a rank with a compute copy may keep the master of some ranges alone, one behind the other:
// of what it updates, and of what is always read in f32 (norm gains, the router's weight).
// Gradients are f32 and accumulate until zero_grad(). (Mixed precision with f32 masters:
// Micikevicius et al. 2018, arXiv 1710.03740; masters in pieces: ZeRO, Rajbhandari et al. 2020,
// 1910.02054.)
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

struct StoreOptions {
  DType compute = DType::kF32;  // kF32 (the master is multiplied) or kBf16
  bool gradients = true;        // without them the model can only run forward
  // How the model is cut, and which rank this is.
  plan::Layout cut;
  plan::RankPosition position;
  // The flat elements whose f32 master is here; none: all. As parallel::master_ranges() says:
  // ascending, disjoint, at least what is read in f32.
  std::vector<Range> master;
};

class ParamStore {
 public:
  // Takes the memory from `arena`, zeroed.
  ParamStore(const spec::ModelSpec& model, tensor::Arena& arena, const StoreOptions& options);
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  const ParamLayout& layout() const { return layout_; }
  tensor::Arena& arena() const { return arena_; }
  DType compute_dtype() const { return compute_dtype_; }
  // [elements of master_ranges()] f32, one range behind the other; of a rank alone: in the layout
  // of the parameters.
  const tensor::Tensor& master() const { return master_; }
  const std::vector<Range>& master_ranges() const { return master_ranges_; }
  const tensor::Tensor& grad() const { return grad_; }        // [grad_elements] f32, or empty
  const tensor::Tensor& compute() const { return compute_; }  // [compute_elements] bf16, or empty

  // Where the master of flat elements `range` lies, contiguous. Requires that all of it is here.
  float* master_at(const Range& range) const;

  // Where the gradient of flat element `offset` is accumulated in a micro-batch. Requires
  // gradients.
  float* grad_at(int64_t offset) const;
  // Under ZeRO 2 (parallel/gradient_sync.h): the sums over ranks and micro-batches, of the elements
  // that this rank updates, one behind the other [n] f32; else empty, and the sums are in grad().
  const tensor::Tensor& grad_sums() const { return grad_sums_; }
  void keep_grad_sums(int64_t elements);

  // Views by block name (param_layout.h); an unknown name or another shape of block aborts, as does
  // an f32 weight or gain that lies in front of compute_elements.
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
  // Makes flat elements [begin, begin + values.size()) these values: what of their master is here,
  // and the compute copy.
  void set(int64_t begin, std::span<const float> values);
  void zero_grad();

  // Host copies of elements [begin, begin + out.size()) of a flat f32 buffer.
  void read(const tensor::Tensor& flat, int64_t begin, std::span<float> out) const;
  void write(const tensor::Tensor& flat, int64_t begin, std::span<const float> values);

 private:
  void set_compute(int64_t begin, std::span<const float> values);
  const ParamBlock& block(std::string_view name) const;
  const void* multiplied(const ParamBlock& block) const;  // in the compute dtype
  const float* read_in_f32(const ParamBlock& block) const;
  float* grad_of(const ParamBlock& block) const {
    return grad_.empty() ? nullptr : grad_.as<float>() + block.grad_offset;
  }

  tensor::Arena& arena_;
  double init_std_;
  DType compute_dtype_;
  ParamLayout layout_;
  std::vector<Range> master_ranges_;
  std::vector<int64_t> master_begins_;  // where each begins in master_
  tensor::Tensor master_, grad_, grad_sums_, compute_;
  std::unordered_map<std::string, size_t> block_by_name_, slice_by_name_;
};

}  // namespace dsv3::model
