// The chunked head; see head.h.
#include "runtime/model/head.h"

#include <algorithm>

#include "runtime/model/tokens.h"

namespace dsv3::model {

namespace {

// The logits of a chunk of rows and their loss: the whole vocabulary, or this TP rank's columns of
// it. Logits [rows, columns] f32 become their gradient in training.
void whole_loss(const Pass& pass, const HeadLoss& args, int64_t row, ops::Matrix logits) {
  ops::cross_entropy(pass.ctx, {.logits = logits,
                                .labels = {args.labels.data + row, logits.rows},
                                .loss_scale = args.loss_scale,
                                .grad_scale = static_cast<float>(args.grad_scale),
                                .want_grad = pass.training,
                                .loss = args.loss});
}

void cut_loss(const Pass& pass, const HeadLoss& args, int64_t row, ops::Matrix logits,
              const tensor::Tensor& statistics) {
  const int64_t tp = pass.tp(), rank = pass.groups->position.tp_rank, rows = logits.rows;
  const ops::Vector<const int32_t> labels{args.labels.data + row, rows};
  float* all = statistics.as<float>();  // [tp, rows, 3]
  const ops::Vector<float> own{all + rank * rows * 3, rows * 3};
  ops::cross_entropy_statistics(pass.ctx, {.logits = logits,
                                           .labels = labels,
                                           .first = rank * logits.cols,
                                           .keep_terms = pass.training,
                                           .statistics = own});
  all_gather_even(pass, "head statistics", own, {all, tp * rows * 3});
  ops::cross_entropy_finish(pass.ctx, {.terms = logits,
                                       .labels = labels,
                                       .first = rank * logits.cols,
                                       .ranks = tp,
                                       .rank = rank,
                                       .statistics = {all, tp * rows * 3},
                                       .loss_scale = args.loss_scale,
                                       .grad_scale = static_cast<float>(args.grad_scale),
                                       .want_grad = pass.training,
                                       .loss = rank == 0 ? args.loss : nullptr});
}

// head_loss() of gathered tokens and, under TP, of this rank's columns: dx is its partial sum.
void chunked_loss(const Pass& pass, const Weight& weight, const HeadLoss& args) {
  const int64_t vocabulary = weight.value.rows;
  const int64_t chunk = std::clamp<int64_t>(kHeadChunkBytes / (vocabulary * 4), kHeadRowsMin,
                                            std::max<int64_t>(args.x.rows, kHeadRowsMin));
  const tensor::Tensor logits = pass.push_f32("transient/logits", {chunk, vocabulary});
  // Products take both factors in one dtype: the gradient of the logits is rounded to the
  // activations'.
  const bool same_dtype = pass.act == DType::kF32;
  const tensor::Tensor dlogits =
      pass.training && !same_dtype ? pass.push_rows("transient/logits", chunk, vocabulary) : logits;
  tensor::Tensor statistics;
  if (pass.tp() > 1) statistics = pass.push_f32("transient/logits", {pass.tp() * chunk * 3});
  for (int64_t row = 0; row < args.x.rows; row += chunk) {
    const int64_t rows = std::min(chunk, args.x.rows - row);
    const ops::Matrix part = logits.matrix().row_range(0, rows);
    const ops::ConstMatrix x = args.x.row_range(row, rows);
    linear(pass, x, weight, part);
    if (pass.tp() == 1) {
      whole_loss(pass, args, row, part);
    } else {
      cut_loss(pass, args, row, part, statistics);
    }
    if (!pass.training) continue;
    const ops::Matrix dpart = dlogits.matrix().row_range(0, rows);
    if (!same_dtype) ops::cast(pass.ctx, {.x = part, .y = dpart});
    linear_input_grad(pass, dpart, weight, args.dx.row_range(row, rows));
    linear_weight_grad(pass, dpart, x, weight);
  }
}

}  // namespace

void head_loss(const Pass& pass, const Weight& weight, const HeadLoss& args) {
  const tensor::Scope scope(pass.arena);
  if (pass.tp() == 1) return chunked_loss(pass, weight, args);
  HeadLoss gathered = args;
  gathered.x = gather_tokens(pass, "head inputs", "transient/head", args.x);
  if (pass.training)
    gathered.dx = pass.push_rows("transient/head", pass.gathered_tokens(), args.x.cols);
  chunked_loss(pass, weight, gathered);
  if (pass.training)
    start_scatter_tokens(pass, "head inputs gradient", gathered.dx, args.dx).wait();
}

void head_logits(const Pass& pass, const Weight& weight, ops::ConstMatrix x, ops::Matrix logits) {
  if (pass.tp() == 1) return linear(pass, x, weight, logits);
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor all = gather_tokens(pass, "head inputs", "transient/head", x);
  const tensor::Tensor columns =
      pass.push_f32("transient/logits", {pass.gathered_tokens(), weight.value.rows});
  linear(pass, all, weight, columns);
  columns_to_tokens(pass, "logits", columns, logits);
}

}  // namespace dsv3::model
