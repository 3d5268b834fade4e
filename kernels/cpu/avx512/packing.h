// Operands packed for the AVX-512 products, and their results rounded.
//
// Laws: plain memory in, plain memory out; no parallelism and no allocation. Rows and columns that
// are missing to a whole unit or vector are zero in what is packed. pack_transposed() and
// copy_rows() fetch the 64 rows behind theirs: rows a kilobyte apart are no stream that the
// processor foresees.
//
//   T float or Bf16    unit: operands.h
#pragma once

#include "base/dtype.h"
#include "kernels/cpu/avx512/operands.h"

namespace dsv3::cpu::avx512 {

// to[u, r] = unit u of row r: [units of cols, to_rows]; to_rows: a multiple of 16, ≥ rows.
template <typename T>
void pack_transposed(const T* from, int64_t stride, int64_t rows, int64_t cols, uint32_t* to,
                     int64_t to_rows);
// to[u, c] = column c of the rows of unit u, [units, to_cols]; to_cols: a multiple of 16, ≥ cols.
template <typename T>
void pack_paired(const T* from, int64_t stride, int64_t rows, int64_t cols, uint32_t* to,
                 int64_t units, int64_t to_cols);
// to[r, c] = from[r, c] for c < cols, 0 up to to_cols; rows from `rows` to to_rows are 0.
template <typename T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t cols, T* to, int64_t to_rows,
               int64_t to_cols, int64_t to_stride);
// to[r, c] = from[r, c] rounded to T.
template <typename T>
void store_rows(const float* from, int64_t from_stride, int64_t rows, int64_t cols, T* to,
                int64_t to_stride);

}  // namespace dsv3::cpu::avx512
