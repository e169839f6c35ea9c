#!/usr/bin/env python3
"""Writes a checkpoint with random weights at a real model's shape, to measure speed without downloading anything.

    tools/make_random_model.py --shape llama-1b --output_dir out/llama-1b
    tools/make_random_model.py --shape qwen2.5-7b --quantization int4 --output_dir out/qwen-int4

Shapes: llama-1b (Llama-3.2-1B), qwen3-0.6b, tinyllama, qwen2.5-7b. Quantized ones are as llm-compressor stores them
(compressed-tensors): fp8 and int8 with a scale a row, int4 in groups of 128, the head left alone. The tokenizer is the embedded
model's: speed does not depend on it.
"""
import argparse
import array
import json
import math
import multiprocessing
import os
import pathlib
import random
import shutil
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {
    "llama-1b": dict(model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=64, rms_norm_eps=1e-5, rope_theta=500000.0,
                     tie_word_embeddings=True),
    "qwen3-0.6b": dict(model_type="qwen3", vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
                       num_attention_heads=16, num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1000000.0,
                       tie_word_embeddings=True),
    "tinyllama": dict(model_type="llama", vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
                      num_attention_heads=32, num_key_value_heads=4, head_dim=64, rms_norm_eps=1e-5, rope_theta=10000.0,
                      tie_word_embeddings=False),
    "qwen2.5-7b": dict(model_type="qwen2", vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                       num_attention_heads=28, num_key_value_heads=4, head_dim=128, rms_norm_eps=1e-6, rope_theta=1000000.0,
                       tie_word_embeddings=False),
}
GROUP = 128
BYTES = {"BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1, "I32": 4, "I64": 8}
# How compressed-tensors calls them: its format, and what its weights are.
QUANTIZATIONS = {
    "fp8": ("float-quantized", dict(num_bits=8, type="float", strategy="channel")),
    "int8": ("int-quantized", dict(num_bits=8, type="int", strategy="channel")),
    "int4": ("pack-quantized", dict(num_bits=4, type="int", strategy="group", group_size=GROUP)),
}


def linear(name, n, k, dtype, quantization):
    """(tensor, dtype, shape, what fills it) of a matrix."""
    if quantization == "int4":
        yield name + "_packed", "I32", [n, k // 8], "codes"
        yield name + "_scale", dtype, [n, k // GROUP], "scales"
        yield name + "_shape", "I64", [2], [n, k]
    elif quantization:
        yield name, "F8_E4M3" if quantization == "fp8" else "I8", [n, k], "codes"
        yield name + "_scale", dtype, [n, 1], 0.02 if quantization == "fp8" else 0.0003
    else:
        yield name, dtype, [n, k], "normal"


def tensors(c, dtype, quantization):
    hidden, head = c["hidden_size"], c["head_dim"]
    q, kv, inner = c["num_attention_heads"] * head, c["num_key_value_heads"] * head, c["intermediate_size"]
    yield "model.embed_tokens.weight", dtype, [c["vocab_size"], hidden], "normal"
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, n, k in [("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)]:
            yield from linear(f"{p}self_attn.{name}_proj.weight", n, k, dtype, quantization)
            if c["model_type"] == "qwen2" and name != "o":
                yield f"{p}self_attn.{name}_proj.bias", dtype, [n], "normal"
        if c["model_type"] == "qwen3":
            yield p + "self_attn.q_norm.weight", dtype, [head], 1.0
            yield p + "self_attn.k_norm.weight", dtype, [head], 1.0
        for name, n, k in [("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)]:
            yield from linear(f"{p}mlp.{name}_proj.weight", n, k, dtype, quantization)
        yield p + "input_layernorm.weight", dtype, [hidden], 1.0
        yield p + "post_attention_layernorm.weight", dtype, [hidden], 1.0
    yield "model.norm.weight", dtype, [hidden], 1.0
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", dtype, [c["vocab_size"], hidden], "normal"


def floats(values, dtype):
    if dtype == "F16":
        return b"".join(struct.pack("<e", v) for v in values)
    return array.array("H", (struct.unpack("<I", struct.pack("<f", v))[0] >> 16 for v in values)).tobytes()


def write_tensor(path, position, size, content, dtype, pools, seed):
    """Weights are cut at random from one long list: as hard to compress or to predict, and fast."""
    generator = random.Random(seed)
    descriptor = os.open(path, os.O_WRONLY)
    pool = pools.get(content) if isinstance(content, str) else None
    if isinstance(content, list):
        pool = struct.pack(f"<{len(content)}q", *content)
    elif pool is None:
        pool = floats([content], dtype) * (size // BYTES[dtype])
    while size:
        start = 8 * generator.randrange(len(pool) // 16) if isinstance(content, str) else 0
        piece = memoryview(pool)[start:start + size]
        os.pwrite(descriptor, piece, position)
        position += len(piece)
        size -= len(piece)
    os.close(descriptor)


def make_pools(dtype, quantization):
    generator = random.Random(0)
    # Half as many as a large matrix has elements would do no harm to a processor's caches.
    pools = {"normal": floats((generator.gauss(0, 0.02) for _ in range(1 << 20)), dtype) * 4}
    if quantization:
        # Small floats up to 2 in size, which has no bit pattern of what is no number; any integer.
        table = bytes((b & 0xbf) if quantization == "fp8" else b for b in range(256))
        pools["scales"] = floats((generator.uniform(0.004, 0.006) for _ in range(1 << 16)), dtype) * 4
        pools["codes"] = generator.randbytes(1 << 24).translate(table)
    return pools


def write_checkpoint(out, config, dtype, quantization):
    header, jobs, offset = {}, [], 0
    for name, kind, shape, content in tensors(config, dtype, quantization):
        size = BYTES[kind] * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        jobs.append((offset, size, content, kind))
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    path = out / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(begin + offset)
    pools = make_pools(dtype, quantization)

    def work(worker, workers):
        for i in range(worker, len(jobs), workers):
            at, size, content, kind = jobs[i]
            write_tensor(path, begin + at, size, content, kind, pools, i)

    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(i, os.cpu_count())) for i in range(os.cpu_count())]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode != 0:
            raise SystemExit(f"{path}: could not be written")
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--dtype", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--quantization", choices=QUANTIZATIONS)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    out = args.output_dir
    out.mkdir(parents=True, exist_ok=True)
    size = write_checkpoint(out, SHAPES[args.shape], {"bf16": "BF16", "fp16": "F16"}[args.dtype], args.quantization)
    config = SHAPES[args.shape] | {"architectures": ["ForCausalLM"], "hidden_act": "silu", "max_position_embeddings": 4096,
                                   "torch_dtype": {"bf16": "bfloat16", "fp16": "float16"}[args.dtype]}
    if args.quantization:
        layout, weights = QUANTIZATIONS[args.quantization]
        weights = dict(symmetric=True, group_size=None, dynamic=False, block_structure=None, actorder=None) | weights
        group = dict(targets=["Linear"], weights=weights, input_activations=None, output_activations=None)
        config["quantization_config"] = dict(quant_method="compressed-tensors", format=layout, ignore=["lm_head"], kv_cache_scheme=None,
                                             quantization_status="compressed", config_groups={"group_0": group})
    (out / "config.json").write_text(json.dumps(config, indent=2))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "models/edge-tiny-16m" / name, out / name)
    print(f"{out}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
