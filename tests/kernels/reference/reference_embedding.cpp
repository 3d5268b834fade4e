// The embedding as args.h says; see reference_backend.h.
#include <vector>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::embedding_forward(const ops::Context&, const ops::EmbeddingForward& args) {
  for (int64_t t = 0; t < args.ids.size; ++t) {
    const int64_t row = args.ids.data[t] - args.first;
    const bool here = row >= 0 && row < args.table.rows;
    for (int64_t c = 0; c < args.y.cols; ++c)
      store(args.y, t, c, here ? load(args.table, row, c) : 0.0);
  }
}

void ReferenceBackend::embedding_backward(const ops::Context&, const ops::EmbeddingBackward& args) {
  // Summed in double over all tokens, then stored once.
  std::vector<double> sums(args.dtable.rows * args.dtable.cols);
  for (int64_t v = 0; v < args.dtable.rows; ++v) {
    for (int64_t c = 0; c < args.dtable.cols; ++c)
      sums[v * args.dtable.cols + c] = load(args.dtable, v, c);
  }
  for (int64_t t = 0; t < args.ids.size; ++t) {
    const int64_t row = args.ids.data[t] - args.first;
    if (row < 0 || row >= args.dtable.rows) continue;
    for (int64_t c = 0; c < args.dy.cols; ++c) sums[row * args.dy.cols + c] += load(args.dy, t, c);
  }
  for (int64_t v = 0; v < args.dtable.rows; ++v) {
    for (int64_t c = 0; c < args.dtable.cols; ++c)
      store(args.dtable, v, c, sums[v * args.dtable.cols + c]);
  }
}

}  // namespace dsv3::reference
