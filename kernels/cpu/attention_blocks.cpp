// Block sizes of the attention and its pairs of primitives; see attention_blocks.h.
#include "kernels/cpu/attention_blocks.h"

namespace dsv3::cpu {
namespace {

// Measured: 64 × 128 keeps scores, probabilities and one packed block of keys in the L2 cache for heads of 192 + 128, and wastes
// at most 3/4 of a block at the diagonal.
constexpr int64_t kQueryRows = 64;
constexpr int64_t kKeyRows = 128;

}  // namespace

AttentionBlocks::AttentionBlocks(const ops::MlaShape& shape)
    : sequence(shape.sequence), q_rows(kQueryRows), kv_rows(kKeyRows) {
  // A short sequence is one block; sizes come in steps of 16 so that few primitives are made.
  if (sequence <= kQueryRows) q_rows = kv_rows = ceil_div(sequence, 16) * 16;
  num_q = ceil_div(sequence, q_rows);
  num_kv = ceil_div(sequence, kv_rows);
}

BlockMatmul::BlockMatmul(const MatmulShape& shape, RuntimeDim q_dim, const AttentionBlocks& blocks) {
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
