// Failure: the one exception type, for device and collective failures inside a rank.
//
// Law: the process is the unit of recovery. Failure is thrown by kernels, devices and communicators
// and caught only in the rank's main, which writes the exit report (code, rank, step, operation)
// and ends the process.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "base/status.h"

namespace dsv3 {

class Failure : public std::runtime_error {
 public:
  // `operation` names the op, collective or allocation that failed ("cuda: rms_norm_forward").
  Failure(Code code, std::string operation, const std::string& message)
      : std::runtime_error(operation + ": " + message),
        code_(code),
        operation_(std::move(operation)) {}
  Code code() const { return code_; }
  const std::string& operation() const { return operation_; }

 private:
  Code code_;
  std::string operation_;
};

}  // namespace dsv3
