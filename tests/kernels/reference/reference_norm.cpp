// RMSNorm of the reference, line by line the formulas of args.h.
#include <cmath>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::rms_norm_forward(const ops::Context&, const ops::RmsNormForward& args) {
  const int64_t width = args.x.cols;
  for (int64_t r = 0; r < args.x.rows; ++r) {
    double squares = 0.0;
    for (int64_t i = 0; i < width; ++i) squares += load(args.x, r, i) * load(args.x, r, i);
    const double rstd = 1.0 / std::sqrt(squares / static_cast<double>(width) + args.eps);
    for (int64_t i = 0; i < width; ++i)
      store(args.y, r, i, load(args.x, r, i) * rstd * args.gain.data[i]);
    args.rstd.data[r] = static_cast<float>(rstd);
  }
}

void ReferenceBackend::rms_norm_backward(const ops::Context&, const ops::RmsNormBackward& args) {
  const int64_t width = args.x.cols;
  for (int64_t r = 0; r < args.x.rows; ++r) {
    const double rstd = args.rstd.data[r];
    double mean = 0.0;  // of dy · gain · x̂
    for (int64_t i = 0; i < width; ++i) {
      mean += load(args.dy, r, i) * args.gain.data[i] * load(args.x, r, i) * rstd /
              static_cast<double>(width);
    }
    for (int64_t i = 0; i < width; ++i) {
      const double x_hat = load(args.x, r, i) * rstd;
      if (args.dx.data) {
        const double dx = rstd * (load(args.dy, r, i) * args.gain.data[i] - x_hat * mean);
        store(args.dx, r, i, dx + (args.accumulate_dx ? load(args.dx, r, i) : 0.0));
      }
    }
  }
  for (int64_t i = 0; i < width && !args.dgain.empty(); ++i) {
    double sum = args.dgain.data[i];
    for (int64_t r = 0; r < args.x.rows; ++r)
      sum += load(args.dy, r, i) * load(args.x, r, i) * args.rstd.data[r];
    args.dgain.data[i] = static_cast<float>(sum);
  }
}

}  // namespace dsv3::reference
