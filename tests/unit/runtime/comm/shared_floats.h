// SharedFloats: what the ranks of a test, which are processes, hand to the test.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace dsv3::comm {

// Floats that ranks forked after it write and the test reads; zero at first.
class SharedFloats {
 public:
  explicit SharedFloats(size_t count) : bytes_(count * sizeof(float)) {
    void* memory =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<float*>(memory);
  }
  ~SharedFloats() { ::munmap(data_, bytes_); }
  SharedFloats(const SharedFloats&) = delete;
  SharedFloats& operator=(const SharedFloats&) = delete;
  float* data() { return data_; }

 private:
  size_t bytes_;
  float* data_;
};

}  // namespace dsv3::comm
