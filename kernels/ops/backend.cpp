// The failure of an op that a back end does not have; see backend.h.
#include "kernels/ops/backend.h"

#include "base/failure.h"

namespace dsv3::ops {

void Backend::missing(const char* op) const {
  throw Failure(Code::kDevice, std::string(name()) + ": " + op,
                "this back end was built without the op");
}

}  // namespace dsv3::ops
