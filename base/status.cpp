// Names of the frozen codes and the one-sentence rendering of an error; see status.h.
#include "base/status.h"

namespace dsv3 {

const char* code_name(Code code) {
  switch (code) {
    case Code::kOk:
      return "ok";
    case Code::kFailed:
      return "failed";
    case Code::kInvalid:
      return "invalid";
    case Code::kNoCoordinator:
      return "no_coordinator";
    case Code::kNotAuthorised:
      return "not_authorised";
    case Code::kNotFound:
      return "not_found";
    case Code::kDoesNotFit:
      return "does_not_fit";
    case Code::kConflict:
      return "conflict";
    case Code::kDevice:
      return "device_error";
    case Code::kPeerLost:
      return "peer_lost";
    case Code::kCollectiveTimeout:
      return "collective_timeout";
    case Code::kOutOfMemory:
      return "out_of_memory";
    case Code::kLossNotFinite:
      return "loss_not_finite";
    case Code::kCheckpointUnusable:
      return "checkpoint_unusable";
    case Code::kTemporary:
      return "temporary";
    case Code::kNeverRestart:
      return "never_restart";
    case Code::kTimeout:
      return "timeout";
    case Code::kInterrupted:
      return "interrupted";
    case Code::kTerminated:
      return "terminated";
  }
  return "unknown";
}

std::string Status::to_string() const {
  if (ok()) return "ok";
  std::string text = where_.empty() ? message_ : where_ + ": " + message_;
  if (!hint_.empty()) text += "; " + hint_;
  return text;
}

}  // namespace dsv3
