// Fuzzes a Hugging Face folder's config.json and model.safetensors.index.json; its two shards are
// good.
//
// Law (hf_folder.h): a folder that opens has every file that its index names, and each of its
// tensors can be read or is refused by name.
#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/convert/hf_folder.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {
namespace {

void put_shard(const std::string& file, std::vector<checkpoint::SafetensorsTensor> tensors) {
  auto header = checkpoint::lay_out_safetensors(file, tensors, {});
  DSV3_CHECK(header.ok());
  header->append(static_cast<size_t>(tensors.back().end_byte), '\x38');
  (void)put_file(file, *header);
}

void put_shards() {
  put_shard("a.safetensors", {{.name = "model.norm.weight", .tag = "F32", .shape = {8}},
                              {.name = "w.weight", .tag = "F8_E4M3", .shape = {4, 6}}});
  put_shard("b.safetensors", {{.name = "w.weight_scale_inv", .tag = "F32", .shape = {2, 3}},
                              {.name = "lm_head.weight", .tag = "BF16", .shape = {3, 2}}});
}

}  // namespace

Verdict try_hf_folder(std::string_view bytes) {
  constexpr std::string_view kBetween = "\n-----\n";
  static const bool shards_are_there = [] {
    put_shards();
    return true;
  }();
  (void)shards_are_there;
  const size_t cut = bytes.find(kBetween);
  (void)put_file("config.json", bytes.substr(0, cut));
  (void)put_file("model.safetensors.index.json", cut == std::string_view::npos
                                                     ? std::string_view("{}")
                                                     : bytes.substr(cut + kBetween.size()));
  const auto folder = convert::HfFolder::open(scratch_folder());
  if (!folder.ok()) return Verdict::kRefused;
  for (const auto& [name, tensor] : folder->tensors()) {
    if (!folder->check_readable(name).ok()) continue;
    std::vector<float> values(static_cast<size_t>(tensor.entry->num_elements()));
    folder->read_f32(name, 0, values);
  }
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
