// The keys of a DeepSpeed json and what becomes of each. Only for deepspeed.cpp.
#pragma once

#include <span>
#include <string_view>

namespace dsv3::spec {

enum class DeepSpeedUse {
  kKey,      // our key `text` takes the value as it stands
  kSpecial,  // translated in deepspeed.cpp
  kSilent,   // only means something with a key that is refused
  kIgnored,  // has no effect here: `text` says why
  kRefused,  // would train something else: `text` says what to do
};

struct DeepSpeedKey {
  std::string_view path;
  DeepSpeedUse use;
  std::string_view text;
};

// A path that ends in a section covers everything below it that has no entry of its own.
std::span<const DeepSpeedKey> deepspeed_keys();

}  // namespace dsv3::spec
