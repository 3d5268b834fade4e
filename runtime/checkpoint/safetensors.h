// safetensors files: an 8-byte length, a JSON header, raw tensors. Reader (memory-mapped) and
// streaming writer.
//
// Law: a file that opens is wholly accounted for: its tensors tile the data without hole or overlap
// up to the last byte, each as large as its shape and dtype say, no name twice, the header at most
// 100,000,000 bytes and 4,000,000 JSON values, so that reading it takes a gigabyte at worst. The
// writer makes only such files. The format: FORMAT.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "base/hash.h"
#include "base/status.h"

namespace dsv3::checkpoint {

inline constexpr int64_t kSafetensorsHeaderBytesMax = 100'000'000;
// Of one file: four times what the largest released model has in all its files.
inline constexpr int64_t kSafetensorsTensorsMax = 400'000;

// The format's tag of a dtype: "F32", "BF16", "I32", "I64", "F64".
const char* safetensors_tag(DType dtype);
// The dtype of a tag; nullopt for one that the runtime has no use for (F16, U8, F8_E4M3 …).
std::optional<DType> dtype_of_tag(std::string_view tag);
// Bytes of one element; 0 for an unknown tag.
int64_t safetensors_tag_bytes(std::string_view tag);

struct SafetensorsTensor {
  std::string name;
  std::string tag;  // "F32", …
  std::vector<int64_t> shape;
  int64_t begin_byte = 0;  // in the data part
  int64_t end_byte = 0;

  int64_t num_elements() const;
};

// An open file. Move-only; spans live as long as it; const calls are thread-safe.
class SafetensorsFile {
 public:
  // kNotFound when absent, kInvalid (naming path and fault) when a check fails.
  static Result<SafetensorsFile> open(const std::string& path);
  // In the order of their data.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  // nullptr where there is no such tensor.
  const SafetensorsTensor* find(std::string_view name) const;
  // The tensor's bytes, little-endian, row-major; not aligned for its dtype, so copy before use.
  std::span<const std::byte> bytes(const SafetensorsTensor& tensor) const;
  // The tensor's elements as float (F32, BF16, F16 not); kNotFound, kInvalid for other dtypes.
  Result<std::vector<float>> read_f32(std::string_view name) const;
  // "__metadata__": strings.
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }
  // The whole file's bytes.
  std::span<const std::byte> file_bytes() const { return file_.bytes(); }

 private:
  std::string path_;
  MappedFile file_;
  int64_t data_begin_ = 0;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

// Sorts `tensors` (name, tag and shape given) as they lie in a file, largest element first, then by
// name, sets their offsets in the data part, and gives what stands before the data: the length and
// the header, padded to a multiple of 8 bytes. kInvalid, naming `path`, for a name twice, an
// unknown tag, a header or a number of tensors above its limit.
Result<std::string> lay_out_safetensors(const std::string& path,
                                        std::vector<SafetensorsTensor>& tensors,
                                        const std::map<std::string, std::string>& metadata);

// Writes one file: declare the tensors, then hand over their bytes in the order of order().
class SafetensorsWriter {
 public:
  // `tensors` gives name, tag and shape; begin/end are computed. kInvalid for a name twice or an
  // unknown tag.
  static Result<SafetensorsWriter> create(const std::string& path,
                                          std::vector<SafetensorsTensor> tensors,
                                          const std::map<std::string, std::string>& metadata = {});
  // As they lie in the file: largest element first, then by name.
  const std::vector<SafetensorsTensor>& order() const { return tensors_; }
  // The next bytes of the data part; pieces may be of any size.
  Status append(std::span<const std::byte> bytes);
  // Publishes the file; kFailed when bytes are missing. `checksum` of base/hash.h and size of the
  // whole file then hold.
  Status finish();
  const std::string& checksum() const { return checksum_; }
  int64_t size_bytes() const { return file_.size_bytes(); }

 private:
  std::string path_;
  FileWriter file_;
  std::unique_ptr<Checksum> running_;
  std::string checksum_;
  std::vector<SafetensorsTensor> tensors_;
  int64_t bytes_left_ = 0;
};

}  // namespace dsv3::checkpoint
