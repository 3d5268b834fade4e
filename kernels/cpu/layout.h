// Layout: where the parts of one reservation of the workspace lie.
//
// Law: every part starts on a cache line.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/parallel.h"

namespace dsv3::cpu {

// Offsets of the parts of one reservation.
class Layout {
 public:
  // Room for `count` elements of T, 64-byte aligned; returns its offset in bytes.
  template <typename T>
  size_t add(int64_t count) {
    return add_bytes(count * sizeof(T));
  }
  size_t add_bytes(size_t bytes) {
    const size_t offset = size_;
    size_ += aligned_bytes(bytes);
    return offset;
  }
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

}  // namespace dsv3::cpu
