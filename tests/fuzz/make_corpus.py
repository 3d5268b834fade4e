#!/usr/bin/env python3
"""Writes the seeds of tests/fuzz/corpus (accept-*, refuse-*): run it after a format changed.

Python's standard library only; the formats are built here by hand, independently of the code that reads them. Files of
other names (found-*, what a fuzzer met) are left alone, and so is tokenizer/accept-charsmap, a model that SentencePiece
trained with three normalisation rules. Also writes the dictionaries: the words of the text formats' seeds.
"""
import json
import pathlib
import re
import struct

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def put(corpus, name, data):
    folder = HERE / "corpus" / corpus
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


# ---------------------------------------------------------------------------------------------- configurations

TINY = """model: {vocab_size: 512, num_layers: 2, d_model: 64, num_heads: 2, dense_intermediate_size: 128, max_context_length: 64,
  mla: {kv_lora_rank: 16, q_lora_rank: 24, qk_nope_head_dim: 16, qk_rope_head_dim: 8, v_head_dim: 16},
  moe: {num_experts: 8, num_experts_per_token: 2, expert_intermediate_size: 32, first_k_dense: 1, n_group: 4, topk_group: 2}}
training: {max_steps: 10, global_batch_size: 4, micro_batch_size: 2, seq_length: 64, dtype: fp32}
data: {path: text}
"""


def yaml_spec():
    put("yaml_spec", "accept-tiny", TINY)
    put("yaml_spec", "accept-override", TINY + "#set training.lr_schedule=cosine\n#set data.split=[0.9, 0.1]\n")
    for preset in ("demo", "671b", "small"):
        text = (ROOT / "configs" / (preset + ".yaml")).read_text()
        needed = "" if preset == "demo" else "#set data.path=x\n#set training.max_steps=5\n#set training.global_batch_size=64\n"
        put("yaml_spec", ("accept-" if preset != "671b" else "preset-") + preset, text + needed)
    refuse = {
        "empty": "", "scalar": "42\n", "list": "- a\n- b\n", "unclosed": "model: {a: [1, 2\n", "tab": "model:\n\tvocab_size: 1\n",
        "anchor": "model: &m {vocab_size: 5}\ntraining: *m\n", "tag": "model: !!python/object:os.system {}\n",
        "merge": "model:\n  <<: {vocab_size: 5}\n", "deep": "model: " + "[" * 64 + "]" * 64 + "\n", "deep_block": "- " * 64 + "a\n",
        "documents": TINY + "---\n" + TINY, "duplicate": TINY + "data: {path: b}\n", "unknown": TINY + "trainnig: {}\n",
        "range": TINY.replace("vocab_size: 512", "vocab_size: -1"), "huge": TINY.replace("512", "9223372036854775808"),
        "type": TINY.replace("num_layers: 2", "num_layers: two"), "float": TINY.replace("num_layers: 2", "num_layers: 2.5"),
        "nan": TINY + "#set training.learning_rate=.nan\n", "override": TINY + "#set model.moe.num_experts\n",
        "experts": TINY.replace("num_experts_per_token: 2", "num_experts_per_token: 9"), "nul": TINY + "\0", "latin1": b"model: \xe4\n",
        "complex_key": "? [a, b]\n: c\n", "block_scalar": "model: |\n  text\n  more\n", "layers": TINY + "#set model.moe.moe_layers=[0]\n",
    }
    for name, text in refuse.items():
        put("yaml_spec", "refuse-" + name, text)


CONFIG = {"model_type": "deepseek_v3", "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64, "kv_lora_rank": 16, "q_lora_rank": 24,
          "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2,
          "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
          "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu", "rms_norm_eps": 1e-6,
          "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "num_nextn_predict_layers": 0}
YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
        "mscale_all_dim": 1.0}


def hf_config():
    def dump(**changes):
        return json.dumps({**CONFIG, **changes}, indent=1)
    put("hf_config", "accept-v3", dump())
    put("hf_config", "accept-yarn", dump(rope_scaling=YARN, max_position_embeddings=2560))
    put("hf_config", "accept-foreign", dump(_name_or_path="x", transformers_version="4.50.0", auto_map={"AutoConfig": "a.B"}))
    refuse = {
        "empty": "", "brace": "{", "list": "[]", "number": "1e999", "type": dump(model_type="llama"), "act": dump(hidden_act="gelu"),
        "float": dump(num_hidden_layers=2.5), "negative": dump(hidden_size=-64), "huge": dump(vocab_size=2**70),
        "deep": '{"a":' * 200 + "1" + "}" * 200, "duplicate": dump()[:-2] + ',"vocab_size": 513}', "factor": dump(rope_scaling={**YARN, "factor": 1e300}),
        "string": dump(vocab_size="many"), "surrogate": '{"a": "\\ud800"}', "utf8": b'{"a": "\xff\xfe"}', "null": dump(hidden_size=None),
        "ours": '{"model": {"vocab_size": 5}, "training": []}', "rope": dump(rope_scaling=[1, 2]),
    }
    for name, text in refuse.items():
        put("hf_config", "refuse-" + name, text)


