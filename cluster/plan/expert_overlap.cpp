// The equation of expert_overlap.h.
#include "cluster/plan/expert_overlap.h"

#include <algorithm>

namespace dsv3::plan {

double exposed_seconds(const ExpertExchange& x) {
  const auto parts = static_cast<double>(x.parts);
  const double there = x.there_s / parts, back = x.back_s / parts, here = x.experts_s / parts;
  const auto computed = [&](double i) {
    return std::max({x.before_s + i * here, there + i * here, i * there + here});
  };
  const double last = computed(parts);
  const double home = std::max({x.there_s + x.back_s, computed(1) + x.back_s, last + back});
  return std::max(last + x.after_s, home) - (x.before_s + x.experts_s + x.after_s);
}

}  // namespace dsv3::plan
