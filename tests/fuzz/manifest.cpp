// Fuzzes a checkpoint's manifest.json, under a seal that fits: whole and head only.
//
// Law (manifest.h): an accepted manifest's ranges tile its tensors and lie in its shards; printed,
// it reads back as the same.
#include <span>
#include <string>

#include "base/check.h"
#include "base/hash.h"
#include "runtime/checkpoint/manifest.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_manifest(std::string_view bytes) {
  (void)put_file(std::string(checkpoint::kManifestFile), bytes);
  (void)put_file(std::string(checkpoint::kCompleteFile),
                 checksum(std::as_bytes(std::span<const char>(bytes))) + "\n");
  (void)checkpoint::read_manifest_head(scratch_folder());
  (void)checkpoint::Checkpoint::open(scratch_folder());  // its shards are never there
  const auto manifest = checkpoint::read_manifest(scratch_folder());
  if (!manifest.ok()) return Verdict::kRefused;
  for (const checkpoint::ManifestTensor& tensor : manifest->tensors) {
    int64_t at = 0;
    for (const checkpoint::Range& range : tensor.ranges) {
      DSV3_CHECK(range.begin == at && range.end >= range.begin, tensor.info.name);
      DSV3_CHECK(range.shard >= 0 && range.shard < static_cast<int64_t>(manifest->shards.size()));
      (void)checkpoint::range_shape(tensor.info, range.begin, range.end);
      at = range.end;
    }
    DSV3_CHECK(at == tensor.info.num_elements(), tensor.info.name);
  }
  const std::string text = checkpoint::print_manifest(*manifest);
  const auto again = checkpoint::parse_manifest(text, "again");
  DSV3_CHECK(again.ok(), again.status().to_string());
  DSV3_CHECK(checkpoint::print_manifest(*again) == text, "printing it twice differs");
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
