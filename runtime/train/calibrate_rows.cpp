// Ops that move rows (norms, SwiGLU, rope, casts, embedding, loss), the router's, and the
// optimizer's, by their sizes; see calibrate.h.
#include <algorithm>
#include <vector>

#include "base/rng.h"
#include "runtime/train/calibrate_bench.h"

namespace dsv3::train {
namespace {

using ops::Context;

constexpr int64_t kLatentMax = 128;
constexpr int64_t kElementsMax = 1 << 22;  // of a matrix: larger ones go at the same rate

std::vector<int64_t> row_counts(bool quick) {
  if (quick) return {64, 2048};
  return {16, 128, 1024, 8192};
}
std::vector<int64_t> widths(bool quick) {
  if (quick) return {64, 1024};
  return {32, 128, 512, 2048};
}

// Random in [0, bound), in the arena's stack.
ops::Vector<int32_t> random_integers(tensor::Arena& arena, int64_t count, int64_t bound) {
  const CounterRng rng(1, name_key("integers"));
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<int32_t>(rng.below(i, static_cast<uint64_t>(bound)));
  const tensor::Tensor device = arena.push("calibration", DType::kI32, {count});
  arena.device().backend().copy_to_device(device.data, values.data(),
                                          values.size() * sizeof(int32_t), arena.device().stream());
  arena.device().synchronize();
  return device.vector<int32_t>();
}

#define DSV3_RUN(op, Args) \
  [](const Context& context, const ops::Args& args) { ops::op(context, args); }

void measure_norm(Bench& bench, DType dtype, int64_t rows, int64_t cols) {
  bench.begin_op();
  const ops::Vector<float> gain = bench.warm(cols), dgain = bench.warm(cols),
                           rstd = bench.warm(rows);
  const ops::Matrix x = bench.warm(dtype, rows, cols);
  // Latents lie side by side in one matrix. A backward norm comes after the weights' gradients:
  // nothing of what it reads is in a cache any more.
  const auto part = [&] {
    return cols > kLatentMax ? bench.cold(dtype, rows, cols)
                             : bench.cold(dtype, rows, 3 * cols).col_range(cols, cols);
  };
  bench.measure(
      "rms_norm_forward", {},
      [&] {
        return ops::RmsNormForward{
            .x = x, .gain = gain, .y = bench.cold(dtype, rows, cols), .rstd = rstd};
      },
      DSV3_RUN(rms_norm_forward, RmsNormForward));
  bench.measure(
      "rms_norm_backward", {},
      [&] {
        return ops::RmsNormBackward{.dy = bench.cold(dtype, rows, cols),
                                    .x = part(),
                                    .gain = gain,
                                    .rstd = rstd,
                                    .dx = part(),
                                    .dgain = dgain,
                                    .accumulate_dx = true};
      },
      DSV3_RUN(rms_norm_backward, RmsNormBackward));
}

void measure_swiglu(Bench& bench, DType dtype, int64_t rows, int64_t cols) {
  bench.begin_op();
  const ops::Matrix gate_up = bench.warm(dtype, rows, 2 * cols), dy = bench.warm(dtype, rows, cols);
  bench.measure(
      "swiglu_forward", {},
      [&] { return ops::SwigluForward{.gate_up = gate_up, .y = bench.cold(dtype, rows, cols)}; },
      DSV3_RUN(swiglu_forward, SwigluForward));
  bench.measure(
      "swiglu_backward", {},
      [&] {
        return ops::SwigluBackward{
            .dy = dy, .gate_up = bench.cold(dtype, rows, 2 * cols), .dgate_up = gate_up};
      },
      DSV3_RUN(swiglu_backward, SwigluBackward));
}

// Heads of 64 + 32 with the last 32 turned, as small models have them.
void measure_rope(Bench& bench, DType dtype, int64_t rows, int64_t cols) {
  constexpr int64_t kRope = 32, kNope = 64;
  const int64_t heads = std::max<int64_t>(1, cols / kRope), width = heads * (kNope + kRope);
  bench.begin_op();
  const ops::Vector<float> table = bench.warm(rows * kRope / 2);
  bench.measure(
      "rope", {},
      [&] {
        return ops::Rope{.x = bench.cold(dtype, rows, width).col_range(kNope, kRope).data,
                         .dtype = dtype,
                         .tokens = rows,
                         .heads = heads,
                         .token_stride = width,
                         .head_stride = kNope + kRope,
                         .rope_dim = kRope,
                         .sequence = rows,
                         .cos = table,
                         .sin = table};
      },
      DSV3_RUN(rope, Rope));
}

void measure_casts(Bench& bench, DType dtype, int64_t rows, int64_t cols) {
  std::vector<std::pair<DType, DType>> kinds = {{dtype, dtype}};
  if (dtype != DType::kF32) {
    kinds.emplace_back(DType::kF32, dtype);
    kinds.emplace_back(dtype, DType::kF32);
  }
  for (const auto& [from, to] : kinds) {
    bench.begin_op();
    const ops::Matrix x = bench.warm(from, rows, cols);
    bench.measure(
        "cast", {}, [&, to = to] { return ops::Cast{.x = x, .y = bench.cold(to, rows, cols)}; },
        DSV3_RUN(cast, Cast));
  }
  bench.begin_op();
  const ops::Matrix x = bench.warm(dtype, rows, cols), y = bench.warm(dtype, rows, cols);
  bench.measure(
      "add", {}, [&] { return ops::Add{.x = x, .y = y}; }, DSV3_RUN(add, Add));
}

// A table of as many rows as a small model's vocabulary, rows found at random.
void measure_embedding(Bench& bench, DType dtype, int64_t rows, int64_t cols) {
  constexpr int64_t kVocabulary = 8192;
  const tensor::Scope scope(bench.arena());
  const ops::Vector<int32_t> ids = random_integers(bench.arena(), rows, kVocabulary);
  bench.begin_op();
  const ops::Matrix dy = bench.warm(dtype, rows, cols);
  bench.measure(
      "embedding_forward", {},
      [&] {
        return ops::EmbeddingForward{.table = bench.cold(dtype, kVocabulary, cols),
                                     .ids = ids,
                                     .y = bench.cold(dtype, rows, cols)};
      },
      DSV3_RUN(embedding_forward, EmbeddingForward));
  bench.measure(
      "embedding_backward", {},
      [&] {
        return ops::EmbeddingBackward{
            .dy = dy, .ids = ids, .dtable = bench.cold(DType::kF32, kVocabulary, cols)};
      },
      DSV3_RUN(embedding_backward, EmbeddingBackward));
}

// Rows are slots: tokens times two choices.
void measure_permutation(Bench& bench, DType dtype, int64_t rows, int64_t cols) {
  constexpr int64_t kTopK = 2, kExperts = 8;
  const tensor::Scope scope(bench.arena());
  tensor::Arena& arena = bench.arena();
  const ops::Vector<int32_t> expert_idx = random_integers(arena, rows, kExperts);
  const auto integers = [&](int64_t count) {
    return arena.push("calibration", DType::kI32, {count}).vector<int32_t>();
  };
  const ops::Vector<int32_t> offsets = integers(kExperts + 1), row_of_slot = integers(rows),
                             slot_of_row = integers(rows);
  ops::route_plan(arena.context(), {.expert_idx = expert_idx,
                                    .top_k = kTopK,
                                    .experts = kExperts,
                                    .offsets = offsets,
                                    .row_of_slot = row_of_slot,
                                    .slot_of_row = slot_of_row});
  bench.begin_op();
  const ops::Matrix tokens = bench.warm(dtype, rows / kTopK, cols),
                    slots = bench.warm(dtype, rows, cols);
  bench.measure(
      "permute_rows", {},
      [&] {
        return ops::PermuteRows{.x = tokens,
                                .slot_of_row = slot_of_row,
                                .top_k = kTopK,
                                .y = bench.cold(dtype, rows, cols)};
      },
      DSV3_RUN(permute_rows, PermuteRows));
  bench.measure(
      "unpermute_sum", {},
      [&] {
        return ops::UnpermuteSum{.x = slots,
                                 .row_of_slot = row_of_slot,
                                 .top_k = kTopK,
                                 .y = bench.cold(dtype, rows / kTopK, cols),
                                 .accumulate = true};
      },
      DSV3_RUN(unpermute_sum, UnpermuteSum));
}

// Logits are f32 whatever the model computes in.
void measure_loss(Bench& bench, int64_t rows, int64_t vocabulary) {
  const tensor::Scope scope(bench.arena());
  const ops::Vector<int32_t> labels = random_integers(bench.arena(), rows, vocabulary);
  double* loss = bench.arena().push("calibration", DType::kF64, {1}).as<double>();
  bench.begin_op();
  const ops::Matrix logits = bench.warm(DType::kF32, rows, vocabulary);
  bench.measure(
      "cross_entropy", {},
      [&] {
        return ops::CrossEntropy{
            .logits = logits, .labels = labels, .want_grad = true, .loss = loss};
      },
      DSV3_RUN(cross_entropy, CrossEntropy));
}

void measure_router(Bench& bench, int64_t tokens, int64_t experts) {
  constexpr int64_t kTopK = 2, kSequence = 16;
  const tensor::Scope scope(bench.arena());
  tensor::Arena& arena = bench.arena();
  const auto integers = [&](int64_t count) {
    return arena.push("calibration", DType::kI32, {count}).vector<int32_t>();
  };
  const ops::RouterShape shape{
      .tokens = tokens, .sequence = kSequence, .experts = experts, .top_k = kTopK};
  const ops::Vector<int32_t> idx = integers(tokens * kTopK), offsets = integers(experts + 1),
                             row_of_slot = integers(tokens * kTopK),
                             slot_of_row = integers(tokens * kTopK);
  const ops::Vector<int64_t> counts =
      arena.push("calibration", DType::kI64, {experts}).vector<int64_t>();
  double* losses = arena.push("calibration", DType::kF64, {2}).as<double>();
  bench.begin_op();
  const ops::Vector<float> logits = bench.warm(tokens * experts), bias = bench.warm(experts),
                           scores = bench.warm(tokens * experts),
                           dlogits = bench.warm(tokens * experts),
                           weights = bench.warm(tokens * kTopK),
                           fraction = bench.warm(tokens / kSequence * experts);
  const auto forward = ops::RouterForward{.shape = shape,
                                          .logits = logits,
                                          .bias = bias,
                                          .scores = scores,
                                          .expert_idx = idx,
                                          .weights = weights,
                                          .counts = counts};
  bench.measure(
      "router_forward", {}, [&] { return forward; }, DSV3_RUN(router_forward, RouterForward));
  const auto loss = ops::RouterLoss{.shape = shape,
                                    .logits = logits,
                                    .scores = scores,
                                    .expert_idx = idx,
                                    .aux_weight = 1e-4F,
                                    .fraction = fraction,
                                    .aux_loss = losses,
                                    .z_loss = losses + 1};
  bench.measure(
      "router_loss", {}, [&] { return loss; }, DSV3_RUN(router_loss, RouterLoss));
  const auto backward = ops::RouterBackward{.shape = shape,
                                            .logits = logits,
                                            .scores = scores,
                                            .expert_idx = idx,
                                            .dweights = weights,
                                            .fraction = fraction,
                                            .aux_weight = 1e-4F,
                                            .dlogits = dlogits};
  bench.measure(
      "router_backward", {}, [&] { return backward; }, DSV3_RUN(router_backward, RouterBackward));
  const auto plan = ops::RoutePlan{.expert_idx = idx,
                                   .top_k = kTopK,
                                   .experts = experts,
                                   .offsets = offsets,
                                   .row_of_slot = row_of_slot,
                                   .slot_of_row = slot_of_row};
  bench.measure(
      "route_plan", {}, [&] { return plan; }, DSV3_RUN(route_plan, RoutePlan));
}

// AdamW of n elements with everything in memory, not in a cache: slices of large buffers in turn.
void measure_update(Bench& bench, DType moments, bool compute, int64_t n) {
  constexpr int64_t kElements = int64_t{1} << 23;
  tensor::Arena& arena = bench.arena();
  const tensor::Scope scope(arena);
  const auto buffer = [&](DType dtype) {
    const tensor::Tensor t = arena.push("calibration", dtype, {kElements});
    arena.device().backend().fill_zero(t.data, static_cast<size_t>(t.bytes()),
                                       arena.device().stream());
    return t;
  };
  const tensor::Tensor master = buffer(DType::kF32), grad = buffer(DType::kF32),
                       mean = buffer(moments), square = buffer(moments),
                       copy = buffer(DType::kBf16);
  const auto at = [](const tensor::Tensor& t, int64_t element) {
    return static_cast<void*>(static_cast<std::byte*>(t.data) +
                              element * static_cast<int64_t>(dtype_bytes(t.dtype)));
  };
  int64_t begin = 0;
  bench.measure(
      "adamw", {.cls = plan::OpClass::kOptimizer},
      [&] {
        begin = begin + 2 * n > kElements ? 0 : begin + n;
        return ops::AdamW{.master = {master.as<float>() + begin, n},
                          .grad = {grad.as<float>() + begin, n},
                          .exp_avg = at(mean, begin),
                          .exp_avg_sq = at(square, begin),
                          .moments_dtype = moments,
                          .compute = compute ? at(copy, begin) : nullptr,
                          .lr = 1e-3F};
      },
      DSV3_RUN(adamw, AdamW));
}

}  // namespace

void measure_rows(Bench& bench, DType dtype, bool quick) {
  for (const int64_t rows : row_counts(quick)) {
    for (const int64_t cols : widths(quick)) {
      if (rows * cols > kElementsMax) continue;
      measure_norm(bench, dtype, rows, cols);
      measure_swiglu(bench, dtype, rows, cols);
      measure_rope(bench, dtype, rows, cols);
      measure_casts(bench, dtype, rows, cols);
      measure_embedding(bench, dtype, rows, std::min<int64_t>(cols, 2048));
      measure_permutation(bench, dtype, rows, cols);
    }
  }
  // The head's chunks; the f32 to bf16 cast of their gradient is as wide.
  for (const int64_t rows : {int64_t{64}, int64_t{512}}) {
    for (const int64_t vocabulary : {512, 8192, 32768}) {
      if (dtype == DType::kF32) measure_loss(bench, rows, vocabulary);
    }
  }
}

void measure_routing(Bench& bench, DType dtype, bool quick) {
  if (dtype != DType::kF32) return;  // the router computes in f32 in any model
  for (const int64_t tokens : row_counts(quick)) {
    for (const int64_t experts : {4, 16, 64, 256}) measure_router(bench, tokens, experts);
  }
}

void measure_optimizer(Bench& bench, bool quick) {
  const std::vector<int64_t> few = {1 << 14, 1 << 22};
  const std::vector<int64_t> many = {1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 23};
  ops::Backend& backend = bench.arena().device().backend();
  const ops::Stream stream = bench.arena().device().stream();
  for (const int64_t n : quick ? few : many) {
    measure_update(bench, DType::kF32, true, n);
    measure_update(bench, DType::kBf16, true, n);
    bench.begin_op();
    const tensor::Scope scope(bench.arena());
    double* sum = bench.arena().push("calibration", DType::kF64, {1}).as<double>();
    bench.measure(
        "squared_norm", {.cls = plan::OpClass::kOptimizer},
        [&] { return ops::SquaredNorm{.x = bench.cold(n), .sum = sum}; },
        DSV3_RUN(squared_norm, SquaredNorm));
    const auto bytes = n * static_cast<int64_t>(sizeof(float));
    bench.measure_copy("fill_zero", static_cast<double>(bytes), bytes, [&] {
      backend.fill_zero(bench.cold(n).data, static_cast<size_t>(bytes), stream);
    });
    if (n > 1 << 18) continue;  // ids and losses are small
    const ops::Vector<float> device = bench.warm(n);
    std::vector<float> host(static_cast<size_t>(n));
    bench.measure_copy("copy_to_device", 2.0 * static_cast<double>(bytes), bytes, [&] {
      backend.copy_to_device(device.data, host.data(), static_cast<size_t>(bytes), stream);
    });
    bench.measure_copy("copy_to_host", 2.0 * static_cast<double>(bytes), bytes, [&] {
      backend.copy_to_host(host.data(), device.data, static_cast<size_t>(bytes), stream);
    });
  }
}

#undef DSV3_RUN

}  // namespace dsv3::train
