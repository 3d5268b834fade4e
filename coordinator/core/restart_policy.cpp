// See restart_policy.h.
#include "coordinator/core/restart_policy.h"

#include "base/check.h"
#include "base/status.h"

namespace dsv3::core {
namespace {

constexpr int32_t kSignalBase = 128;
constexpr int32_t kSignalMax = 64;

bool is_consequence(int32_t code) {
  return code == static_cast<int32_t>(Code::kPeerLost) ||
         code == static_cast<int32_t>(Code::kCollectiveTimeout) ||
         code == static_cast<int32_t>(Code::kTerminated);
}

}  // namespace

bool is_retryable(int32_t code) {
  if (code > kSignalBase && code <= kSignalBase + kSignalMax) return true;
  return code == static_cast<int32_t>(Code::kDevice) ||
         code == static_cast<int32_t>(Code::kPeerLost) ||
         code == static_cast<int32_t>(Code::kCollectiveTimeout) ||
         code == static_cast<int32_t>(Code::kTemporary);
}

RestartDecision decide_restart(int32_t code, uint32_t idle_attempts) {
  DSV3_CHECK(code != 0);
  if (!is_retryable(code) || idle_attempts >= kIdleAttemptsMax) return {};
  return {true, idle_attempts <= 1 ? 0 : kFirstBackoffNs << (idle_attempts - 2)};
}

bool is_better_cause(int32_t before, int32_t now) {
  if (now == 0) return false;
  return before == 0 || (is_consequence(before) && !is_consequence(now));
}

}  // namespace dsv3::core
