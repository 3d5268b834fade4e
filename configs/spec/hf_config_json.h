// config.json of an export, in the keys that transformers 4 and 5, DeepSeek's own code and serving
// programs read.
//
// Law: transformers, reading it, computes what this runtime computes; a model of which that is not
// true is refused with the reason. Reading it back (configs/spec) gives the same model.
#pragma once

#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

// The text, indented; `dtype` (f32 or bf16) is what the weights are written in. A sigmoid router
// makes it model_type deepseek_v3, a softmax router deepseek_v2. kInvalid for a softmax router with
// norm_topk_prob or a bias, which no Hugging Face model has. `notes` gets a sentence for what a
// reader would not expect.
Result<std::string> hf_config_json(const ModelSpec& model, DType dtype,
                                   std::vector<std::string>* notes);

}  // namespace dsv3::spec
