// Export: a checkpoint's weights as a Hugging Face folder that transformers loads with the same
// logits.
//
// Laws: the folder appears whole, by a rename, or not at all. Weights are streamed. f32 is written
// bit by bit, bf16 rounded to nearest even; the routers' biases stay f32 in both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "configs/spec/job_spec.h"
#include "runtime/convert/import.h"

namespace dsv3::convert {

struct ExportOptions {
  std::string checkpoint;  // a checkpoint, or a folder of them: the newest valid one
  std::string out_dir;     // must not exist, or be empty
  std::string dtype;       // fp32 | bf16; "": fp32 where the job trained in fp32, else bf16
  int64_t shard_bytes_max = 5'000'000'000;  // a larger single tensor has a file of its own
  Progress progress;
};

struct ExportReport {
  std::string path;
  std::string checkpoint;  // that was read
  spec::ModelSpec model;
  DType dtype = DType::kF32;
  int64_t tensors = 0;
  int64_t files = 0;
  int64_t bytes = 0;      // of tensors
  std::string tokenizer;  // the tokenizer's model that was copied; "": none
  std::vector<std::string> notes;
};

// kNotFound where there is no checkpoint; kCheckpointUnusable for one that is damaged or lacks a
// tensor of its model; kInvalid for a model that transformers doesn't have; kConflict when out_dir
// holds something; kDoesNotFit, kFailed as import_hf().
Result<ExportReport> export_hf(const ExportOptions& options);

}  // namespace dsv3::convert
