// Fuzzes a checkpoint's manifest.json, under a seal that fits: whole and head only.
//
// Law (manifest.h): an accepted manifest's boxes tile its tensors and lie in its shards; printed,
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
    const checkpoint::Box whole = checkpoint::whole_box(tensor.info.shape);
    int64_t elements = 0;
    for (size_t i = 0; i < tensor.pieces.size(); ++i) {
      const checkpoint::Piece& piece = tensor.pieces[i];
      DSV3_CHECK(checkpoint::common(piece.box, whole) == piece.box, tensor.info.name);
      DSV3_CHECK(piece.shard >= 0 && piece.shard < static_cast<int64_t>(manifest->shards.size()));
      elements += piece.box.num_elements();
      // Pairs, as the parser may not look at them; the many of a large input are left out.
      for (size_t j = i < 100 ? 0 : i; j < i; ++j) {
        const checkpoint::Box both = checkpoint::common(piece.box, tensor.pieces[j].box);
        DSV3_CHECK(both.num_elements() == 0, tensor.info.name);
      }
    }
    DSV3_CHECK(elements == tensor.info.num_elements(), tensor.info.name);
  }
  const std::string text = checkpoint::print_manifest(*manifest);
  const auto again = checkpoint::parse_manifest(text, "again");
  DSV3_CHECK(again.ok(), again.status().to_string());
  DSV3_CHECK(checkpoint::print_manifest(*again) == text, "printing it twice differs");
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
