// Running a case: ranks as processes, and what they bring home put together into whole tensors.
//
// Laws: (1) nothing of the model is computed in the test's own process. (2) Every element of every
// gradient must come from exactly one rank: none missing, none twice. (3) Losses and norms are the
// same bits on every rank of a run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/train/session.h"
#include "tests/parity/job.h"

namespace dsv3::comm {
class Mesh;
class RankGroups;
}  // namespace dsv3::comm

namespace dsv3::parity {

struct StepNumbers {
  double loss = 0, lm_loss = 0, mtp_loss = 0, aux_loss = 0, z_loss = 0, grad_norm = 0;
  bool operator==(const StepNumbers&) const = default;
};

// What a whole run gave.
struct Outcome {
  std::vector<StepNumbers> steps;
  std::vector<int64_t> counts;                // of step 1: [MoE layers · experts]
  std::vector<std::vector<float>> gradients;  // of step 1, by tensor of model_tensors()
  std::string fault;                          // "" or what went wrong: then nothing else holds
};

// Trains kSteps steps of the case, its routers skewed, on its layout's ranks. Files go to `folder`,
// which has the text "data".
Outcome run_case(const Case& c, const std::string& folder);

// "" when the runs agree: losses to 1e-5 of their size, each gradient to 1e-4 of its own largest
// value and 1e-7 of the model's, counts exactly. Else one line: what, where, both values.
std::string difference(const Case& c, const Outcome& reference, const Outcome& run);

// In a rank's process: one thread, its groups. Throws where the ranks don't meet.
struct Peers {
  Peers();
  ~Peers();
  std::unique_ptr<comm::Mesh> mesh;
  std::unique_ptr<comm::RankGroups> owned;
  comm::Groups groups;
};
std::unique_ptr<Peers> meet(const plan::Layout& layout, const spec::ModelSpec& model,
                            const std::string& rendezvous, int rank);
inline std::unique_ptr<Peers> meet(const Case& c, const std::string& rendezvous, int rank) {
  return meet(c.layout, parity_job(c, "").model, rendezvous, rank);
}
// A session with drawn weights and, unless every expert is chosen (Variant::regular), routers that
// never choose kStarvedExperts.
std::unique_ptr<train::Session> skewed_session(const spec::JobSpec& job,
                                               const comm::Groups& groups);

}  // namespace dsv3::parity
