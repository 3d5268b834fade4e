// Which tensors a Hugging Face folder of a model holds beside those that a checkpoint has.
//
// Law: names and shapes of the model's own tensors come from configs/spec; here stands only what
// the formats differ in: DeepSeek's MTP modules bring copies of the embedding and the head, and
// transformers wants shared experts of width 0, and a router bias for every sigmoid router.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/spec/job_spec.h"

namespace dsv3::convert {

// A tensor that repeats another one.
struct SharedCopy {
  std::string name;
  std::string of;
};

// Copies that a folder may hold: of each MTP module, "model.layers.N.embed_tokens.weight" and
// "model.layers.N.shared_head.head.weight"; of a tied head, "lm_head.weight".
std::vector<SharedCopy> shared_copies(const spec::ModelSpec& model);

// One tensor of an export.
struct HfTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string source;      // the checkpoint's tensor; "": zeros
  bool is_buffer = false;  // stays f32 in any export

  int64_t num_elements() const;
};

// Everything that an export holds, in model order: the model's tensors, its router biases behind
// their routers (zeros where a sigmoid router has none), shared experts of width 0 where it has no
// shared expert, and the MTP modules' copies.
std::vector<HfTensor> export_tensors(const spec::ModelSpec& model);

}  // namespace dsv3::convert
