// Matrix products: dense ones as one oneDNN primitive, grouped ones as many single-threaded
// products spread over the team.
//
// Laws: an empty sum is zero, and adds nothing when accumulating. The split of a grouped product
// depends on shapes and offsets alone, never on which thread is free. Row counts per expert change
// every batch, so grouped products leave that dimension to the run (measured: within 5 % of a
// primitive made for the size, which would cost up to 10 ms to create).
#include <algorithm>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

// Rows of one piece of a grouped product: enough that packing b costs little, few enough that one
// expert's rows keep a team busy.
constexpr int64_t kPieceRows = 256;

// Writes rows [0, rows) × [0, cols) of `from` in `to`'s dtype (f32 or bf16), or adds them to `to`.
void convert(const ops::ConstMatrix& from, const ops::Matrix& to, bool accumulate) {
  dispatch(from.dtype, [&](auto f) {
    dispatch(to.dtype, [&](auto t) {
      using From = decltype(f);
      using To = decltype(t);
      for (int64_t r = 0; r < from.rows; ++r) {
        const From* x = row_of<From>(from, r);
        To* y = row_of<To>(to, r);
#pragma omp simd
        for (int64_t i = 0; i < from.cols; ++i) {
          y[i] = from_float<To>(to_float(x[i]) + (accumulate ? to_float(y[i]) : 0.0f));
        }
      }
    });
  });
}

void zero(const ops::Matrix& c) {
  for (int64_t r = 0; r < c.rows; ++r) {
    std::memset(static_cast<char*>(c.data) + r * c.stride * dtype_bytes(c.dtype), 0,
                c.cols * dtype_bytes(c.dtype));
  }
}

// One product with sizes known only now, by one thread or by the team: c (+)= op(a) · op(b). Plans
// its scratch, then runs. Where oneDNN cannot multiply bf16, operands are widened to f32 in
// scratch.
class Product {
 public:
  // a, b, c: typical views; the runtime dimension's size is not looked at, only bounded by
  // `runtime_max`.
  Product(ops::Gemm args, RuntimeDim runtime, int64_t runtime_max, int threads)
      : widen_(args.a.dtype == DType::kBf16 && !native_bf16()),
        narrow_(args.c.dtype == DType::kBf16 && widen_) {
    const int64_t m = args.c.rows, n = args.c.cols,
                  k = args.transpose_a ? args.a.rows : args.a.cols;
    shape_.m = runtime == RuntimeDim::kM ? 0 : m;
    shape_.n = n;
    shape_.k = runtime == RuntimeDim::kK ? 0 : k;
    shape_.transpose_a = args.transpose_a;
    shape_.transpose_b = args.transpose_b;
    shape_.accumulate = args.accumulate && !narrow_;
    shape_.in = widen_ ? DType::kF32 : args.a.dtype;
    shape_.out = narrow_ ? DType::kF32 : args.c.dtype;
    shape_.runtime = runtime;
    shape_.a_stride = widen_ ? args.a.cols : args.a.stride;
    shape_.b_stride = widen_ ? args.b.cols : args.b.stride;
    shape_.c_stride = narrow_ ? n : args.c.stride;
    matmul_ = cached_matmul(shape_, threads);
    const int64_t m_max = runtime == RuntimeDim::kM ? runtime_max : m,
                  k_max = runtime == RuntimeDim::kK ? runtime_max : k;
    if (widen_) {
      a_bytes_ = aligned_bytes(m_max * k_max * sizeof(float));
      b_bytes_ = aligned_bytes(k_max * n * sizeof(float));
    }
    if (narrow_) c_bytes_ = aligned_bytes(m_max * n * sizeof(float));
  }

  size_t scratch_bytes() const { return a_bytes_ + b_bytes_ + c_bytes_ + matmul_->scratch_bytes(); }

  // Multiplies these views, whose strides and fixed sizes are those given before.
  void run(const ops::Gemm& args, std::byte* scratch) const {
    const int64_t runtime_size = shape_.runtime == RuntimeDim::kM ? args.c.rows
                                 : args.transpose_a               ? args.a.rows
                                                                  : args.a.cols;
    const void* a = args.a.data;
    const void* b = args.b.data;
    void* c = args.c.data;
    if (widen_) {
      a = widened(args.a, scratch);
      b = widened(args.b, scratch + a_bytes_);
    }
    if (narrow_) c = scratch + a_bytes_ + b_bytes_;
    matmul_->run(a, b, c, scratch + a_bytes_ + b_bytes_ + c_bytes_, runtime_size);
    if (narrow_) convert({c, DType::kF32, args.c.rows, args.c.cols}, args.c, args.accumulate);
  }

 private:
  static const void* widened(const ops::ConstMatrix& from, std::byte* to) {
    convert(from, {to, DType::kF32, from.rows, from.cols}, false);
    return to;
  }

  bool widen_ = false;
  bool narrow_ = false;
  MatmulShape shape_;
  std::shared_ptr<const Matmul> matmul_;
  size_t a_bytes_ = 0, b_bytes_ = 0, c_bytes_ = 0;
};

