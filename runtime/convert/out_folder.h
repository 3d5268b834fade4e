// What import and export ask of the place that they write to.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace dsv3::convert {

// kConflict unless `dir` is absent or an empty folder (what a checkpoint's killed writer leaves
// doesn't count).
Status check_free(const std::string& dir);

// kDoesNotFit when the disk of `path`, which need not exist yet, has less than `bytes` free.
Status check_room(const std::string& path, int64_t bytes);

}  // namespace dsv3::convert
