// Checksums of stored bytes: XXH3-128 (xxHash), printed as 32 hexadecimal digits.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace dsv3 {

// The checksum of one buffer.
std::string checksum(std::span<const std::byte> bytes);

// A checksum over pieces: equal to checksum() of their concatenation.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;
  void update(std::span<const std::byte> bytes);
  std::string hex() const;

 private:
  void* state_;
};

}  // namespace dsv3
