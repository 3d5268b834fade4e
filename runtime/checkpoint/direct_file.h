// Writing memory to a file past the page cache (O_DIRECT): the disk fetches the bytes itself, so
// that a writer beside a training loop takes next to no time of its processors.
//
// Law: the file's bytes are the same whether the file system can do it or not; where it cannot
// (tmpfs of older kernels, odd block sizes), an ordinary write takes its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/status.h"

namespace dsv3::checkpoint {

// What addresses, offsets and lengths of direct writes are multiples of.
inline constexpr int64_t kBlockBytes = 4096;

constexpr int64_t rounded_to_blocks(int64_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

// Creates `path` with `bytes` and flushes it; the caller flushes the folder. bytes.data() is a
// multiple of kBlockBytes, and the memory goes on to the next such multiple (what is there is
// written and cut off again). `before_piece` sees each piece before it is written, and
// `before_flush` may refuse the flush. kFailed, naming the path and the system's reason; the file
// is left for the caller to remove with its folder.
Status write_direct(const std::string& path, std::span<const std::byte> bytes,
                    const std::function<void(std::span<const std::byte>)>& before_piece,
                    const std::function<Status()>& before_flush);

}  // namespace dsv3::checkpoint