def hf_folder():
    good = {"metadata": {"total_size": 92}, "weight_map": {"model.norm.weight": "a.safetensors", "w.weight": "a.safetensors",
            "w.weight_scale_inv": "b.safetensors", "lm_head.weight": "b.safetensors"}}
    fp8 = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [2, 2]}, "torch_dtype": "bfloat16"}

    def dump(name, config, index):
        put("hf_folder", name, json.dumps(config) + "\n-----\n" + (index if isinstance(index, str) else json.dumps(index)))
    dump("accept-fp8", fp8, good)
    dump("accept-plain", {"dtype": "float32"}, {"weight_map": {"model.norm.weight": "a.safetensors"}})
    dump("accept-blocks", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2**62, 1]}}, good)
    dump("refuse-missing", {}, {"weight_map": {"x": "c.safetensors"}})
    dump("refuse-elsewhere", {}, {"weight_map": {"x": "../a.safetensors"}})
    dump("refuse-absolute", {}, {"weight_map": {"x": "/dev/zero"}})
    dump("refuse-dots", {}, {"weight_map": {"x": ".."}})
    dump("refuse-self", {}, {"weight_map": {"x": "config.json"}})
    dump("refuse-wrong_shard", {}, {"weight_map": {"lm_head.weight": "a.safetensors"}})
    dump("refuse-nested", {}, {"weight_map": {"x": [["a"]]}})
    dump("refuse-list", {}, [])
    dump("refuse-gptq", {"quantization_config": {"quant_method": "gptq"}}, good)
    dump("refuse-block", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}}, good)
    dump("refuse-block_text", {"quantization_config": {"quant_method": "fp8", "weight_block_size": "128"}}, good)
    dump("refuse-truncated", fp8, json.dumps(good)[:-3])
    put("hf_folder", "refuse-no_json", "hello\n-----\n{}")
    put("hf_folder", "refuse-no_index", "{}")


# ---------------------------------------------------------------------------------------------- tensors

