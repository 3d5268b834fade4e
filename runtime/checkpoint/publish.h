// What every way of writing a checkpoint shares: the fence, the folder written aside, the seal, the
// rename. Inside this room only.
//
// Law: whoever writes the shards, the rest is done here once, so that no way of writing can publish
// something that is not whole or that a later attempt has fenced off.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/image.h"
#include "runtime/checkpoint/layout.h"
#include "runtime/checkpoint/manifest.h"

namespace dsv3::checkpoint {

// Writes and flushes manifest.shards' files in `folder` and sets their sizes and checksums.
using WriteShards = std::function<Status(const std::string& folder, Manifest& manifest)>;
Status write_shards(const SaveRequest& request, const SaveLayout& layout, const std::string& folder,
                    Manifest& manifest);
// kInvalid unless every tensor has data or a way to get it.
Status check_sources(const SaveRequest& request);
Status write_shards(const Image& image, const std::string& folder, Manifest& manifest);

// Writes DIR/.tmp-…, publishes it as DIR/step-… and sets the latest marker. Errors as of save().
Result<SavedCheckpoint> write_and_publish(const std::string& dir, Manifest manifest,
                                          const SaveProbe& probe, const WriteShards& write_shards);

// Makes an empty folder for what is about to be written, after deleting what dead writers left;
// gives its path, DIR/.tmp-….
Result<std::string> make_temporary_folder(const std::string& dir, int64_t attempt, int64_t step);
// Where the shards lie in the temporary folder and the manifest knows them: writes the manifest and
// the seal, publishes the folder as DIR/step-… and sets the latest marker. On failure the temporary
// folder is deleted.
Result<SavedCheckpoint> seal_and_publish(const std::string& dir, const std::string& temporary,
                                         const Manifest& manifest, const SaveProbe& probe);

// What the probe says of this point; ok without a probe.
Status probe_point(const SaveProbe& probe, std::string_view point);

}  // namespace dsv3::checkpoint
