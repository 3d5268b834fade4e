// Timing and forwarding; see profile.h.
#include "kernels/ops/profile.h"

namespace dsv3::ops {
namespace {

OpSignature bytes_signature(size_t bytes) {
  return {Role::kNone, DType::kF32, {1, static_cast<int64_t>(bytes / sizeof(float))}};
}

}  // namespace

void Profile::record(std::string_view op, const OpSignature& signature, OpCost cost, int64_t ns) {
  Totals& totals = entries_[{op, signature}];
  ++totals.calls;
  totals.ns += ns;
  totals.cost.flops += cost.flops;
  totals.cost.bytes += cost.bytes;
}

int64_t Profile::total_ns() const {
  int64_t sum = 0;
  for (const auto& [key, totals] : entries_) sum += totals.ns;
  return sum;
}

template <typename Body>
void ProfilingBackend::timed(std::string_view op, const OpSignature& signature, OpCost cost,
                             Stream stream, const Body& body) {
  const int64_t begin_ns = clock_.steady_ns();
  body();
  inner_.synchronize(stream);
  profile_.record(op, signature, cost, clock_.steady_ns() - begin_ns);
}

void ProfilingBackend::copy_to_device(void* to, const void* from_host, size_t bytes,
                                      Stream stream) {
  timed("copy_to_device", bytes_signature(bytes), {0, 2.0 * static_cast<double>(bytes)}, stream,
        [&] { inner_.copy_to_device(to, from_host, bytes, stream); });
}
void ProfilingBackend::copy_to_host(void* to_host, const void* from, size_t bytes, Stream stream) {
  timed("copy_to_host", bytes_signature(bytes), {0, 2.0 * static_cast<double>(bytes)}, stream,
        [&] { inner_.copy_to_host(to_host, from, bytes, stream); });
}
void ProfilingBackend::fill_zero(void* data, size_t bytes, Stream stream) {
  timed("fill_zero", bytes_signature(bytes), {0, static_cast<double>(bytes)}, stream,
        [&] { inner_.fill_zero(data, bytes, stream); });
}

// The inner back end gets a context of its own: what it calls inside stays inside.
#define DSV3_FORWARD(op, Args)                                      \
  void ProfilingBackend::op(const Context& ctx, const Args& args) { \
    timed(#op, signature_of(args), cost_of(args), ctx.stream, [&] { \
      Context inner = ctx;                                          \
      inner.backend = &inner_;                                      \
      inner_.op(inner, args);                                       \
    });                                                             \
  }
DSV3_PROFILED_OPS(DSV3_FORWARD)
#undef DSV3_FORWARD

}  // namespace dsv3::ops
