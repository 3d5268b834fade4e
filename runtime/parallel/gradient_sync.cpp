// See gradient_sync.h.
#include "runtime/parallel/gradient_sync.h"

#include <fmt/core.h>

#include <array>
#include <utility>

#include "base/check.h"
#include "kernels/ops/ops.h"

namespace dsv3::parallel {

using plan::ParamClass;

GradientSync::GradientSync(model::ParamStore& params, const comm::Groups& groups,
                           const SyncOptions& options)
    : params_(params),
      groups_(groups),
      options_(options),
      windows_(model::gradients_in_windows(params.layout().cut)) {
  DSV3_CHECK(options.zero_stage >= 0 && options.zero_stage <= 2);
  DSV3_CHECK(!windows_ || options.zero_stage == 2, "the store's layout is of ZeRO 2");
  std::vector<Bucket> buckets = gradient_buckets(params.layout(), groups.layout,
                                                 {.num_layers = options.num_layers,
                                                  .bytes_min = options.bytes_min,
                                                  .copies = groups.embedding != nullptr});
  ownership_ = parallel::ownership(buckets, groups.layout, groups.position, options.zero_stage);
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
  const char* what = sum.bucket.cls == ParamClass::kExpert       ? "expert "
                     : sum.bucket.cls == ParamClass::kReplicated ? "replicated "
                                                                 : "";
  sum.name = fmt::format("{}gradients/{}", what, number);
  sum.gather_name = fmt::format("{}parameters/{}", what, number);
  sums_.push_back(std::move(sum));
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
  if (options_.zero_stage == 0) return;
  float* master = params_.master().as<float>();
  for (Sum& sum : sums_) {
    if (!sum.lane) continue;
    sum.ticket = sum.lane->start_all_gather(
        sum.gather_name, {master + sum.piece.begin, sum.piece.size(), DType::kF32},
        {master + sum.bucket.range.begin, sum.bucket.range.size(), DType::kF32}, sum.counts);
  }
  // What has arrived is cast while the rest travels.
  for (Sum& sum : sums_) {
    if (!sum.lane) continue;
    sum.lane->wait(sum.ticket);
    params_.refresh_compute(sum.bucket.range.begin, sum.bucket.range.end);
  }
}

}  // namespace dsv3::parallel
