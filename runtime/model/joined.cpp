// The joining product over TP; see joined.h.
#include "runtime/model/joined.h"

#include "runtime/model/tokens.h"

namespace dsv3::model {

void project_joined(const Pass& pass, const Weight& weight, ops::ConstMatrix joined,
                    ops::Matrix y) {
  if (pass.tp() == 1) {
    linear(pass, joined, weight, y);
    return;
  }
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor all = gather_tokens(pass, "mtp inputs", "transient/mtp", joined);
  const tensor::Tensor columns =
      pass.push_rows("transient/mtp", pass.gathered_tokens(), weight.value.rows);
  linear(pass, all, weight, columns);
  columns_to_tokens(pass, "mtp out", columns, y);
}

void project_joined_input_grad(const Pass& pass, const Weight& weight, ops::ConstMatrix dy,
                               ops::Matrix djoined, JoinedGrad& grad) {
  if (pass.tp() == 1) {
    linear_input_grad(pass, dy, weight, djoined);
    return;
  }
  grad.dy = pass.push_rows("transient/mtp", pass.gathered_tokens(), weight.value.rows);
  tokens_to_columns(pass, "mtp out gradient", dy, grad.dy);
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor partial =
      pass.push_rows("transient/mtp", pass.gathered_tokens(), weight.value.cols);
  linear_input_grad(pass, grad.dy, weight, partial);
  start_scatter_tokens(pass, "mtp inputs gradient", partial, djoined).wait();
}

void project_joined_weight_grad(const Pass& pass, const Weight& weight, ops::ConstMatrix joined,
                                ops::ConstMatrix dy, const JoinedGrad& grad) {
  if (pass.tp() == 1) {
    linear_weight_grad(pass, dy, joined, weight);
    return;
  }
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor all = gather_tokens(pass, "mtp inputs", "transient/mtp", joined);
  linear_weight_grad(pass, grad.dy, all, weight);
}

}  // namespace dsv3::model
