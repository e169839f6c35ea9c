#!/usr/bin/env python3
"""Prefill and decode speed on the CPU beside llama.cpp, at the same weights and in the same run: engines of this program on the
one side, on the other the checkpoint as GGUF (llama architectures), which llama.cpp's own llama-quantize rounds. Output head and
embedding stay bf16 on both sides. Needs numpy and gguf (PyPI), and llama.cpp built as its README says.

    tools/make_random_model.py --shape llama-1b --output_dir out/llama-1b
    tools/compare_llama_cpp.py out/llama-1b --llama_cpp path/to/llama.cpp/build/bin --work out/compare \\
        --engine bf16=out/llama-1b-engine --engine int8=out/llama-1b-int8-engine --engine int4=out/llama-1b-int4-engine
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import gguf
import numpy

# llama.cpp's format that is nearest to ours; its blocks of 32 weights share a scale of 16 bits.
FORMATS = {"bf16": None, "int8": "Q8_0", "int4": "Q4_0"}
PROMPT, ANSWER = 256, 24  # tokens
LAYER_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
               "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
               "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(checkpoint, path):
    """Without a tokenizer: llama-bench feeds numbers. Rows of q and k are not permuted, which changes no speed."""
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] != "llama":
        sys.exit(f"{checkpoint}/config.json: model_type is {config['model_type']}, expected llama")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    weights = checkpoint / "model.safetensors"
    with open(weights, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = numpy.memmap(weights, mode="r", offset=8 + size)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            sys.exit(f"{weights}: {name} is {entry['dtype']}, expected BF16; give the checkpoint before it was quantized")
        begin, end = entry["data_offsets"]
        bits = data[begin:end].view(numpy.uint16).reshape(entry["shape"])
        if len(entry["shape"]) == 1:  # norms are float32 there
            writer.add_tensor(gguf_name(name), (bits.astype(numpy.uint32) << 16).view(numpy.float32))
        else:
            writer.add_tensor(gguf_name(name), bits.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(path, work):
    """A file that is there only when it is whole."""
    if not path.exists():
        part = path.with_name(f"part-{path.name}")
        work(part)
        part.rename(path)


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(c) for c in command)}:\n{done.stdout[-800:]}{done.stderr[-800:]}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path, help="bf16, in one model.safetensors")
    parser.add_argument("--llama_cpp", type=pathlib.Path, required=True, help="folder with llama-bench and llama-quantize")
    parser.add_argument("--edgewise", type=pathlib.Path, default=pathlib.Path("build/edgewise"))
    parser.add_argument("--engine", action="append", required=True, help=f"FORMAT=FOLDER, of {', '.join(FORMATS)}")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="for GGUF files: three times the checkpoint's size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="each engine is measured so often, in turns")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    plain = args.work / "bf16.gguf"
    make(plain, lambda part: write_gguf(args.checkpoint, part))
    engines = dict(e.partition("=")[::2] for e in args.engine)
    if unknown := [e for e in args.engine if e.partition("=")[0] not in FORMATS]:
        parser.error(f"--engine {unknown[0]}: expected FORMAT=FOLDER, with one of {', '.join(FORMATS)}")
    rates = {(kind, what, side): [] for kind in engines for what in ("prefill", "decode") for side in ("ours", "llama.cpp")}
    for kind in engines:
        make(args.work / f"{kind}.gguf",
             lambda part: run(args.llama_cpp / "llama-quantize", "--output-tensor-type", "bf16", "--token-embedding-type", "bf16", plain,
                              part, FORMATS[kind], args.threads))
    for _ in range(args.rounds):
        for kind, engine in engines.items():
            out = args.work / "bench"
            run(args.edgewise, "bench", "--engine_dirs", engine, "--batch_sizes", 1, "--input_len", PROMPT, "--output_len", ANSWER,
                "--iterations", 1, "--threads", args.threads, "--output_dir", out)
            point = json.loads((out / "bench.json").read_text())[0]["points"][0]
            for what, flags in [("prefill", ["-p", PROMPT, "-n", 0]), ("decode", ["-p", 0, "-n", ANSWER, "-d", PROMPT])]:
                rates[kind, what, "ours"].append(point[f"{what}_tokens_per_second"]["p50"])
                theirs = json.loads(run(args.llama_cpp / "llama-bench", "-m", args.work / f"{kind}.gguf", *flags, "-t", args.threads,
                                        "-r", 1, "-o", "json"))
                rates[kind, what, "llama.cpp"].append(theirs[0]["avg_ts"])
    print("medians of the rounds, and of their ratios\n\n| weights | | ours, tok/s | llama.cpp, tok/s | ratio |\n|---|---|---|---|---|")
    for kind in engines:
        for what in ["prefill", "decode"]:
            ours, theirs = (rates[kind, what, side] for side in ("ours", "llama.cpp"))
            # Of each round: a shared machine's speed changes from one to the next.
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            medians = f"{statistics.median(ours):.1f} | {statistics.median(theirs):.1f}"
            print(f"| {kind} ({FORMATS[kind] or 'BF16'}) | {what} | {medians} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
