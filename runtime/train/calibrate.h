// Measuring this machine: seconds of every op of training by its sizes, through the back end that
// trains, for predicting steps (cluster/plan/calibration.h).
//
// Laws: what is measured are ops, and for what a step adds to them the steps of a reference model
// that is nobody's job: no configuration's step time goes into the numbers that predict it.
// Operands are where a step has them: what was written just before (activations of the op before,
// gradients on their way) is as the caches have it, what was written long ago (weights, their
// gradients, what the forward left for the backward) comes from memory. A time is the lower
// quartile of several calls (of one where it is long) after one that builds what is built once, and
// the shorter of two such some seconds apart: other programs only make calls slower, in bursts, and
// a quarter of the calls is not luck. Values are random: zeros would flatter.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "base/status.h"
#include "cluster/plan/calibration.h"
#include "runtime/comm/communicator.h"
#include "runtime/device/device.h"

namespace dsv3::train {

struct CalibrateOptions {
  bool quick = false;  // fewer sizes: for trying out
  int64_t threads = 1;
  // How often everything is measured. Ranks that take turns on too few cores need no second pass:
  // their calls wait for one another longer than for other programs.
  int passes = 2;
  // The other ranks that share the machine, which measure the same at the same time; null: alone.
  comm::Communicator* group = nullptr;
  // Called before each phase; done of total are shares of the time it all takes. May be empty.
  std::function<void(std::string_view phase, int64_t done, int64_t total)> progress;
};

// Takes up to a minute (quick: some seconds) and some 600 MiB. Throws Failure as ops and
// communicators do.
plan::CalibrationSet calibrate(device::Device& device, const CalibrateOptions& options);

}  // namespace dsv3::train
