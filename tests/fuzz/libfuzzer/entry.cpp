// What libFuzzer calls: the binary's one format, chosen by its CMakeLists.txt.
//
// Law: nothing is decided here; targets.h says what each format's function does.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dsv3::fuzz::DSV3_FUZZ_TRY({reinterpret_cast<const char*>(data), size});
  return 0;
}