// A piece of a grouped product: rows [begin, end) of one group. `item` counts the pieces of all
// groups in order.
struct Piece {
  int64_t group = 0, begin = 0, end = 0;
};
int64_t count_pieces(const ops::Vector<const int32_t>& offsets) {
  int64_t pieces = 0;
  for (int64_t g = 0; g + 1 < offsets.size; ++g) {
    pieces += ceil_div(offsets.data[g + 1] - offsets.data[g], kPieceRows);
  }
  return pieces;
}
Piece find_piece(const ops::Vector<const int32_t>& offsets, int64_t item) {
  for (int64_t g = 0;; ++g) {
    const int64_t begin = offsets.data[g], end = offsets.data[g + 1];
    const int64_t pieces = ceil_div(end - begin, kPieceRows);
    if (item < pieces) {
      return {g, begin + item * kPieceRows, std::min(end, begin + (item + 1) * kPieceRows)};
    }
    item -= pieces;
  }
}

template <typename StackType>
auto matrix_of(const StackType& stack, int64_t group) {
  using MatrixType =
      std::conditional_t<std::is_same_v<StackType, ops::Stack>, ops::Matrix, ops::ConstMatrix>;
  const MatrixType all(stack.data, stack.dtype, stack.groups * stack.rows, stack.cols);
  return all.row_range(group * stack.rows, stack.rows);
}

// A bf16 weight gradient whose depth is left open goes to oneDNN's plain gemm, which adds into f32
// faster than its blocked one (measured on Zen 5 at 1024³: 420 instead of 335 GF/s per core; f32
// gains nothing; not measured on AMX, where the blocked one stays).
bool open_depth_is_faster(const ops::Gemm& args) {
  return args.transpose_a && args.a.dtype == DType::kBf16 && args.c.dtype == DType::kF32 &&
         native_bf16() && !has_amx();
}

}  // namespace

void gemm(const ops::Context& ctx, const ops::Gemm& args) {
  if (args.c.rows == 0 || args.c.cols == 0) return;
  const int64_t k = args.transpose_a ? args.a.rows : args.a.cols;
  if (k == 0) {
    if (!args.accumulate) zero(args.c);
    return;
  }
  const RuntimeDim runtime = open_depth_is_faster(args) ? RuntimeDim::kK : RuntimeDim::kNone;
  const Product product(args, runtime, k, team_size());
  product.run(args, ctx.workspace->reserve(product.scratch_bytes()));
}

void grouped_gemm(const ops::Context& ctx, const ops::GroupedGemm& args) {
  const int64_t pieces = count_pieces(args.offsets);
  if (pieces == 0 || args.c.cols == 0) return;
  const auto of_piece = [&](const Piece& p) {
    return ops::Gemm{args.a.row_range(p.begin, p.end - p.begin),
                     matrix_of(args.b, p.group),
                     args.c.row_range(p.begin, p.end - p.begin),
                     false,
                     args.transpose_b,
                     args.accumulate};
  };
  if (args.a.cols == 0) {
    for (int64_t i = 0; i < pieces && !args.accumulate; ++i)
      zero(of_piece(find_piece(args.offsets, i)).c);
    return;
  }
  const int team = team_size();
  const bool spread = pieces >= team;  // otherwise the team works on one piece after the other
  const Product product(of_piece({0, 0, 1}), RuntimeDim::kM, kPieceRows, spread ? 1 : team);
  const int workers = spread ? team : 1;
  std::byte* scratch = ctx.workspace->reserve(product.scratch_bytes() * workers);
  const auto run = [&](int64_t item, std::byte* own) {
    product.run(of_piece(find_piece(args.offsets, item)), own);
  };
  if (!spread) {
    for (int64_t item = 0; item < pieces; ++item) run(item, scratch);
    return;
  }
  for_each_item(pieces, workers, scratch, product.scratch_bytes(), run);
}

void grouped_gemm_weight_grad(const ops::Context& ctx, const ops::GroupedGemmWeightGrad& args) {
  if (args.c.groups == 0 || args.c.rows == 0 || args.c.cols == 0) return;
  int64_t rows_max = 0;
  for (int64_t g = 0; g < args.c.groups; ++g) {
    rows_max = std::max<int64_t>(rows_max, args.offsets.data[g + 1] - args.offsets.data[g]);
  }
  const int team = team_size();
  // c_g is cut into pieces of whole rows: a multiple of 16, so that only the last is smaller.
  const int64_t piece_rows = std::min(args.c.rows, kPieceRows);
  const int64_t per_group = ceil_div(args.c.rows, piece_rows);
  const auto of_item = [&](int64_t item, int64_t rows) {
    const int64_t g = item / per_group, first = item % per_group * piece_rows;
    const int64_t begin = args.offsets.data[g], count = std::min(piece_rows, args.c.rows - first);
    return ops::Gemm{args.a.row_range(begin, rows).col_range(first, count),
                     args.b.row_range(begin, rows),
                     matrix_of(args.c, g).row_range(first, count),
                     true,
                     false,
                     args.accumulate};
  };
  const Product full(of_item(0, 0), RuntimeDim::kK, rows_max, 1);
  const Product last(of_item(per_group - 1, 0), RuntimeDim::kK, rows_max, 1);
  const size_t scratch_bytes = std::max(full.scratch_bytes(), last.scratch_bytes());
  std::byte* scratch = ctx.workspace->reserve(scratch_bytes * team);
  for_each_item(
      args.c.groups * per_group, team, scratch, scratch_bytes, [&](int64_t item, std::byte* own) {
        const int64_t g = item / per_group;
        const ops::Gemm piece = of_item(item, args.offsets.data[g + 1] - args.offsets.data[g]);
        if (piece.a.rows > 0) {
          (item % per_group == per_group - 1 ? last : full).run(piece, own);
        } else if (!args.accumulate) {
          zero(piece.c);
        }
      });
}

}  // namespace dsv3::cpu
