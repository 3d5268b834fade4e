// SwiGLU as its formula in args.h says; see reference_backend.h.
#include <cmath>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {
namespace {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

int64_t live_rows(int64_t rows, const int32_t* num_rows) {
  return num_rows ? *num_rows : rows;
}

}  // namespace

void ReferenceBackend::swiglu_forward(const ops::Context&, const ops::SwigluForward& args) {
  const int64_t width = args.y.cols;
  for (int64_t r = 0; r < live_rows(args.y.rows, args.num_rows); ++r) {
    const double scale = args.row_scale.empty() ? 1.0 : args.row_scale.data[r];
    for (int64_t i = 0; i < width; ++i) {
      const double gate = load(args.gate_up, r, i);
      const double up = load(args.gate_up, r, width + i);
      store(args.y, r, i, gate * sigmoid(gate) * up * scale);
    }
  }
}

void ReferenceBackend::swiglu_backward(const ops::Context&, const ops::SwigluBackward& args) {
  const int64_t width = args.dy.cols;
  for (int64_t r = 0; r < live_rows(args.dy.rows, args.num_rows); ++r) {
    const double scale = args.row_scale.empty() ? 1.0 : args.row_scale.data[r];
    double dscale = 0.0;
    for (int64_t i = 0; i < width; ++i) {
      const double gate = load(args.gate_up, r, i);
      const double up = load(args.gate_up, r, width + i);
      const double dy = load(args.dy, r, i);
      const double s = sigmoid(gate);
      dscale += dy * gate * s * up;
      store(args.dgate_up, r, i, dy * scale * up * (s + gate * s * (1.0 - s)));
      store(args.dgate_up, r, width + i, dy * scale * gate * s);
    }
    if (!args.row_scale.empty()) args.drow_scale.data[r] = static_cast<float>(dscale);
  }
}

}  // namespace dsv3::reference
