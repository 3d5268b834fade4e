// Hugging Face folders for tests, written here tensor by tensor: what import must read, and what a
// wrong folder looks like.
//
// Law: config.json is spelled out as transformers 5 writes it, never made by the code under test.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "configs/spec/job_spec.h"
#include "configs/spec/model_tensors.h"
#include "runtime/checkpoint/safetensors.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::convert {

using Json = nlohmann::ordered_json;

// A tensor as it lies in a file.
struct RawTensor {
  std::string tag;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

template <typename T>
RawTensor raw(std::string tag, std::vector<int64_t> shape, const std::vector<T>& values) {
  RawTensor tensor{std::move(tag), std::move(shape), {}};
  tensor.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

inline spec::ModelSpec tiny_model() {
  spec::ModelSpec model;
  model.name = "tiny";
  model.vocab_size = 10;
  model.num_layers = 2;
  model.d_model = 6;
  model.num_heads = 1;
  model.dense_intermediate_size = 5;
  model.max_context_length = 16;
  model.mla = {.kv_lora_rank = 3,
               .q_lora_rank = 3,
               .qk_nope_head_dim = 2,
               .qk_rope_head_dim = 2,
               .v_head_dim = 2};
  model.moe.num_experts = 3;
  model.moe.num_experts_per_token = 1;
  model.moe.expert_intermediate_size = 4;
  model.moe.num_shared_experts = 1;
  model.moe.first_k_dense = 1;
  model.moe.routed_scaling_factor = 1.5;
  return model;
}

// tiny_model() as transformers 5 says it; MTP is promised, as transformers always does.
inline Json tiny_config() {
  return Json::parse(R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "bos_token_id": 0, "dtype": "float32", "eos_token_id": 1, "first_k_dense_replace": 1,
  "head_dim": 2, "hidden_act": "silu", "hidden_size": 6, "initializer_range": 0.02,
  "intermediate_size": 5, "kv_lora_rank": 3, "max_position_embeddings": 16,
  "model_type": "deepseek_v3", "moe_intermediate_size": 4, "n_group": 1, "n_routed_experts": 3,
  "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 1,
  "num_experts_per_tok": 1, "num_hidden_layers": 2, "num_key_value_heads": 1,
  "num_nextn_predict_layers": 1, "output_router_logits": false, "pad_token_id": null,
  "pretraining_tp": 1, "q_lora_rank": 3, "qk_head_dim": 4, "qk_nope_head_dim": 2,
  "qk_rope_head_dim": 2, "rms_norm_eps": 1e-06, "rope_interleave": true,
  "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
  "routed_scaling_factor": 1.5, "tie_word_embeddings": false, "topk_group": 1,
  "transformers_version": "5.23.0", "use_cache": true, "v_head_dim": 2, "vocab_size": 10})");
}

inline std::vector<float> values_of(const std::string& name, int64_t count) {
  const CounterRng rng(7, name_key(name));
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(rng.normal(static_cast<uint64_t>(i)));
  return values;
}

// Every tensor of the model in F32, each with values of its own.
inline RawTensors tensors_of(const spec::ModelSpec& model) {
  RawTensors tensors;
  auto infos = spec::model_tensors(model);
  for (auto& buffer : spec::model_buffers(model)) infos.push_back(buffer);
  for (const spec::TensorInfo& info : infos) {
    tensors[info.name] = raw("F32", info.shape, values_of(info.name, info.num_elements()));
  }
  return tensors;
}

inline void write_safetensors(const std::string& path, const RawTensors& tensors) {
  std::vector<checkpoint::SafetensorsTensor> entries;
  for (const auto& [name, tensor] : tensors) {
    checkpoint::SafetensorsTensor entry;
    entry.name = name;
    entry.tag = tensor.tag;
    entry.shape = tensor.shape;
    entries.push_back(entry);
  }
  auto writer = checkpoint::SafetensorsWriter::create(path, entries);
  ASSERT_TRUE(writer.ok()) << writer.status().to_string();
  for (const auto& entry : writer->order())
    ASSERT_TRUE(writer->append(tensors.at(entry.name).bytes).ok());
  ASSERT_TRUE(writer->finish().ok());
}

// The folder with one file, or with `shards` files and their index.
inline void write_hf(const std::string& dir, const Json& config, const RawTensors& tensors,
                     size_t shards = 1) {
  std::filesystem::create_directories(dir);
  overwrite(dir + "/config.json", config.dump(2));
  if (shards == 1) return write_safetensors(dir + "/model.safetensors", tensors);
  std::vector<RawTensors> parts(shards);
  Json map;
  size_t next = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t shard = next++ % shards;
    parts[shard][name] = tensor;
    map[name] = "part-" + std::to_string(shard) + ".safetensors";
  }
  for (size_t i = 0; i < shards; ++i)
    write_safetensors(dir + "/part-" + std::to_string(i) + ".safetensors", parts[i]);
  overwrite(dir + "/model.safetensors.index.json", Json{{"weight_map", map}}.dump());
}

}  // namespace dsv3::convert
