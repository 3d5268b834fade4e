// Storage, views and initial values of parameters; see params.h.
#include "runtime/model/params.h"

#include <algorithm>

#include "base/rng.h"
#include "kernels/ops/ops.h"

namespace dsv3::model {

ParamStore::ParamStore(const spec::ModelSpec& model, tensor::Arena& arena,
                       const StoreOptions& options)
    : arena_(arena),
      init_std_(model.init_std),
      compute_dtype_(options.compute),
      layout_(param_layout(model, options.cut, options.position)),
      master_ranges_(options.master) {
  if (master_ranges_.empty()) master_ranges_ = {{0, layout_.elements}};
  int64_t here = 0, end = 0;
  for (const Range& range : master_ranges_) {
    DSV3_CHECK(end <= range.begin && range.begin < range.end && range.end <= layout_.elements);
    master_begins_.push_back(here);
    here += range.size();
    end = range.end;
  }
  DSV3_CHECK(options.compute == DType::kBf16 || here == layout_.elements, "it is multiplied");
  DSV3_CHECK(
      layout_.compute_elements == layout_.elements ||
          (end == layout_.elements && master_ranges_.back().begin <= layout_.compute_elements),
      "it is read in f32");
  master_ = arena.persistent("weights", DType::kF32, {here});
  if (options.gradients)
    grad_ = arena.persistent("gradients", DType::kF32, {layout_.grad_elements});
  if (options.compute == DType::kBf16)
    compute_ = arena.persistent("weights/compute", DType::kBf16, {layout_.compute_elements});
  for (size_t i = 0; i < layout_.blocks.size(); ++i) block_by_name_[layout_.blocks[i].name] = i;
  for (size_t i = 0; i < layout_.slices.size(); ++i)
    slice_by_name_[layout_.slices[i].info.name] = i;
}

const ParamBlock& ParamStore::block(std::string_view name) const {
  const auto found = block_by_name_.find(std::string(name));
  DSV3_CHECK(found != block_by_name_.end(), name);
  return layout_.blocks[found->second];
}

float* ParamStore::master_at(const Range& range) const {
  const auto found =
      std::upper_bound(master_ranges_.begin(), master_ranges_.end(), range.begin,
                       [](int64_t begin, const Range& kept) { return begin < kept.end; });
  DSV3_CHECK(found != master_ranges_.end() && found->begin <= range.begin &&
             range.end <= found->end);
  const int64_t at = master_begins_[static_cast<size_t>(found - master_ranges_.begin())];
  return master_.as<float>() + at + (range.begin - found->begin);
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

const void* ParamStore::multiplied(const ParamBlock& b) const {
  DSV3_CHECK(b.offset < layout_.compute_elements, b.name);
  if (compute_dtype_ == DType::kBf16) return compute_.as<Bf16>() + b.offset;
  return master_at({b.offset, b.offset + b.num_elements()});
}

const float* ParamStore::read_in_f32(const ParamBlock& b) const {
  DSV3_CHECK(b.offset >= layout_.compute_elements, b.name);
  return master_at({b.offset, b.offset + b.num_elements()});
}

Weight ParamStore::f32_weight(std::string_view name) const {
  const ParamBlock& b = block(name);
  DSV3_CHECK(b.groups == 1, name);
  return {ops::ConstMatrix(read_in_f32(b), DType::kF32, b.rows, b.cols),
          ops::Matrix(grad_of(b), DType::kF32, b.rows, b.cols)};
}

Weight ParamStore::weight(std::string_view name) const {
  const ParamBlock& b = block(name);
  DSV3_CHECK(b.groups == 1, name);
  return {ops::ConstMatrix(multiplied(b), compute_dtype_, b.rows, b.cols),
          ops::Matrix(grad_of(b), DType::kF32, b.rows, b.cols)};
}

Gain ParamStore::gain(std::string_view name) const {
  const ParamBlock& b = block(name);
  DSV3_CHECK(b.groups == 1 && b.rows == 1, name);
  return {ops::Vector<const float>(read_in_f32(b), b.cols), ops::Vector<float>(grad_of(b), b.cols)};
}

ExpertWeight ParamStore::experts(std::string_view name) const {
  const ParamBlock& b = block(name);
  return {ops::ConstStack(multiplied(b), compute_dtype_, b.groups, b.rows, b.cols),
          ops::Stack(grad_of(b), DType::kF32, b.groups, b.rows, b.cols)};
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
    set(slice.offset, values);
  }
}

void ParamStore::set(int64_t begin, std::span<const float> values) {
  const int64_t end = begin + static_cast<int64_t>(values.size());
  DSV3_CHECK(begin >= 0 && end <= layout_.elements);
  for (size_t i = 0; i < master_ranges_.size(); ++i) {
    const Range here{std::max(begin, master_ranges_[i].begin),
                     std::min(end, master_ranges_[i].end)};
    if (here.begin >= here.end) continue;
    write(
        master_, master_begins_[i] + here.begin - master_ranges_[i].begin,
        values.subspan(static_cast<size_t>(here.begin - begin), static_cast<size_t>(here.size())));
  }
  const int64_t computed = std::min(end, layout_.compute_elements) - begin;
  if (!compute_.empty() && computed > 0)
    set_compute(begin, values.first(static_cast<size_t>(computed)));
}

void ParamStore::set_compute(int64_t begin, std::span<const float> values) {
  constexpr int64_t kAtOnce = int64_t{1} << 20;  // elements, on the host
  const auto total = static_cast<int64_t>(values.size());
  std::vector<Bf16> rounded(static_cast<size_t>(std::min(total, kAtOnce)));
  for (int64_t at = 0; at < total; at += kAtOnce) {
    const int64_t n = std::min(kAtOnce, total - at);
#pragma omp parallel for schedule(static) if (n > 4096)
    for (int64_t i = 0; i < n; ++i)
      rounded[static_cast<size_t>(i)] = Bf16(values[static_cast<size_t>(at + i)]);
    arena_.device().backend().copy_to_device(compute_.as<Bf16>() + begin + at, rounded.data(),
                                             static_cast<size_t>(n) * sizeof(Bf16),
                                             arena_.device().stream());
    arena_.device().synchronize();
  }
}

void ParamStore::zero_grad() {
  for (const tensor::Tensor* flat : {&grad_, &grad_sums_}) {
    if (flat->empty()) continue;
    arena_.device().backend().fill_zero(flat->data, static_cast<size_t>(flat->bytes()),
                                        arena_.device().stream());
  }
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
