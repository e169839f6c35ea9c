#!/usr/bin/env python3
"""Writes a checkpoint with random weights at a real model's shape, to measure speed without downloading anything.

    tools/make_random_model.py --shape llama-1b --output_dir out/llama-1b

Shapes: llama-1b (Llama-3.2-1B), qwen3-0.6b, tinyllama. The tokenizer is the embedded model's: speed does not depend on it.
"""
import argparse
import array
import json
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
}


def tensors(c):
    hidden, head = c["hidden_size"], c["head_dim"]
    q, kv, inner = c["num_attention_heads"] * head, c["num_key_value_heads"] * head, c["intermediate_size"]
    yield "model.embed_tokens.weight", [c["vocab_size"], hidden]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, shape in [("q", [q, hidden]), ("k", [kv, hidden]), ("v", [kv, hidden]), ("o", [hidden, q])]:
            yield f"{p}self_attn.{name}_proj.weight", shape
        if c["model_type"] == "qwen3":
            yield p + "self_attn.q_norm.weight", [head]
            yield p + "self_attn.k_norm.weight", [head]
        for name, shape in [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])]:
            yield f"{p}mlp.{name}_proj.weight", shape
        yield p + "input_layernorm.weight", [hidden]
        yield p + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", [c["vocab_size"], hidden]


def bf16(values):
    return array.array("H", (struct.unpack("<I", struct.pack("<f", v))[0] >> 16 for v in values))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    config = SHAPES[args.shape]
    out = args.output_dir
    out.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    # Weights are cut at random from one long list of normal numbers: as hard to compress or to predict, and fast.
    pool = bf16(generator.gauss(0, 0.02) for _ in range(1 << 21)).tobytes()
    ones = bf16([1.0])
    header, offset = {}, 0
    for name, shape in tensors(config):
        size = 2
        for dim in shape:
            size *= dim
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            if len(entry["shape"]) == 1:
                file.write(ones.tobytes() * (left // 2))
                continue
            while left:
                start = 2 * generator.randrange(len(pool) // 4)
                piece = pool[start:start + left]
                file.write(piece)
                left -= len(piece)
    config |= {"architectures": ["ForCausalLM"], "hidden_act": "silu", "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "models/edge-tiny-16m" / name, out / name)
    print(f"{out}: {offset / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