def tensors_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors():
    one = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    two = {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}
    put("safetensors", "accept-one", tensors_file({"a": one}, bytes(16)))
    put("safetensors", "accept-two", tensors_file({"__metadata__": {"format": "pt"}, "b": two, "a": one}, bytes(range(22))))
    put("safetensors", "accept-none", tensors_file({}))
    put("safetensors", "accept-empty_tensor", tensors_file({"e": {"dtype": "I64", "shape": [0, 7], "data_offsets": [0, 0]}}))
    put("safetensors", "accept-scalar", tensors_file({"s": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [0, 1]}}, b"\x38"))
    def entry(**changes):
        return tensors_file({"a": {**one, **changes}}, bytes(16))
    refuse = {
        "short": b"\x01\x00", "length": tensors_file({}, length=2**63), "long_header": tensors_file({}, length=100_000_001),
        "past_end": tensors_file({"a": one}, length=10**6), "garbage": bytes(range(64)), "hole": entry(data_offsets=[4, 20]),
        "overlap": tensors_file({"a": one, "b": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, bytes(16)),
        "shape": entry(shape=[2, 3]), "overflow": entry(shape=[2**31, 2**31, 4]), "negative": entry(shape=[-2, -2]),
        "big_offset": entry(data_offsets=[2**63, 2**63 + 16]), "reversed": entry(data_offsets=[16, 0]), "dtype": entry(dtype="F7"),
        "float_shape": entry(shape=[4.0]), "no_dtype": tensors_file({"a": {"shape": [1]}}), "metadata": tensors_file({"__metadata__": {"a": 1}}),
        "twice": tensors_file(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', bytes(4)),
        "nested": tensors_file(b"{" + b'"a":[' * 40 + b"]" * 40 + b"}"), "trailing": tensors_file({"a": one}, bytes(17)), "list": tensors_file([]),
        "zero_last": entry(shape=[2**40, 2**40, 0]),
    }
    for name, data in refuse.items():
        put("safetensors", "refuse-" + name, data)


def indexed_dataset():
    def idx(code, lengths, pointers, documents, magic=b"MMIDIDX\0\0", version=1, sequences=None, boundaries=None):
        counts = (len(lengths) if sequences is None else sequences, len(documents) if boundaries is None else boundaries)
        return (magic + struct.pack("<QB", version, code) + struct.pack("<QQ", *counts) + struct.pack(f"<{len(lengths)}i", *lengths) +
                struct.pack(f"<{len(pointers)}q", *pointers) + struct.pack(f"<{len(documents)}q", *documents))

    def add(name, index, tokens=b""):
        put("indexed_dataset", name, struct.pack("<H", len(index)) + index + tokens)
    words = struct.pack("<6H", *range(6))
    add("accept-u16", idx(8, [2, 4], [0, 4], [0, 1, 2]), words)
    add("accept-i32", idx(4, [3], [0], [0, 1]), struct.pack("<3i", 1, 70000, -3))
    add("accept-i64", idx(5, [1, 1], [0, 8], [0, 2]), struct.pack("<2q", 1, 2**40))
    add("accept-u8", idx(1, [4], [0], [0, 1]), b"abcd")
    add("accept-late_start", idx(8, [2], [4], [0, 1]), words)
    add("accept-empty_documents", idx(8, [2, 0, 1], [0, 4, 4], [0, 0, 3, 3]), words)
    add("accept-nothing", idx(8, [], [], [0]))
    add("accept-multimodal", idx(8, [2, 4], [0, 4], [0, 1, 2]) + b"\0\1", words)
    good = idx(8, [2, 4], [0, 4], [0, 1, 2])
    add("refuse-truncated", good[:-1], words)
    add("refuse-header", good[:20], words)
    add("refuse-magic", idx(8, [2, 4], [0, 4], [0, 1, 2], magic=b"MMIDIDY\0\0"), words)
    add("refuse-version", idx(8, [2, 4], [0, 4], [0, 1, 2], version=2), words)
    add("refuse-float", idx(7, [1], [0], [0, 1]), words)
    add("refuse-code", idx(9, [1], [0], [0, 1]), words)
    add("refuse-counts", idx(8, [], [], [0], sequences=2**63, boundaries=2**63))
    add("refuse-wrap", idx(8, [], [], [0], sequences=2**61, boundaries=1))
    add("refuse-no_boundary", idx(8, [], [], []))
    add("refuse-negative", idx(8, [-2, 4], [0, 4], [0, 1, 2]), words)
    add("refuse-gap", idx(8, [2, 2], [0, 6], [0, 1, 2]), words)
    add("refuse-past_end", idx(8, [2, 2**31 - 1], [0, 4], [0, 1, 2]), words)
    add("refuse-pointer", idx(8, [2], [2**63 - 2], [0, 1]), words)
    add("refuse-pointer_negative", idx(8, [2], [-4], [0, 1]), words)
    add("refuse-documents", idx(8, [2, 4], [0, 4], [0, 2, 1]), words)
    add("refuse-documents_start", idx(8, [2, 4], [0, 4], [1, 2]), words)
    add("refuse-documents_end", idx(8, [2, 4], [0, 4], [0, 1]), words)


def manifest():
    good = {"format": "dsv3ctl checkpoint", "format_version": 1, "job": "demo-1", "attempt": 2, "step": 30,
            "state": {"next_sample_idx": 240, "seed": 1, "lr_step": 30, "tokens_seen": 61440, "compute_dtype": "bf16", "extra": [["a", "b"]]},
            "spec": "model: {}\n", "shards": [{"file": "shard-0.safetensors", "bytes": 128, "xxh3_128": "0" * 32}],
            "tensors": [{"name": "w", "dtype": "f32", "shape": [4, 5], "ranges": [
                {"begin": 0, "end": 10, "shard": 0, "key": "w[0:10]"}, {"begin": 10, "end": 20, "shard": 0, "key": "w[10:20]"}]}]}
    empty = {"name": "e", "dtype": "bf16", "shape": [0, 3], "ranges": [{"begin": 0, "end": 0, "shard": 0, "key": "e"}]}
    # Version 2: boxes. [4, 5] as its left two columns (in two pieces of one entry) and the rest in two blocks of rows.
    pieces = [{"rows": [0, 1], "cols": [0, 2], "shard": 0, "key": "w[0:4,0:2]"},
              {"rows": [1, 4], "cols": [0, 2], "shard": 0, "key": "w[0:4,0:2]", "offset": 2},
              {"rows": [0, 3], "cols": [2, 5], "shard": 0, "key": "w[0:3,2:5]"},
              {"rows": [3, 4], "cols": [2, 5], "shard": 0, "key": "w[3:4,2:5]"}]
    boxes = {**good, "format_version": 2, "tensors": [{"name": "w", "dtype": "f32", "shape": [4, 5], "pieces": pieces},
                                                      {"name": "v", "dtype": "i64", "shape": [7], "pieces": [{"shard": 0, "key": "v"}]},
                                                      {"name": "e", "dtype": "bf16", "shape": [0, 3], "pieces": [{"shard": 0, "key": "e"}]}]}

    def with_pieces(changed):
        return {**boxes, "tensors": [{**boxes["tensors"][0], "pieces": changed}]}

    def tensor(**changes):
        return {"tensors": [{**good["tensors"][0], **changes}]}

    def shard(**changes):
        return {"shards": [{**good["shards"][0], **changes}]}
    put("manifest", "accept-good", json.dumps(good, indent=1))
    put("manifest", "accept-empty_tensor", json.dumps({**good, "tensors": [empty] + good["tensors"]}))
    put("manifest", "accept-boxes", json.dumps(boxes, indent=1))
    put("manifest", "accept-strips", json.dumps(with_pieces([{"cols": [i, i + 1], "shard": 0, "key": "k"} for i in range(5)])))
    of_boxes = {
        "overlap": pieces[:2] + [{**pieces[2], "rows": [0, 4]}, pieces[3]], "gap": pieces[:3], "same_area": pieces[:3] + [{**pieces[3], "rows": [2, 3]}],
        "twice": pieces + pieces[3:], "outside": pieces[:3] + [{**pieces[3], "rows": [3, 5]}], "negative": pieces[:3] + [{**pieces[3], "rows": [-1, 0]}],
        "backwards": pieces[:3] + [{**pieces[3], "rows": [4, 3]}], "nothing": pieces + [{**pieces[3], "rows": [3, 3]}],
        "offset": [{**pieces[0], "offset": -1}] + pieces[1:], "no_shard": [{**pieces[0], "shard": 1}] + pieces[1:],
        "huge": pieces[:3] + [{**pieces[3], "cols": [2, 2**63 - 1]}], "one_number": [{**pieces[0], "rows": [0]}] + pieces[1:],
        "text": [{**pieces[0], "cols": "0:2"}] + pieces[1:], "none": [],
    }
    for name, changed in of_boxes.items():
        put("manifest", "refuse-boxes_" + name, json.dumps(with_pieces(changed)))
    put("manifest", "refuse-version_mixed", json.dumps({**good, "format_version": 2}))
    put("manifest", "accept-no_tensors", json.dumps({**good, "tensors": [], "shards": []}))
    changed = {
        "format": {"format": "other"}, "version": {"format_version": 3}, "version_0": {"format_version": 0}, "attempt": {"attempt": 0}, "step": {"step": -1},
        "step_huge": {"step": 2**64 - 1}, "step_float": {"step": 1e300}, "step_text": {"step": "3"}, "spec": {"spec": None},
        "state": {"state": {}}, "extra": {"state": {**good["state"], "extra": [["a"]]}}, "shards": {"shards": 7},
        "shard_path": shard(file="../x"), "shard_hidden": shard(file=".x"), "shard_twice": {"shards": good["shards"] * 2},
        "dtype": tensor(dtype="f7"), "shape": tensor(shape=[4, 6]), "shape_negative": tensor(shape=[-4, -5]),
        "shape_huge": tensor(shape=[2**40, 2**40]), "shape_zero": tensor(shape=[0, 2**62, 2**62]), "no_ranges": tensor(ranges=[]),
        "gap": tensor(ranges=[{"begin": 0, "end": 9, "shard": 0, "key": "a"}, {"begin": 10, "end": 20, "shard": 0, "key": "b"}]),
        "overlap": tensor(ranges=[{"begin": 0, "end": 11, "shard": 0, "key": "a"}, {"begin": 10, "end": 20, "shard": 0, "key": "b"}]),
        "no_shard": tensor(ranges=[{"begin": 0, "end": 20, "shard": 1, "key": "a"}]),
        "long_range": tensor(ranges=[{"begin": 0, "end": 2**63 - 1, "shard": 0, "key": "a"}]), "twice": {"tensors": good["tensors"] * 2},
    }
    for name, changes in changed.items():
        put("manifest", "refuse-" + name, json.dumps({**good, **changes}))
    put("manifest", "refuse-empty", "")
    put("manifest", "refuse-truncated", json.dumps(good)[:300])
    put("manifest", "refuse-deep", "[" * 5000)


# ---------------------------------------------------------------------------------------------- messages

def varint(value):
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value if isinstance(value, bytes) else value.encode()
    return varint(number << 3 | 2) + varint(len(data)) + data


def wire_frames():
    version = field(1, 1)
    error = version + field(2, 7) + field(3, field(1, 5) + field(2, "no such job") + field(3, "dsv3ctl status"))
    report = version + field(2, field(1, 1_700_000_000) + field(16, field(1, 3)))
    framed = struct.pack("<I", len(report)) + report
    put("wire_frames", "accept-ping", b"\0" + version + field(2, 1) + field(10, b""))
    put("wire_frames", "accept-error", b"\0" + error)
    put("wire_frames", "accept-status", b"\0" + version + field(11, field(1, "demo-1")))
    put("wire_frames", "accept-heartbeat", b"\0" + version + field(71, field(1, "n") + field(2, "demo-1") + field(3, 1) + field(4, 8)))
    put("wire_frames", "accept-unknown_field", b"\0" + version + field(10, b"") + field(99, "new"))
    put("wire_frames", "accept-stop", b"\1" + version + field(10, field(1, 1) + field(2, "cancelled")))
    put("wire_frames", "accept-report", b"\2" + report)
    step = field(1, 3) + b"\x11" + struct.pack("<d", 4.5) + field(9, 4096) + field(14, 300)
    put("wire_frames", "accept-step", b"\2" + version + field(2, field(11, step)))
    put("wire_frames", "accept-stream", b"\3" + framed * 3)
    put("wire_frames", "refuse-empty", b"\0")
    put("wire_frames", "refuse-no_body", b"\0" + version + field(2, 1))
    put("wire_frames", "refuse-version", b"\0" + field(1, 2) + field(10, b""))
    put("wire_frames", "refuse-truncated", b"\0" + error[:-4])
    put("wire_frames", "refuse-utf8", b"\0" + version + field(11, field(1, b"\xff\xfe")))
    put("wire_frames", "refuse-garbage", b"\0" + bytes(range(255, 0, -1)))
    put("wire_frames", "refuse-varint", b"\2" + b"\xff" * 11)
    put("wire_frames", "refuse-zero_length", b"\3" + struct.pack("<I", 0))
    put("wire_frames", "refuse-long_length", b"\3" + struct.pack("<I", 2**32 - 1) + report)
    put("wire_frames", "refuse-cut_stream", b"\3" + framed + framed[:-1])
    put("wire_frames", "refuse-bad_inner", b"\3" + struct.pack("<I", 4) + b"\xff" * 4)


def mesh_frames():
    def hello(token=b"token-1", world=4, rank=2, purpose=1, version=1, magic=0x316873656D337664, token_bytes=None):
        place = b"boot\0".ljust(80, b"\0") + b"name".ljust(48, b"\0") + b"127.0.0.1:5".ljust(72, b"\0")
        size = len(token) if token_bytes is None else token_bytes
        return b"\0" + struct.pack("<QIIIIQII64s", magic, version, world, rank, purpose, 9, 1, size, token) + place

    def header(kind=0, sequence=3, name=b"gradients/0", size=4096, magic=0x706F3364, dtype=0, name_bytes=None):
        length = len(name) if name_bytes is None else name_bytes
        return struct.pack("<IBBBBQqqQ24s", magic, kind, 0, dtype, length, sequence, size, size // 4, 77, name)

    def control(kind=2, code=11, culprit=3, operation=b"all_reduce 'a'", reason=b"rank 3 closed", magic=0x74633364, sizes=None):
        sizes = sizes or (len(operation), len(reason))
        return struct.pack("<IBBHiHH", magic, kind, 0, code, culprit, *sizes) + operation + reason
    put("mesh_frames", "accept-hello", hello())
    put("mesh_frames", "accept-headers", b"\1" + header() * 2)
    put("mesh_frames", "accept-control", b"\2" + control() + control(kind=1, culprit=-1, code=999))
    put("mesh_frames", "accept-control_text", b"\2" + control(reason=b"a\x1b[2Jb\n"))
    put("mesh_frames", "accept-tcp", b"\x03127.0.0.1:80")
    put("mesh_frames", "accept-tcp6", b"\3[::1]:65535")
    refuse = {
        "hello_token": hello(token=b"token-2"), "hello_long_token": hello(token_bytes=2**32 - 1), "hello_world": hello(world=5),
        "hello_rank": hello(rank=4), "hello_purpose": hello(purpose=3), "hello_version": hello(version=2), "hello_magic": hello(magic=0),
        "hello_short": hello()[:-1], "headers_other": b"\1" + header() + header(size=8192), "headers_kind": b"\1" + header(kind=99) + header(),
        "headers_garbage": b"\1" + b"\xff" * 128 , "headers_name": b"\1" + header(name_bytes=255) + header(sequence=4, dtype=9),
        "control_magic": b"\2" + control(magic=1), "control_kind": b"\2" + control(kind=3), "control_culprit": b"\2" + control(culprit=2**31 - 1),
        "control_sizes": b"\2" + control(sizes=(65535, 65535)), "control_cut": b"\2" + control()[:-1], "tcp_port": b"\x03127.0.0.1:x",
        "tcp_host": b"\3host:80", "tcp_none": b"\3", "tcp_nul": b"\x03127.0.0.1\0:80",
    }
    del refuse["headers_garbage"], refuse["tcp_nul"]  # equal and without meaning; cut at its zero: both are survived
    put("mesh_frames", "found-headers_garbage", b"\1" + b"\xff" * 128)
    put("mesh_frames", "found-tcp_nul", b"\x03127.0.0.1\0:80")
    for name, data in refuse.items():
        put("mesh_frames", "refuse-" + name, data)


def tokenizer():
    # ModelProto: 1 pieces {1 piece, 2 score, 3 type}, 2 trainer_spec {3 model_type, 4 vocab_size, 40 unk_id, 41 bos, 42 eos, 43 pad},
    # 3 normalizer_spec {1 name, 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces}.
    unknown, control, user, byte = 2, 3, 4, 6
    base = [("<unk>", 0.0, unknown), ("</s>", 0.0, control), ("\n", 0.0, user)]
    letters = [(c, -float(i), 1) for i, c in enumerate("\u2581aetshconm", 1)]
    merged = [("th", -0.5, 1), ("the", -0.25, 1), ("\u2581the", -0.125, 1)]
    some_bytes = [(f"<0x{b:02X}>", 0.0, byte) for b in range(256)]

    def model(pieces, kind=2, eos=1, charsmap=b"", escape=1, more=b""):
        out = b"".join(field(1, field(1, p) + field(2, s) + (field(3, t) if t != 1 else b"")) for p, s, t in pieces)
        trainer = field(3, kind) + field(4, len(pieces)) + field(40, 0) + field(41, -1) + field(42, eos) + field(43, -1)
        if any(t == byte for _, _, t in pieces):
            trainer += field(35, 1)
        rule = field(1, "identity") + field(2, charsmap) + field(3, 0) + field(4, 0) + field(5, escape)
        return out + field(2, trainer) + field(3, rule) + more
    pieces = base + letters + merged
    put("tokenizer", "accept-bpe", model(pieces))
    put("tokenizer", "accept-unigram", model(pieces, kind=1))
    put("tokenizer", "accept-word", model(pieces, kind=3))
    put("tokenizer", "accept-char", model(pieces, kind=4))
    put("tokenizer", "accept-bytes", model(base + some_bytes + letters + merged))
    refuse = {
        "empty": b"", "garbage": bytes(range(200)), "truncated": model(pieces)[:-3], "no_pieces": model([]), "no_unknown": model(pieces[1:]),
        "two_unknown": model(pieces + [("<u>", 0.0, unknown)]), "twice": model(pieces + [("the", 0.0, 1)]), "empty_piece": model(pieces + [("", 0.0, 1)]),
        "no_eos": model([p for p in pieces if p[0] != "</s>"], eos=-1), "byte_piece": model(pieces + [("<0xZZ>", 0.0, byte)]),
        "charsmap_short": model(pieces, charsmap=b"\1"), "charsmap_length": model(pieces, charsmap=struct.pack("<I", 2**31) + b"abc"),
    }
    for name, data in refuse.items():
        put("tokenizer", "refuse-" + name, data)
    # A trie that leads out of its array, and a replacement outside the text.
    put("tokenizer", "refuse-charsmap_trie", model(pieces, charsmap=struct.pack("<I", 1024) + b"\xff\xfe\x7f\x00" * 256 + b"x\0"))
    # A root that is a value and leads out (a look-up follows it all the same), and one that leads to itself.
    rest = struct.pack("<I", 1 << 31) * 255
    put("tokenizer", "refuse-charsmap_root", model(pieces, charsmap=struct.pack("<II", 1024, 1 << 31 | 0x3FFFFF << 10) + rest + b"x\0"))
    put("tokenizer", "refuse-charsmap_circle", model(pieces, charsmap=struct.pack("<II", 1024, 0) + rest[:4 * 96] + struct.pack("<I", 97 | 97 << 10) + rest[4 * 97:] + b"x\0"))
    put("tokenizer", "refuse-charsmap_tiny", model(pieces, charsmap=struct.pack("<I", 4) + b"\xff\xff\xff\x7f" + b"x\0"))


def hostfile():
    two = "worker-1 slots=8\nworker-2 slots=8\n"
    put("hostfile", "accept-deepspeed", "# the cluster\n\n" + two)
    put("hostfile", "accept-openmpi", "10.0.0.7 slots=2 max_slots=4\nn_4.rack max-slots=2 slots=2 # spare\n")
    put("hostfile", "accept-windows", b"\xef\xbb\xbf" + two.replace("\n", "\r\n").encode())
    put("hostfile", "accept-include", two + "#include worker-2:0,2@worker-1:7,1\n")
    put("hostfile", "accept-exclude", two + "#exclude worker-2\n")
    refuse = {
        "empty": "", "comments": "# nothing\n \n", "twice": two + "worker-1 slots=8\n", "uneven": two + "worker-3 slots=4\n",
        "no_slots": "worker-1\n", "zero": "a slots=0\n", "negative": "a slots=-1\n", "huge": "a slots=18446744073709551617\n",
        "max": "a slots=4 max_slots=2\n", "key": "a slot=8\n", "option": "-oProxyCommand=x slots=8\n", "shell": "a;reboot slots=8\n",
        "user": "me@a slots=8\n", "utf8": "b\u00e4r slots=8\n", "nul": "a\0b slots=8\n", "same_option": "a slots=1 slots=1\n",
        "long": "a" * 254 + " slots=1\n", "too_many": "".join(f"h{i} slots=1024\n" for i in range(65)),
        "include_host": two + "#include worker-3\n", "include_slot": two + "#include worker-1:8\n",
        "both": two + "#include worker-1\n#exclude worker-2\n", "nothing_left": two + "#exclude worker-1@worker-2\n",
    }
    for name, text in refuse.items():
        put("hostfile", "refuse-" + name, text)


def deepspeed():
    ours = json.loads((ROOT / "configs" / "deepspeed_config.json").read_text())
    small = {**ours, "train_batch_size": 8, "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}}
    put("deepspeed", "accept-ours", json.dumps(small))
    put("deepspeed", "accept-auto", json.dumps({"train_batch_size": "auto", "train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": "auto"},
                                                 "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}, "gradient_clipping": "auto"}))
    put("deepspeed", "accept-fp32", json.dumps({"fp16": {"enabled": False}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.99]}}}))
    refuse = {
        "empty": "", "list": "[]", "cut": json.dumps(small)[:-2], "nan": '{"gradient_clipping": NaN}', "unknown": '{"train_batchsize": 8}',
        "type": '{"train_batch_size": "many"}', "negative": '{"train_batch_size": -8}', "huge": '{"train_batch_size": 1e300}',
        "stage": '{"zero_optimization": {"stage": 9}}', "section": '{"zero_optimization": 1}', "fp16": '{"fp16": {"enabled": true}}',
        "optimizer": '{"optimizer": {"type": "Lion"}}', "betas": '{"optimizer": {"type": "AdamW", "params": {"betas": [0.9]}}}',
        "accumulation": '{"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}',
        "twice": '{"train_batch_size": 8, "train_batch_size": 4}', "deep": "[" * 64 + "]" * 64, "latin1": b'{"\xe4": 1}',
    }
    for name, text in refuse.items():
        put("deepspeed", "refuse-" + name, text)


def calibration():
    def point(op="gemm", role="forward", sizes=(64, 64, 64, 1), seconds=1e-5, **more):
        return {"op": op, "role": role, "dtype": "f32", "sizes": list(sizes), "work": 524288.0, "seconds": seconds, **more}

    def machine(points=None, **more):
        one = {"ranks": 1, "threads": 2, "peak_bf16_flops_per_s": 8e11, "peak_f32_flops_per_s": 4e11, "copy_bytes_per_s": 2e10, "in_step_f32": 1.1, "call_f32_s": 1e-6,
               "in_step_bf16": 1.0, "call_bf16_s": 0, "points": [point(), point(sizes=(128, 64, 64, 1), seconds=2e-5)] if points is None else points, "all_reduce": []}
        two = {**one, "ranks": 2, "threads": 1, "all_reduce": [{"bytes": 4096, "seconds": 1e-5}, {"bytes": 1 << 20, "seconds": 1e-3}]}
        return {"schema_version": 1, "machine": "a machine", "date": "2026-11-22", "cores": 2, "sets": [{**one, **more}, two]}
    whole = json.dumps(machine())
    put("calibration", "accept-two_sets", whole)
    put("calibration", "accept-no_points", json.dumps(machine([])))
    put("calibration", "accept-attention", json.dumps(machine([point("mla_attention_backward", "", (256, 40, 16, 1))])))
    refuse = {
        "empty": "", "list": "[]", "cut": whole[:-3], "version": whole.replace('"schema_version": 1', '"schema_version": 99'), "no_sets": json.dumps({**machine(), "sets": []}),
        "nan": whole.replace("400000000000.0", "NaN"), "negative": whole.replace("1e-05", "-1e-05"), "zero": json.dumps(machine([point(seconds=0)])),
        "sizes": json.dumps(machine([point(sizes=(1, 2, 3))])), "size_zero": json.dumps(machine([point(sizes=(0, 1, 1, 1))])), "dtype": json.dumps(machine([point(dtype="fp4")])),
        "huge": whole.replace("400000000000.0", "1e300"), "ranks": json.dumps(machine(ranks=0)), "threads": json.dumps(machine(threads=1 << 40)),
        "grid": json.dumps(machine([point(sizes=(i + 1, i + 1, i + 1, 1)) for i in range(60)])), "type": json.dumps(machine("points")), "deep": "[" * 64 + "]" * 64,
    }
    for name, text in refuse.items():
        put("calibration", "refuse-" + name, text)


def plan_file():
    layout = {"tp": 1, "cp": 1, "pp": 1, "ep": 1, "dp": 2, "etp": 1, "dense_dp": 2, "expert_dp": 2, "zero_stage": 0, "schedule": "1f1b", "recompute": "none",
              "micro_batch": 2, "grad_accumulation": 4, "virtual_stages": 1, "moments_dtype": "fp32", "grads_dtype": "fp32", "offload_optimizer": False}
    rank = {"global_rank": 0, "tp_rank": 0, "cp_rank": 0, "ep_rank": 0, "dp_rank": 0, "pp_stage": 0, "node": "node-0", "device_idx": 0}
    plan = {"schema_version": 1, "feasible": True, "runnable": True, "reason": "", "not_runnable": [], "device": "cpu", "gpus": 0, "memory_bytes": 1 << 34,
            "layout": layout, "why": "the only one", "predicted": {"peak_memory_bytes": 1 << 30, "step_s": 0.25, "tokens_per_s": 8192.0, "tokens_per_s_per_gpu": None,
            "mfu": None, "days": None, "cost_usd": None}, "time": [{"name": "forward", "seconds": 0.25}], "ledger": [{"name": "weights", "bytes": 1 << 30}],
            "worst_rank": 0, "ranks": [rank, {**rank, "global_rank": 1, "dp_rank": 1, "device_idx": 1}], "gpus_needed": None, "gpu_label_gb": 80.0,
            "rejected": [{"layout": layout, "reason": "2 % slower", "peak_memory_bytes": 1 << 30, "step_s": 0.26}]}
    whole = json.dumps(plan)
    put("plan_file", "accept-two_ranks", whole)
    put("plan_file", "accept-least", json.dumps({k: plan[k] for k in ("feasible", "runnable", "gpus", "layout", "predicted", "ledger", "worst_rank", "ranks", "rejected")}))
    refuse = {
        "empty": "", "list": "[]", "cut": whole[:-2], "layout": json.dumps({**plan, "layout": {**layout, "tp": 0}}), "huge": json.dumps({**plan, "layout": {**layout, "dp": 1 << 40}}),
        "no_ranks": json.dumps({k: v for k, v in plan.items() if k != "ranks"}), "type": json.dumps({**plan, "ledger": "none"}), "feasible": json.dumps({**plan, "feasible": "yes"}),
        "float_rank": json.dumps({**plan, "ranks": [{**rank, "cp_rank": 6.66666e72}]}),
    }
    for name, text in refuse.items():
        put("plan_file", "refuse-" + name, text)


def layout_text():
    for name, text in {"axes": "TP2 PP4 EP8", "planned": "TP4 EP8 DP2 ZeRO-2 recompute selective MBS2 moments bf16", "keys": "tp=8 pp=2 zero_stage=1,recompute=full",
                       "mixed": "dp=64 interleaved offload", "vpp": "PP4 DP16 interleaved VPP2"}.items():
        put("layout_text", "accept-" + name, text)
    for name, text in {"word": "TP2 turbo", "product": "TP3", "too_many": "DP128", "number": "TPx", "zero": "TP0", "huge": "TP9999999999999999999", "negative": "tp=-2", "stage": "ZeRO-7",
                       "key": "tensor=2", "nul": b"TP2\0PP4"}.items():
        put("layout_text", "refuse-" + name, text)


def dictionaries():
    (HERE / "dictionaries").mkdir(exist_ok=True)
    marks = ["{", "}", "[", "]", ": ", "\\x0a", "- ", "null", "true", "false", "-1", "1e300", "9223372036854775807", "18446744073709551615"]
    for corpus in ("yaml_spec", "hf_config", "hf_folder", "safetensors", "manifest", "hostfile", "deepspeed", "calibration", "plan_file",
                   "layout_text"):
        words = set()
        for seed in (HERE / "corpus" / corpus).glob("accept-*"):
            words.update(re.findall(r"[A-Za-z_][A-Za-z0-9_.]+", re.sub(r"# .*", "", seed.read_bytes().decode("latin-1"))))
        quote = (lambda w: w) if corpus in ("yaml_spec", "hostfile", "layout_text") else (lambda w: '\\"' + w + '\\"')
        lines = ['"' + m + '"' for m in marks] + ['"' + quote(w) + '"' for w in sorted(words) if w.isascii()]
        (HERE / "dictionaries" / (corpus + ".dict")).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for make in (yaml_spec, hf_config, hf_folder, safetensors, indexed_dataset, manifest, wire_frames, mesh_frames, tokenizer, hostfile, deepspeed,
                 calibration, plan_file, layout_text):
        make()
    dictionaries()
