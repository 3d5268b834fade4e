// See calibration_file.h.
#include "cluster/inventory/calibration_file.h"

#include <memory>
#include <utility>

#include "base/file.h"
#include "cluster/plan/calibration.h"

namespace dsv3::inventory {

std::string calibration_path(const std::string& state_dir) {
  return state_dir + "/" + std::string(plan::kCalibrationFile);
}

Result<std::optional<plan::DeviceModel>> calibrated_device(const std::string& path,
                                                           const std::string& dtype) {
  if (!path_exists(path)) return std::optional<plan::DeviceModel>();
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  auto calibration = plan::parse_calibration(text);
  if (!calibration.ok())
    return Status(calibration.status().code(), path + ": " + calibration.status().message(),
                  calibration.status().hint());
  return std::optional(plan::calibrated_device_model(
      std::make_shared<const plan::Calibration>(std::move(calibration).value()), dtype));
}

}  // namespace dsv3::inventory
