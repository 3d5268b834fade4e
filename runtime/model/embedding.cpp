// The embedding over TP; see embedding.h.
#include "runtime/model/embedding.h"

#include "runtime/model/tokens.h"

namespace dsv3::model {
namespace {

int64_t first_row(const Pass& pass, const Weight& weight) {
  return pass.groups->position.tp_rank * weight.value.rows;
}

}  // namespace

void embed(const Pass& pass, const Weight& weight, ops::Vector<const int32_t> ids, ops::Matrix y) {
  if (pass.tp() == 1) {
    ops::embedding_forward(pass.ctx, {.table = weight.value, .ids = ids, .y = y});
    return;
  }
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor rows =
      pass.push_rows("transient/embedding", pass.gathered_tokens(), weight.value.cols);
  ops::embedding_forward(pass.ctx, {.table = weight.value,
                                    .ids = ids,
                                    .y = rows,
                                    .first = first_row(pass, weight),
                                    .vocabulary = pass.tp() * weight.value.rows});
  start_scatter_tokens(pass, "embedding", rows, y).wait();
}

void embed_backward(const Pass& pass, const Weight& weight, ops::Vector<const int32_t> ids,
                    ops::ConstMatrix dy) {
  if (pass.tp() == 1) {
    ops::embedding_backward(pass.ctx, {.dy = dy, .ids = ids, .dtable = weight.grad});
    return;
  }
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor all = gather_tokens(pass, "embedding gradient", "transient/embedding", dy);
  ops::embedding_backward(pass.ctx, {.dy = all,
                                     .ids = ids,
                                     .dtable = weight.grad,
                                     .first = first_row(pass, weight),
                                     .vocabulary = pass.tp() * weight.value.rows});
}

}  // namespace dsv3::model
