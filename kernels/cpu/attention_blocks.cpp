// Block sizes of the attention and its pairs of primitives; see attention_blocks.h.
#include "kernels/cpu/attention_blocks.h"

#include <immintrin.h>

namespace dsv3::cpu {
namespace {

// Measured: 64 × 128 keeps scores, probabilities and one packed block of keys in the L2 cache for
// heads of 192 + 128, and wastes at most 3/4 of a block at the diagonal.
constexpr int64_t kQueryRows = 64;
constexpr int64_t kKeyRows = 128;

}  // namespace

void transpose_tile(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  __m256 row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(from + i * from_stride);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xEE);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31));
  }
}

void transpose_tile(const Bf16* from, int64_t from_stride, Bf16* to, int64_t to_stride) {
  __m128i row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i)
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  for (int i = 0; i < 4; ++i) {  // rows 2i and 2i + 1, element by element
    pair[2 * i] = _mm_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = _mm_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half) {  // rows 4·half to 4·half + 3: columns 0-1, 2-3, 4-5, 6-7
    quad[4 * half] = _mm_unpacklo_epi32(pair[4 * half], pair[4 * half + 2]);
    quad[4 * half + 1] = _mm_unpackhi_epi32(pair[4 * half], pair[4 * half + 2]);
    quad[4 * half + 2] = _mm_unpacklo_epi32(pair[4 * half + 1], pair[4 * half + 3]);
    quad[4 * half + 3] = _mm_unpackhi_epi32(pair[4 * half + 1], pair[4 * half + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    __m128i* even = reinterpret_cast<__m128i*>(to + 2 * i * to_stride);
    __m128i* odd = reinterpret_cast<__m128i*>(to + (2 * i + 1) * to_stride);
    _mm_storeu_si128(even, _mm_unpacklo_epi64(quad[i], quad[4 + i]));
    _mm_storeu_si128(odd, _mm_unpackhi_epi64(quad[i], quad[4 + i]));
  }
}

AttentionBlocks::AttentionBlocks(const ops::MlaShape& shape)
    : sequence(shape.sequence),
      all_queries(shape.num_queries()),
      offset(sequence - all_queries),
      q_rows(kQueryRows),
      kv_rows(kKeyRows) {
  // A short sequence is one block; sizes come in steps of 16 so that few primitives are made.
  if (sequence <= kQueryRows) q_rows = kv_rows = ceil_div(sequence, 16) * 16;
  num_q = ceil_div(all_queries, q_rows);
  num_kv = ceil_div(sequence, kv_rows);
}

BlockMatmul::BlockMatmul(const MatmulShape& shape, RuntimeDim q_dim,
                         const AttentionBlocks& blocks) {
  full_ = short_ = cached_matmul(shape, 1);
  const int64_t last = blocks.queries(blocks.num_q - 1);
  if (q_dim == RuntimeDim::kNone || last == blocks.q_rows) return;
  MatmulShape short_shape = shape;
  if (q_dim == RuntimeDim::kM) {
    short_shape.m = last;
    if (shape.packed_b) short_shape.packed_m = shape.m;
  } else {
    short_shape.k = last;
  }
  short_ = cached_matmul(short_shape, 1);
}

}  // namespace dsv3::cpu
