// Import: a Hugging Face folder becomes a checkpoint of step 0, from which a job can start
// (checkpoint.load), and which score and export read.
//
// Laws: the model is what config.json says, and every tensor of it must be there with its shape,
// and no other; all of that is checked before the first byte is written. Weights are streamed:
// memory is a buffer, whatever the model's size. The checkpoint is whole or not there
// (runtime/checkpoint).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::convert {

// Called now and then with the bytes done so far.
using Progress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

struct ImportOptions {
  std::string hf_dir;   // config.json and *.safetensors
  std::string out_dir;  // gets step-00000000; must not exist, or be empty
  Progress progress;    // may be empty
};

struct ImportReport {
  std::string path;  // of the checkpoint: OUT/step-00000000
  spec::ModelSpec model;
  int64_t tensors = 0;
  int64_t parameters = 0;          // trained ones; the routers' biases left out
  int64_t files = 0;               // that were read
  int64_t bytes = 0;               // written
  std::vector<std::string> notes;  // what a user should know, a sentence each
};

// kNotFound for what is absent; kInvalid for a config.json that can't be used and for missing,
// misshapen, unreadable or unknown tensors; kConflict when out_dir holds something; kDoesNotFit
// when the disk has too little room; kFailed when it can't be written. On any error out_dir is as
// it was.
Result<ImportReport> import_hf(const ImportOptions& options);

}  // namespace dsv3::convert
