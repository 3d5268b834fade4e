// A small checkpoint's source and what tests do to folders of them.
//
// Law: the same on every run; all that is written lies under the folder that a test gives.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::checkpoint::testing_support {

inline std::vector<uint32_t> random_words(size_t count, const std::string& name) {
  const CounterRng rng(1, name_key(name));
  std::vector<uint32_t> words(count);
  for (size_t i = 0; i < count; ++i)
    words[i] = static_cast<uint32_t>(rng.bits(i));  // NaNs and denormals too
  return words;
}

// A small model's state; owns its tensors.
struct Saved {
  std::vector<uint32_t> weight = random_words(6, "w");
  std::vector<uint32_t> moment = random_words(1000, "m");
  std::vector<uint32_t> bias = random_words(4, "b");
  SaveRequest request;

  explicit Saved(const std::string& dir, int64_t step = 10, int64_t attempt = 1) {
    request.dir = dir;
    request.job = "job-1";
    request.attempt = attempt;
    request.step = step;
    request.spec_yaml = "model:\n  name: tiny  # ünïcode\n";
    request.state = {123456789012, 7, 10, 40960, "bf16", {{"loss_scale", "1"}, {"a", "b\n\"c\""}}};
    request.tensors.push_back({"model.w", DType::kF32, {2, 3}, weight.data()});
    request.tensors.push_back({exp_avg_name("model.w"), DType::kF32, {10, 100}, moment.data()});
    request.tensors.push_back({"half", DType::kBf16, {8}, bias.data()});
    request.tensors.push_back({"none", DType::kF32, {0, 5}, nullptr});
  }
};

inline int64_t count_in(const std::string& dir, const std::string& prefix) {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    count += entry.path().filename().string().starts_with(prefix) ? 1 : 0;
  }
  return count;
}

inline void flip_byte(const std::string& path, size_t at) {
  std::string bytes = read_file(path).value();
  ASSERT_LT(at, bytes.size());
  bytes[at] = static_cast<char>(bytes[at] ^ 0x04);
  overwrite(path, bytes);
}

// Every file of a folder by its name.
inline std::map<std::string, std::string> files_in(const std::string& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir))
    files[entry.path().filename().string()] = read_file(entry.path().string()).value();
  return files;
}

}  // namespace dsv3::checkpoint::testing_support
