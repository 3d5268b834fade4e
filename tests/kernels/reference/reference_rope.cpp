// RoPE of the reference: one pair at a time.
#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::rope(const ops::Context&, const ops::Rope& args) {
  const int64_t pairs = args.rope_dim / 2;
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t h = 0; h < args.heads; ++h)
      for (int64_t i = 0; i < pairs; ++i) {
        const int64_t at = t * args.token_stride + h * args.head_stride + 2 * i;
        const double a = load(args.x, args.dtype, at), b = load(args.x, args.dtype, at + 1);
        const double cos = args.cos.data[t % args.sequence * pairs + i];
        const double sin =
            args.sin.data[t % args.sequence * pairs + i] * (args.transpose ? -1.0 : 1.0);
        store(args.x, args.dtype, at, a * cos - b * sin);
        store(args.x, args.dtype, at + 1, a * sin + b * cos);
      }
}

}  // namespace dsv3::reference
