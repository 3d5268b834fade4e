// The fuzzed formats: one function each, called by libFuzzer with invented bytes and by
// corpus_test.cpp with the corpus.
//
// Law: whatever the bytes are, a function returns: no crash, no exception, no hang, no memory out
// of proportion. What is accepted is then used (read, written, read again) as the program would,
// and must keep the format's own laws; a broken one ends the process (DSV3_CHECK).
#pragma once

#include <string_view>

namespace dsv3::fuzz {

enum class Verdict { kRefused, kAccepted };

// A job's YAML; lines "#set KEY=VALUE" are overrides as after --set.
Verdict try_yaml_spec(std::string_view bytes);
// A Hugging Face config.json, as a job's configuration.
Verdict try_hf_config(std::string_view bytes);
// A Hugging Face folder: config.json, a line "-----", model.safetensors.index.json; its shards
// a.safetensors and b.safetensors are there.
Verdict try_hf_folder(std::string_view bytes);
// A .safetensors file.
Verdict try_safetensors(std::string_view bytes);
// Two bytes: the .idx file's length (little-endian); the .idx; the rest is the .bin.
Verdict try_indexed_dataset(std::string_view bytes);
// A checkpoint's manifest.json (its seal is made here).
Verdict try_manifest(std::string_view bytes);
// One byte: 0 Envelope, 1 AgentFrame, 2 RankFrame, 3 a rank link's stream of RankFrames; the bytes.
Verdict try_wire_frames(std::string_view bytes);
// One byte: 0 a hello, 1 two operation headers, 2 a stream of control frames, 3 a TCP address.
Verdict try_mesh_frames(std::string_view bytes);
// A SentencePiece model.
Verdict try_tokenizer(std::string_view bytes);
// A hostfile; lines "#include FILTER" and "#exclude FILTER" are filters.
Verdict try_hostfile(std::string_view bytes);
// A DeepSpeed json over a small configuration.
Verdict try_deepspeed(std::string_view bytes);
// A calibration.json.
Verdict try_calibration(std::string_view bytes);
// A plan.json.
Verdict try_plan_file(std::string_view bytes);
// A layout of 64 ranks as after --compare.
Verdict try_layout_text(std::string_view bytes);

}  // namespace dsv3::fuzz
