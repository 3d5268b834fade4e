// The job of the parity suite: a DeepSeek-V3 in small, with every mechanism on, and the ways in
// which it is run.
//
// Law: what is trained follows from the model's variant alone, never from the layout: two cases
// with the same variant must give the same losses and gradients.
#pragma once

#include <optional>
#include <ostream>
#include <string>

#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::parity {

// What changes the mathematics.
struct Variant {
  bool direct_query = false;  // no query latent
  bool tied = false;          // head and embedding are one
  std::optional<double> capacity_factor;
  // Every token goes to every expert, and no block of parameters needs padding: what is sent then
  // follows from the sizes alone.
  bool regular = false;
  bool bf16 = false;  // compute dtype, where the device multiplies in it
  bool operator==(const Variant&) const = default;
};

// A variant on a layout.
struct Case {
  Variant variant;
  plan::Layout layout;
  bool overlap = true;  // of gradient sums, and of the experts' exchange, with computation
};

inline constexpr int64_t kSteps = 3;
inline constexpr int64_t kSequences = 8;  // of a global batch
// Experts that the skewed routers never choose: 2 and 3 are all that a rank of EP 8 holds.
inline constexpr int64_t kStarvedExperts[] = {2, 3, 13};

// Eight layers (the first is dense), 16 experts in four groups, eight heads, one MTP module, all
// losses: every axis can be 8. The text is at `data` (write_text()).
spec::JobSpec parity_job(const Case& c, const std::string& data);
// The same variant in one process.
Case reference_of(const Case& c);
// Fills in what follows from the rest: micro-batches of a rank.
plan::Layout completed(plan::Layout layout);
// 60 documents in which each token follows from the one before.
void write_text(const std::string& prefix);
// "TP2 PP2 ZeRO-1 recompute none, direct query".
std::string to_string(const Case& c);
inline void PrintTo(const Case& c, std::ostream* out) {  // GoogleTest's name for it
  *out << to_string(c);
}
// The same as a test's name: letters, digits and underscores.
std::string test_name(const Case& c);

}  // namespace dsv3::parity
