// The speed of this machine's processor as `dsv3ctl calibrate` left it in the state directory.
#pragma once

#include <optional>
#include <string>

#include "base/status.h"
#include "cluster/plan/device_model.h"

namespace dsv3::inventory {

// calibration.json of that state directory.
std::string calibration_path(const std::string& state_dir);

// The device that the file describes, for `dtype` (training.dtype). Absent where there is no file;
// kInvalid, naming the file, where it is not usable.
Result<std::optional<plan::DeviceModel>> calibrated_device(const std::string& path,
                                                           const std::string& dtype);

}  // namespace dsv3::inventory
