// Fuzzes a .safetensors file: its length, JSON header and the data behind it.
//
// Law (safetensors.h): the tensors of a file that opens tile its data, each as large as its shape
// and dtype say, and every byte of them can be read.
#include <cstdint>

#include "base/check.h"
#include "runtime/checkpoint/safetensors.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_safetensors(std::string_view bytes) {
  const auto file = checkpoint::SafetensorsFile::open(put_file("x.safetensors", bytes));
  if (!file.ok()) return Verdict::kRefused;
  int64_t at = 0;
  unsigned sum = 0;
  for (const auto& tensor : file->tensors()) {
    DSV3_CHECK(tensor.begin_byte == at, "a hole or an overlap");
    at = tensor.end_byte;
    const auto data = file->bytes(tensor);
    DSV3_CHECK(static_cast<int64_t>(data.size()) ==
               tensor.num_elements() * checkpoint::safetensors_tag_bytes(tensor.tag));
    for (const std::byte byte : data) sum += static_cast<unsigned>(byte);
    DSV3_CHECK(file->find(tensor.name) != nullptr);
    (void)file->read_f32(tensor.name);
  }
  volatile unsigned keep = sum;  // so that the bytes are read
  (void)keep;
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
