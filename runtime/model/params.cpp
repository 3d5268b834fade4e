// Storage, views and initial values of parameters; see params.h.
#include "runtime/model/params.h"

#include <algorithm>

#include "base/rng.h"
#include "kernels/ops/ops.h"

namespace dsv3::model {

ParamStore::ParamStore(const spec::ModelSpec& model, tensor::Arena& arena, DType compute,
                       bool gradients, const plan::Layout& cut, const plan::RankPosition& position)
    : arena_(arena),
      init_std_(model.init_std),
      compute_dtype_(compute),
      layout_(param_layout(model, cut, position)) {
  master_ = arena.persistent("weights", DType::kF32, {layout_.elements});
  if (gradients) grad_ = arena.persistent("gradients", DType::kF32, {layout_.grad_elements});
  if (compute == DType::kBf16)
    compute_ = arena.persistent("weights/compute", DType::kBf16, {layout_.decay_elements});
  for (size_t i = 0; i < layout_.blocks.size(); ++i) block_by_name_[layout_.blocks[i].name] = i;
  for (size_t i = 0; i < layout_.slices.size(); ++i)
    slice_by_name_[layout_.slices[i].info.name] = i;
}

const ParamBlock& ParamStore::block(std::string_view name) const {
  const auto found = block_by_name_.find(std::string(name));
  DSV3_CHECK(found != block_by_name_.end(), name);
  return layout_.blocks[found->second];
}

float* ParamStore::grad_at(int64_t offset) const {
  const auto after =
      std::upper_bound(layout_.blocks.begin(), layout_.blocks.end(), offset,
                       [](int64_t at, const ParamBlock& b) { return at < b.offset; });
  DSV3_CHECK(!grad_.empty() && after != layout_.blocks.begin());
  const ParamBlock& block = *std::prev(after);
  return grad_of(block) + (offset - block.offset);
}

void ParamStore::keep_grad_sums(int64_t elements) {
  grad_sums_ = arena_.persistent("gradients/sums", DType::kF32, {elements});
}

Weight ParamStore::f32_weight(std::string_view name) const {
  const ParamBlock& b = block(name);
  DSV3_CHECK(b.groups == 1, name);
  return {ops::ConstMatrix(master_.as<float>() + b.offset, DType::kF32, b.rows, b.cols),
          ops::Matrix(grad_of(b), DType::kF32, b.rows, b.cols)};
}

Weight ParamStore::weight(std::string_view name) const {
  Weight weight = f32_weight(name);
  if (compute_dtype_ == DType::kBf16) {
    const ParamBlock& b = block(name);
    weight.value = ops::ConstMatrix(compute_.as<Bf16>() + b.offset, DType::kBf16, b.rows, b.cols);
  }
  return weight;
}

Gain ParamStore::gain(std::string_view name) const {
  const ParamBlock& b = block(name);
  DSV3_CHECK(b.groups == 1 && b.rows == 1, name);
  return {ops::Vector<const float>(master_.as<float>() + b.offset, b.cols),
          ops::Vector<float>(grad_of(b), b.cols)};
}

ExpertWeight ParamStore::experts(std::string_view name) const {
  const ParamBlock& b = block(name);
  ExpertWeight weight{
      ops::ConstStack(master_.as<float>() + b.offset, DType::kF32, b.groups, b.rows, b.cols),
      ops::Stack(grad_of(b), DType::kF32, b.groups, b.rows, b.cols)};
  if (compute_dtype_ == DType::kBf16) {
    weight.value =
        ops::ConstStack(compute_.as<Bf16>() + b.offset, DType::kBf16, b.groups, b.rows, b.cols);
  }
  return weight;
}

const ParamSlice* ParamStore::find(std::string_view hf_name) const {
  const auto found = slice_by_name_.find(std::string(hf_name));
  return found == slice_by_name_.end() ? nullptr : &layout_.slices[found->second];
}

void ParamStore::initialise(int64_t seed) {
  std::vector<float> values;
  for (const ParamSlice& slice : layout_.slices) {
    const plan::Box& box = slice.box;
    const int64_t n = box.num_elements(), whole_cols = slice.info.shape.back();
    values.resize(static_cast<size_t>(n));
    if (slice.info.init == spec::InitRule::kNormal) {
      const CounterRng rng(static_cast<uint64_t>(seed), name_key(slice.info.name));
      const float deviation = static_cast<float>(init_std_);
#pragma omp parallel for schedule(static) if (n > 4096)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = box.row + i / box.cols, col = box.col + i % box.cols;
        const auto index = static_cast<uint64_t>(row * whole_cols + col);  // in the whole tensor
        values[static_cast<size_t>(i)] = rng.normal(index) * deviation;
      }
    } else {
      std::fill(values.begin(), values.end(),
                slice.info.init == spec::InitRule::kOnes ? 1.0f : 0.0f);
    }
    write(master_, slice.offset, values);
  }
  refresh_compute();
}

void ParamStore::zero_grad() {
  for (const tensor::Tensor* flat : {&grad_, &grad_sums_}) {
    if (flat->empty()) continue;
    arena_.device().backend().fill_zero(flat->data, static_cast<size_t>(flat->bytes()),
                                        arena_.device().stream());
  }
}

void ParamStore::refresh_compute() {
  refresh_compute(0, layout_.decay_elements);
}

void ParamStore::refresh_compute(int64_t begin, int64_t end) {
  const int64_t n = std::min(end, layout_.decay_elements) - begin;
  if (compute_.empty() || n <= 0) return;
  ops::cast(arena_.context(),
            {.x = ops::ConstMatrix(master_.as<float>() + begin, DType::kF32, 1, n),
             .y = ops::Matrix(compute_.as<Bf16>() + begin, DType::kBf16, 1, n)});
}

void ParamStore::read(const tensor::Tensor& flat, int64_t begin, std::span<float> out) const {
  DSV3_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= flat.num_elements());
  arena_.device().backend().copy_to_host(out.data(), flat.as<float>() + begin, out.size_bytes(),
                                         arena_.device().stream());
  arena_.device().synchronize();
}

void ParamStore::write(const tensor::Tensor& flat, int64_t begin, std::span<const float> values) {
  DSV3_CHECK(begin >= 0 && begin + static_cast<int64_t>(values.size()) <= flat.num_elements());
  arena_.device().backend().copy_to_device(flat.as<float>() + begin, values.data(),
                                           values.size_bytes(), arena_.device().stream());
  arena_.device().synchronize();
}

}  // namespace dsv3::model
