// A rank's state in which every element is known: a hash of its tensor's name and its place in the
// whole tensor.
//
// Law: what a rank should hold is found here element by element from the slices and the owned
// ranges, never by the code that saves or loads. A compute copy has the master's words here.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "configs/spec/model_tensors.h"
#include "runtime/parallel/ownership.h"
#include "runtime/train/state_pieces.h"

namespace dsv3::train::testing_support {

inline uint32_t known_word(const std::string& name, int64_t index) {
  return static_cast<uint32_t>(CounterRng(1, name_key(name)).bits(static_cast<uint64_t>(index)));
}

// Sizes that eight ranks can cut along any axis.
inline spec::ModelSpec cuttable_model() {
  spec::ModelSpec model;
  model.vocab_size = 32;
  model.num_layers = 8;
  model.d_model = 16;
  model.num_heads = 8;
  model.dense_intermediate_size = 16;
  model.mtp_layers = 1;
  model.mla = {.kv_lora_rank = 5,
               .q_lora_rank = 7,
               .qk_nope_head_dim = 2,
               .qk_rope_head_dim = 2,
               .v_head_dim = 3};
  model.moe.num_experts = 8;
  model.moe.num_experts_per_token = 2;
  model.moe.expert_intermediate_size = 8;
  model.moe.num_shared_experts = 1;
  model.moe.first_k_dense = 1;
  model.moe.use_aux_loss_free = true;
  return model;
}

class SyntheticState {
 public:
  SyntheticState(const spec::ModelSpec& model, const plan::Layout& cut, int64_t rank, DType moments,
                 DType compute)
      : params_(model::param_layout(model, cut, plan::RankGrid(cut).position(rank))),
        infos_(spec::model_buffers(model)),
        moments_(moments) {
    const parallel::BucketOptions options{
        .num_layers = model.num_layers + model.mtp_layers,
        .bytes_min = 3000,
        .copies = cut.pp > 1 && plan::copies_embedding(model, cut)};
    ownership_ = parallel::ownership(parallel::gradient_buckets(params_, cut, options), cut,
                                     params_.position, cut.zero_stage);
    master_ranges_ = parallel::master_ranges(params_, ownership_.updated, compute);
    master_.resize(static_cast<size_t>(parallel::num_elements(master_ranges_)) * 4);
    if (compute == DType::kBf16) compute_.resize(static_cast<size_t>(params_.compute_elements) * 4);
    const auto moment_bytes =
        static_cast<size_t>(parallel::num_elements(ownership_.updated)) * dtype_bytes(moments);
    exp_avg_.resize(moment_bytes);
    exp_avg_sq_.resize(moment_bytes);
    for (const spec::TensorInfo& info : infos_)
      buffers_.emplace_back(static_cast<size_t>(info.num_elements()) * 4);
  }

  // Every element that belongs to a tensor; what aligns blocks stays 0.
  void fill() {
    const std::vector<int64_t> moment_of = places(ownership_.updated);
    for (const model::ParamSlice& slice : params_.slices) {
      const std::string& name = slice.info.name;
      const int64_t width = slice.info.shape.back();
      for (int64_t i = 0; i < slice.box.num_elements(); ++i) {
        const int64_t index =
            (slice.box.row + i / slice.box.cols) * width + slice.box.col + i % slice.box.cols;
        set_weight(slice.offset + i, known_word(name, index));
        const int64_t at = moment_of[static_cast<size_t>(slice.offset + i)];
        if (at < 0) continue;
        put(exp_avg_, moments_, at, known_word("exp_avg." + name, index));
        put(exp_avg_sq_, moments_, at, known_word("exp_avg_sq." + name, index));
      }
    }
    for (size_t b = 0; b < infos_.size(); ++b)
      for (int64_t i = 0; i < infos_[b].num_elements(); ++i)
        put(buffers_[b], DType::kF32, i, known_word(infos_[b].name, i));
  }

  StateBuffers view() {
    const auto flat = [](std::vector<std::byte>& bytes, DType dtype) {
      return tensor::Tensor{
          bytes.data(), dtype, {static_cast<int64_t>(bytes.size() / dtype_bytes(dtype))}};
    };
    StateBuffers state{params_,
                       ownership_,
                       master_ranges_,
                       flat(master_, DType::kF32),
                       flat(exp_avg_, moments_),
                       flat(exp_avg_sq_, moments_),
                       infos_,
                       {}};
    for (auto& buffer : buffers_) state.buffer_data.push_back(buffer.data());
    return state;
  }

  // What was read of a piece, from its element `at` on.
  void take(const StateTensor& piece, int64_t at, std::span<const std::byte> bytes) {
    const auto size = static_cast<int64_t>(dtype_bytes(piece.dtype));
    if (piece.weight < 0) {
      std::memcpy(static_cast<std::byte*>(piece.data) + at * size, bytes.data(), bytes.size());
      return;
    }
    for (int64_t i = 0; i < static_cast<int64_t>(bytes.size()) / size; ++i) {
      uint32_t word = 0;
      std::memcpy(&word, bytes.data() + i * size, sizeof(word));
      set_weight(piece.weight + at + i, word);
    }
  }

  bool operator==(const SyntheticState& other) const {
    return master_ == other.master_ && compute_ == other.compute_ && exp_avg_ == other.exp_avg_ &&
           exp_avg_sq_ == other.exp_avg_sq_ && buffers_ == other.buffers_;
  }

 private:
  // Where each flat element lies in a buffer of the ranges, one behind the other; −1: nowhere.
  std::vector<int64_t> places(const std::vector<parallel::Range>& ranges) const {
    std::vector<int64_t> places(static_cast<size_t>(params_.elements), -1);
    int64_t at = 0;
    for (const parallel::Range& range : ranges)
      for (int64_t i = range.begin; i < range.end; ++i) places[static_cast<size_t>(i)] = at++;
    return places;
  }
  void set_weight(int64_t flat, uint32_t word) {
    if (master_at_.empty()) master_at_ = places(master_ranges_);
    const int64_t at = master_at_[static_cast<size_t>(flat)];
    if (at >= 0) put(master_, DType::kF32, at, word);
    if (!compute_.empty() && flat < params_.compute_elements)
      put(compute_, DType::kF32, flat, word);
  }
  static void put(std::vector<std::byte>& bytes, DType dtype, int64_t at, uint32_t word) {
    const size_t size = dtype_bytes(dtype);
    std::memcpy(bytes.data() + static_cast<size_t>(at) * size, &word, size);
  }

  model::ParamLayout params_;
  parallel::Ownership ownership_;
  std::vector<spec::TensorInfo> infos_;
  DType moments_;
  std::vector<parallel::Range> master_ranges_;
  std::vector<int64_t> master_at_;
  std::vector<std::byte> master_, compute_, exp_avg_, exp_avg_sq_;
  std::vector<std::vector<std::byte>> buffers_;
};

}  // namespace dsv3::train::testing_support
