// Head: logits and cross-entropy, a few rows at a time.
//
// Law: the [tokens, vocabulary] logits never exist in training: for each chunk of rows logits
// (f32), loss, their gradient and the products with it are done before the next chunk begins, in
// memory booked as "transient/logits". Under TP a rank has some columns of the vocabulary: the
// hidden states are gathered, each row's statistics go round (three numbers a rank), and the hidden
// states' gradients are summed and scattered; the loss is added on TP rank 0 alone.
#pragma once

#include "runtime/model/pass.h"

namespace dsv3::model {

// Rows of logits are taken so many at a time that a chunk stays near this size, at least
// kHeadRowsMin.
inline constexpr int64_t kHeadChunkBytes = int64_t{16} << 20;
inline constexpr int64_t kHeadRowsMin = 64;

struct HeadLoss {
  ops::ConstMatrix x;                 // [tokens, d_model] act: normed hidden states
  ops::Vector<const int32_t> labels;  // [gathered_tokens]; −1: left out
  double loss_scale = 0;              // of the reported loss
  double grad_scale = 0;              // of the differentiated loss
  double* loss = nullptr;             // device scalar +=
  ops::Matrix dx;                     // [tokens, d_model] act = ; only in training
};

// Adds the scaled cross-entropy to *loss; in training also gives dx and accumulates the weight's
// gradient.
void head_loss(const Pass& pass, const Weight& weight, const HeadLoss& args);
// logits = x · Wᵀ, whole: [tokens, vocabulary] f32, for scoring and tests.
void head_logits(const Pass& pass, const Weight& weight, ops::ConstMatrix x, ops::Matrix logits);

}  // namespace dsv3::model
