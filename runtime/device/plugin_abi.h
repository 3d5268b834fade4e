// What a device plug-in exports: one C function, versioned by its name.
//
// Law: missing hardware is an object, not an #ifdef. dsv3-worker opens libdsv3_cuda.so at run
// time, so one set of binaries starts everywhere; a plug-in of another version lacks the symbol
// and is refused by name instead of crashing.
#pragma once

#include <cstddef>

namespace dsv3::ops {
class Backend;
}

// Creates the plug-in's back end (owned by the caller, deleted while the library is still open), or
// returns null and writes one zero-terminated sentence of at most error_bytes into `error`.
extern "C" {
using Dsv3BackendCreateV2 = dsv3::ops::Backend* (*)(char* error, size_t error_bytes);
}

namespace dsv3::device {
inline constexpr const char* kCreateSymbol = "dsv3_backend_create_v2";
inline constexpr const char* kCudaPlugin = "libdsv3_cuda.so";
}  // namespace dsv3::device
