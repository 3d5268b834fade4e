// A Hugging Face model folder, opened for reading: config.json and every tensor of its safetensors
// files.
//
// Laws: nothing is held in memory but the names: values are read through the maps, range by range,
// and the pages are given back behind the reader. A folder that opens has every file that its index
// names and no tensor twice. Values come out as f32: 8-bit weights are multiplied by their blocks'
// weight_scale_inv (DeepSeek's way: the name says inverse, the number is the multiplier).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/checkpoint/safetensors.h"

namespace dsv3::convert {

// What convert needs of config.json beside the keys that configs/spec understands.
struct HfWeightsInfo {
  bool fp8 = false;  // quantization_config says so
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  std::string dtype;  // torch_dtype or dtype, "" when absent
};

// Move-only; const calls are thread-safe.
class HfFolder {
 public:
  // kNotFound for a folder, config.json, weight file or shard that is not there; kInvalid, naming
  // file and fault, for what is malformed.
  static Result<HfFolder> open(const std::string& dir);

  const std::string& dir() const { return dir_; }
  std::string config_path() const { return dir_ + "/config.json"; }
  const HfWeightsInfo& info() const { return info_; }

  struct Tensor {
    const checkpoint::SafetensorsFile* file = nullptr;
    const checkpoint::SafetensorsTensor* entry = nullptr;
  };
  // By name, the scales of 8-bit weights too.
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  const Tensor* find(std::string_view name) const;
  int64_t num_files() const { return static_cast<int64_t>(files_.size()); }

  // kInvalid, naming the tensor, when `name`'s values cannot be had: an unknown dtype, an 8-bit
  // weight that is no matrix or has no scale of the right shape. Requires that the tensor is there.
  Status check_readable(std::string_view name) const;
  // The elements [begin, begin + out.size()) of the flat tensor. Requires check_readable().
  void read_f32(std::string_view name, int64_t begin, std::span<float> out) const;

 private:
  Status add_file(const std::string& file);
  Status open_index(const std::string& path);

  std::string dir_;
  HfWeightsInfo info_;
  std::vector<std::unique_ptr<checkpoint::SafetensorsFile>> files_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// "X.weight_scale_inv" for "X.weight".
std::string scale_name(std::string_view weight);

}  // namespace dsv3::convert
