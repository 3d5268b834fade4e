// What of the experts' exchange computation doesn't hide, when a rank's experts are computed in
// parts.
//
// Law: PURE. The order is the runtime's (runtime/model/moe.h), forward and backward alike: all
// parts set out at once; while they come, what needs none of them is computed (the shared experts'
// first half); then part by part its experts, each waiting for its own rows, and its rows set out
// for home; then what needs nothing of it (the shared experts' second half, the weights'
// gradients); then everybody is home. The link carries one part at a time, in the order in which
// they set out; it takes no time from computation. (Tutel's adaptive pipelining, Hwang et al. 2023,
// arXiv 2206.03382; parts instead of the second micro-batch of DualPipe.)
#pragma once

#include <cstdint>

namespace dsv3::plan {

// Seconds, of all parts together; parts are equal.
struct ExpertExchange {
  int64_t parts = 1;
  double there_s = 0;    // on the link
  double back_s = 0;     // on the link
  double before_s = 0;   // computed while the first part comes
  double experts_s = 0;  // computed on the rows
  double after_s = 0;    // computed while the last part goes home
};

// How much longer all takes than before_s + experts_s + after_s. With D, C, U, E, S in the order of
// the fields and d = D/P, c = C/P, e = E/P the i-th part is computed at
//   e_i = max(U + i e, d + i e, i d + e),
// which is a maximum over straight lines in i, as is when the link is done,
//   max(D + C, e_1 + C, e_P + c).
// Example, P 4: D = C = 4, U = S = 1, E = 8: e_4 = 9, link 10 (e_4 + c), computed 10: exposed 0;
// with E = 4: e_4 = 5, link 8 (D + C), computed 6: exposed 2.
double exposed_seconds(const ExpertExchange& exchange);

}  // namespace dsv3::plan
