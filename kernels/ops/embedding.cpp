// Checks and dispatch of the embedding; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {
namespace {

bool holds_rows(int64_t first, int64_t rows, int64_t vocabulary) {
  return vocabulary == 0 ? first == 0 : first >= 0 && first + rows <= vocabulary;
}

}  // namespace

void embedding_forward(const Context& ctx, const EmbeddingForward& args) {
  DSV3_CHECK(is_act(args.table.dtype) && is_valid(args.table), "embedding_forward: table");
  DSV3_CHECK(has_size(args.ids, args.ids.size), "embedding_forward: ids is [T]");
  DSV3_CHECK(has_shape(args.y, args.table.dtype, args.ids.size, args.table.cols),
             "embedding_forward: y is [T, D] like the table");
  DSV3_CHECK(holds_rows(args.first, args.table.rows, args.vocabulary), "embedding_forward: rows");
  ctx.backend->embedding_forward(ctx, args);
}

void embedding_backward(const Context& ctx, const EmbeddingBackward& args) {
  DSV3_CHECK(is_act(args.dy.dtype) && is_valid(args.dy), "embedding_backward: dy");
  DSV3_CHECK(has_size(args.ids, args.dy.rows), "embedding_backward: ids is [T]");
  DSV3_CHECK(has_shape(args.dtable, DType::kF32, args.dtable.rows, args.dy.cols),
             "embedding_backward: dtable is [V, D] f32");
  DSV3_CHECK(holds_rows(args.first, args.dtable.rows, args.vocabulary), "embedding_backward: rows");
  ctx.backend->embedding_backward(ctx, args);
}

}  // namespace dsv3::ops
