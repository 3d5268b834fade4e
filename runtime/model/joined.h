// The product that joins an MTP module's two inputs (eh_proj, DeepSeek-V3 §2.2): whole, or its
// output columns cut over TP.
//
// Law: a TP rank computes its columns of all gathered tokens; an all-to-all turns them into all
// columns of its own tokens. The gradients go the same way back.
#pragma once

#include "runtime/model/pass.h"

namespace dsv3::model {

// What the input's gradient leaves for the weight's.
struct JoinedGrad {
  tensor::Tensor dy;  // [gathered_tokens, d_model / tp] act; empty with TP 1
};

// y [tokens, d_model] = joined [tokens, 2 · d_model] · Wᵀ.
void project_joined(const Pass& pass, const Weight& weight, ops::ConstMatrix joined, ops::Matrix y);
// djoined [tokens, 2 · d_model] = dy [tokens, d_model] · W. Pushes grad's tensor.
void project_joined_input_grad(const Pass& pass, const Weight& weight, ops::ConstMatrix dy,
                               ops::Matrix djoined, JoinedGrad& grad);
// Accumulates the weight's gradient; joined and dy as they were.
void project_joined_weight_grad(const Pass& pass, const Weight& weight, ops::ConstMatrix joined,
                                ops::ConstMatrix dy, const JoinedGrad& grad);

}  // namespace dsv3::model
