// Names of element types; see dtype.h.
#include "base/dtype.h"

namespace dsv3 {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBf16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kF64:
      return "f64";
  }
  return "unknown";
}

}  // namespace dsv3
