// See restart_policy.h.
#include "coordinator/core/restart_policy.h"

#include "base/check.h"
#include "base/status.h"

namespace dsv3::core {
namespace {

constexpr int32_t kKilled = 128 + 9;

bool is_consequence(int32_t code) {
  return code == static_cast<int32_t>(Code::kPeerLost) ||
         code == static_cast<int32_t>(Code::kCollectiveTimeout) ||
         code == static_cast<int32_t>(Code::kTerminated) || code == kKilled;
}

}  // namespace

RestartDecision decide_restart(int32_t code, uint32_t attempt) {
  DSV3_CHECK(code != 0 && attempt >= 1);
  if (code != static_cast<int32_t>(Code::kTemporary) || attempt >= kAttemptsMax) return {};
  return {true, kFirstBackoffNs << (attempt - 1)};
}

bool is_better_cause(int32_t before, int32_t now) {
  if (now == 0) return false;
  return before == 0 || (is_consequence(before) && !is_consequence(now));
}

}  // namespace dsv3::core
