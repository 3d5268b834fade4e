// See gradient_sync.h.
#include "runtime/parallel/gradient_sync.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "kernels/ops/ops.h"

namespace dsv3::parallel {

using plan::ParamClass;

namespace {

std::vector<Bucket> buckets_of(const model::ParamLayout& params, const comm::Groups& groups,
                               const SyncOptions& options) {
  return gradient_buckets(params, groups.layout,
                          {.num_layers = options.num_layers,
                           .bytes_min = options.bytes_min,
                           .copies = groups.embedding != nullptr});
}

// In the names of operations.
const char* prefix_of(ParamClass cls) {
  switch (cls) {
    case ParamClass::kReplicated:
      return "replicated ";
    case ParamClass::kDense:
      return "";
    case ParamClass::kExpert:
      return "expert ";
  }
  return "";
}

// What lies in both; where nothing does, nothing within `b`.
Range common(const Range& a, const Range& b) {
  const int64_t begin = std::clamp(a.begin, b.begin, b.end);
  return {begin, std::clamp(a.end, begin, b.end)};
}

}  // namespace

std::vector<Range> master_of(const spec::ModelSpec& model, const comm::Groups& groups,
                             const SyncOptions& options, DType compute) {
  const model::ParamLayout params = model::param_layout(model, groups.layout, groups.position);
  const Ownership owned = ownership(buckets_of(params, groups, options), groups.layout,
                                    groups.position, options.zero_stage);
  return master_ranges(params, owned.updated, compute);
}

GradientSync::GradientSync(model::ParamStore& params, const comm::Groups& groups,
                           const SyncOptions& options)
    : params_(params),
      groups_(groups),
      options_(options),
      windows_(model::gradients_in_windows(params.layout().cut)) {
  DSV3_CHECK(options.zero_stage >= 0 && options.zero_stage <= 2);
  DSV3_CHECK(!windows_ || options.zero_stage == 2, "the store's layout is of ZeRO 2");
  std::vector<Bucket> buckets = buckets_of(params.layout(), groups, options);
  ownership_ = parallel::ownership(buckets, groups.layout, groups.position, options.zero_stage);
  DSV3_CHECK(params.master_ranges() ==
                 master_ranges(params.layout(), ownership_.updated, params.compute_dtype()),
             "the store's master is that of master_of()");
  sums_of_event_.resize(static_cast<size_t>(end_event(options.num_layers)) + 1);
  std::array<size_t, 3> numbers{};  // by class: its ranks count the same ones
  for (Bucket& bucket : buckets) {
    size_t& number = numbers[static_cast<size_t>(bucket.cls)];
    add_sum(std::move(bucket), number++);
  }
  if (windows_) keep_sums();
}

// Places of the pieces in grad_sums(): in the order of ownership().updated.
void GradientSync::keep_sums() {
  params_.keep_grad_sums(num_elements(ownership_.updated));
  for (Sum& sum : sums_) {
    int64_t before = 0;
    for (const Range& range : ownership_.updated) {
      if (range.begin <= sum.piece.begin && sum.piece.end <= range.end)
        sum.kept = params_.grad_sums().as<float>() + before + (sum.piece.begin - range.begin);
      before += range.size();
    }
    DSV3_CHECK(sum.kept || sum.piece.size() == 0);
  }
}

const comm::Lanes& GradientSync::lanes_of(ParamClass cls) const {
  switch (cls) {
    case ParamClass::kReplicated:
      return groups_.replicated;
    case ParamClass::kDense:
      return groups_.dense;
    case ParamClass::kExpert:
      return groups_.expert;
  }
  return groups_.dense;
}

void GradientSync::add_sum(Bucket bucket, size_t number) {
  const SumPlace place = sum_place(bucket.cls, groups_.layout, groups_.position);
  const comm::Lanes& lanes = lanes_of(bucket.cls);
  Sum sum{.bucket = std::move(bucket)};
  sum.piece = piece_of(sum.bucket.range, place.index, place.ranks);
  sum.grad = params_.grad_at(sum.bucket.range.begin);
  sum.events_missing = sum.bucket.events.size();
  for (const int64_t event : sum.bucket.events)
    sums_of_event_[static_cast<size_t>(event)].push_back(sums_.size());
  DSV3_CHECK(lanes.empty() == (place.ranks == 1), "lanes of the layout");
  if (!lanes.empty()) {
    sum.lane = lanes[number % lanes.size()];
    DSV3_CHECK(sum.lane->size() == place.ranks && sum.lane->rank() == place.index);
  }
  for (int64_t rank = 0; rank < place.ranks; ++rank)
    sum.counts.push_back(piece_of(sum.bucket.range, rank, place.ranks).size());
  sum.name = fmt::format("{}gradients/{}", prefix_of(sum.bucket.cls), number);
  add_gathers(sum, number);
  sums_.push_back(std::move(sum));
}

// One, or one of what is multiplied and one of what is read in f32.
void GradientSync::add_gathers(const Sum& sum, size_t number) {
  if (options_.zero_stage == 0 || !sum.lane) return;
  const model::ParamLayout& layout = params_.layout();
  const bool copied = !params_.compute().empty();
  const int64_t middle = copied ? layout.compute_elements : 0;
  const SumPlace place = sum_place(sum.bucket.cls, groups_.layout, groups_.position);
  for (const bool compute : {true, false}) {
    const Range half = compute ? Range{0, middle} : Range{middle, layout.elements};
    const Range part = common(sum.bucket.range, half);
    if (part.size() == 0) continue;
    Gather gather{.lane = sum.lane};
    gather.name = fmt::format("{}parameters/{}{}", prefix_of(sum.bucket.cls), number,
                              copied && !compute ? " f32" : "");
    for (int64_t rank = 0; rank < place.ranks; ++rank)
      gather.counts.push_back(common(piece_of(sum.bucket.range, rank, place.ranks), part).size());
    const DType dtype = compute ? DType::kBf16 : DType::kF32;
    auto* data = compute ? static_cast<void*>(params_.compute().as<Bf16>() + part.begin)
                         : static_cast<void*>(params_.master_at(part));
    const Range piece = common(sum.piece, part);
    const int64_t before = (piece.begin - part.begin) * static_cast<int64_t>(dtype_bytes(dtype));
    gather.whole = {data, part.size(), dtype};
    gather.piece = {static_cast<std::byte*>(data) + before, piece.size(), dtype};
    gathers_.push_back(std::move(gather));
  }
}

void GradientSync::start(Sum& sum) {
  sum.started = true;
  if (!sum.lane) return;
  const comm::Buffer whole{sum.grad, sum.bucket.range.size(), DType::kF32};
  sum.ticket = options_.zero_stage == 0
                   ? sum.lane->start_all_reduce(sum.name, whole, comm::Reduce::kSum)
                   : sum.lane->start_reduce_scatter(sum.name, whole,
                                                    {sum.own(), sum.piece.size(), DType::kF32},
                                                    sum.counts, comm::Reduce::kSum);
}

// ZeRO 2: adds what arrived to what is kept.
void GradientSync::keep(Sum& sum) {
  if (sum.lane) sum.lane->wait(sum.ticket);
  const int64_t n = sum.piece.size();
  if (n == 0) return;
  ops::add(params_.arena().context(), {.x = ops::ConstMatrix(sum.own(), DType::kF32, 1, n),
                                       .y = ops::Matrix(sum.kept, DType::kF32, 1, n)});
}

// Takes the sums on their way out of the windows, all but those of one layer, which is just done.
void GradientSync::empty_windows(int64_t except_event) {
  for (Sum& sum : sums_) {
    if (!sum.bucket.windowed || !sum.started || sum.bucket.events[0] == except_event) continue;
    keep(sum);
    device::Device& device = params_.arena().device();
    device.backend().fill_zero(
        sum.grad, static_cast<size_t>(sum.bucket.range.size()) * sizeof(float), device.stream());
    sum.started = false;
  }
}

// The layer after the next one takes its window: what another layer left there must be gone.
void GradientSync::layer_of_window_done(int64_t event) {
  for (const size_t index : sums_of_event_[static_cast<size_t>(event)]) {
    Sum& sum = sums_[index];
    if (!sum.bucket.windowed) continue;
    DSV3_CHECK(!sum.started, "head_done() comes before the layers");
    sum.events_missing = 0;
    start(sum);
  }
  constexpr int64_t kNone = -1;
  empty_windows(options_.overlap ? event : kNone);
}

void GradientSync::event(int64_t event) {
  if (!options_.overlap || !last_) return;
  for (const size_t index : sums_of_event_[static_cast<size_t>(event)]) {
    Sum& sum = sums_[index];
    if (sum.bucket.windowed) continue;
    DSV3_CHECK(sum.events_missing > 0, "told twice");
    if (--sum.events_missing == 0) start(sum);
  }
}

void GradientSync::head_done() {
  if (windows_) empty_windows(0);  // of the micro-batch before
  event(0);
}

void GradientSync::layer_done(int64_t layer) {
  const int64_t number = layer_event(options_.num_layers, layer);
  if (windows_) layer_of_window_done(number);
  event(number);
}

// The stages' sums of their own micro-batches' gradients; both have the same pieces.
void GradientSync::sum_copies(Sum& sum) {
  if (sum.lane) sum.lane->wait(sum.ticket);
  const comm::Buffer part = options_.zero_stage == 0
                                ? comm::Buffer{sum.grad, sum.bucket.range.size(), DType::kF32}
                                : comm::Buffer{sum.own(), sum.piece.size(), DType::kF32};
  groups_.embedding->start_all_reduce("embedding gradients", part, comm::Reduce::kSum);
}

void GradientSync::finish() {
  for (Sum& sum : sums_) {
    if (!sum.started && !sum.bucket.windowed) start(sum);
  }
  for (Sum& sum : sums_) {
    if (sum.bucket.copied) sum_copies(sum);
  }
  for (Sum& sum : sums_) {
    DSV3_CHECK(!sum.bucket.windowed || sum.events_missing == 0, "ZeRO 2 hears every layer");
    sum.events_missing = sum.bucket.events.size();
    if (sum.bucket.windowed) continue;
    if (windows_) {
      keep(sum);
    } else if (sum.lane) {
      sum.lane->wait(sum.ticket);
    }
    sum.started = false;
  }
  if (windows_) empty_windows(0);
  if (groups_.embedding) groups_.embedding->wait_all();
  last_ = true;
}

void GradientSync::gather_parameters() {
  for (Gather& gather : gathers_) {
    gather.ticket =
        gather.lane->start_all_gather(gather.name, gather.piece, gather.whole, gather.counts);
  }
  for (Gather& gather : gathers_) gather.lane->wait(gather.ticket);
}

}  // namespace dsv3::parallel
