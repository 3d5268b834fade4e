// The embedding: whole, or its rows (the vocabulary) cut over TP.
//
// Law: a TP rank looks up the gathered tokens that its rows have; the rows of all ranks, zero
// where it has none, are summed into each rank's own tokens. The gradient gathers what the sum
// scattered.
#pragma once

#include "runtime/model/pass.h"

namespace dsv3::model {

// y [tokens, d_model] act = the rows of ids [gathered_tokens], each in [0, vocabulary).
void embed(const Pass& pass, const Weight& weight, ops::Vector<const int32_t> ids, ops::Matrix y);
// Accumulates the gradient of this rank's rows; dy [tokens, d_model] act.
void embed_backward(const Pass& pass, const Weight& weight, ops::Vector<const int32_t> ids,
                    ops::ConstMatrix dy);

}  // namespace dsv3::model
