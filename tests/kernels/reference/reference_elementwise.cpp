// Add and cast as args.h says; see reference_backend.h.
#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::add(const ops::Context&, const ops::Add& args) {
  for (int64_t r = 0; r < args.y.rows; ++r) {
    for (int64_t c = 0; c < args.y.cols; ++c)
      store(args.y, r, c, load(args.y, r, c) + load(args.x, r, c));
  }
}

void ReferenceBackend::cast(const ops::Context&, const ops::Cast& args) {
  for (int64_t r = 0; r < args.y.rows; ++r) {
    for (int64_t c = 0; c < args.y.cols; ++c) store(args.y, r, c, load(args.x, r, c));
  }
}

}  // namespace dsv3::reference
