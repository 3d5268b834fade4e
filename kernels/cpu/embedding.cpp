// The embedding: rows gathered by token id, and their gradients scattered back; contract in
// kernels/ops/args.h.
//
// Law: a table row's gradients are added in token order by one thread, so results do not depend on
// the number of threads.
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

// The row of `id` in a table of `rows` rows from `first` on; −1: another table's.
int64_t row_of_id(int32_t id, int64_t first, int64_t rows, int64_t vocabulary) {
  DSV3_CHECK(id >= 0 && id < (vocabulary == 0 ? rows : vocabulary),
             "embedding: a token id is outside the vocabulary");
  const int64_t row = id - first;
  return row >= 0 && row < rows ? row : -1;
}

}  // namespace

void embedding_forward(const ops::Context&, const ops::EmbeddingForward& args) {
  const int64_t tokens = args.ids.size;
  dispatch(args.table.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (tokens * args.y.cols > kParallelMin)
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = row_of_id(args.ids.data[t], args.first, args.table.rows, args.vocabulary);
      if (row < 0) {
        std::fill_n(row_of<T>(args.y, t), args.y.cols, T(0.0f));
      } else {
        std::copy_n(row_of<T>(args.table, row), args.y.cols, row_of<T>(args.y, t));
      }
    }
  });
}

void embedding_backward(const ops::Context&, const ops::EmbeddingBackward& args) {
  const int64_t tokens = args.ids.size, cols = args.dy.cols;
  dispatch(args.dy.dtype, [&](auto element) {
    using T = decltype(element);
    // Every thread reads all ids and adds those that fall to it: reading a few thousand integers is
    // cheaper than sorting them.
#pragma omp parallel if (tokens * cols > kParallelMin)
    {
      const int64_t team = omp_get_num_threads(), mine = omp_get_thread_num();
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row =
            row_of_id(args.ids.data[t], args.first, args.dtable.rows, args.vocabulary);
        if (row < 0 || row % team != mine) continue;
        const T* dy = row_of<T>(args.dy, t);
        float* dtable = row_of<float>(args.dtable, row);
#pragma omp simd
        for (int64_t i = 0; i < cols; ++i) dtable[i] += to_float(dy[i]);
      }
    }
  });
}

}  // namespace dsv3::cpu
