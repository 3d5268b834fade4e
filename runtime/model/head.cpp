// The chunked head; see head.h.
#include "runtime/model/head.h"

#include <algorithm>

namespace dsv3::model {

void head_loss(const Pass& pass, const Weight& weight, const HeadLoss& args) {
  const tensor::Scope scope(pass.arena);
  const int64_t vocabulary = weight.value.rows;
  const int64_t chunk = std::clamp<int64_t>(kHeadChunkBytes / (vocabulary * 4), kHeadRowsMin,
                                            std::max<int64_t>(args.x.rows, kHeadRowsMin));
  const tensor::Tensor logits = pass.push_f32("transient/logits", {chunk, vocabulary});
  // Products take both factors in one dtype: the gradient of the logits is rounded to the
  // activations'.
  const bool same_dtype = pass.act == DType::kF32;
  const tensor::Tensor dlogits =
      pass.training && !same_dtype ? pass.push_rows("transient/logits", chunk, vocabulary) : logits;
  for (int64_t row = 0; row < args.x.rows; row += chunk) {
    const int64_t rows = std::min(chunk, args.x.rows - row);
    const ops::Matrix part = logits.matrix().row_range(0, rows);
    const ops::ConstMatrix x = args.x.row_range(row, rows);
    linear(pass, x, weight, part);
    ops::cross_entropy(pass.ctx, {.logits = part,
                                  .labels = {args.labels.data + row, rows},
                                  .loss_scale = args.loss_scale,
                                  .grad_scale = static_cast<float>(args.grad_scale),
                                  .want_grad = pass.training,
                                  .loss = args.loss});
    if (!pass.training) continue;
    const ops::Matrix dpart = dlogits.matrix().row_range(0, rows);
    if (!same_dtype) ops::cast(pass.ctx, {.x = part, .y = dpart});
    linear_input_grad(pass, dpart, weight, args.dx.row_range(row, rows));
    linear_weight_grad(pass, dpart, x, weight);
  }
}

void head_logits(const Pass& pass, const Weight& weight, ops::ConstMatrix x, ops::Matrix logits) {
  linear(pass, x, weight, logits);
}

}  // namespace dsv3::model
