#!/usr/bin/env python3
"""Table of docs/performance.md: every quantization scheme of a checkpoint, its size, and how far it is from the original.

    tools/measure_quality.py --model models/edge-tiny-16m --texts wikitext.txt stories.txt --work_dir out/quality

Needs build/edgewise. Prints Markdown; what it quantized stays in the work folder.
"""
import argparse
import json
import pathlib
import shutil
import subprocess

EDGEWISE = pathlib.Path(__file__).resolve().parent.parent / "build" / "edgewise"
SCHEMES = [("fp8", 128), ("int8", 128), ("int8_sq", 128),
           ("int4_rtn", 128), ("int4_awq", 128), ("int4_gptq", 128),
           ("int4_rtn", 32), ("int4_awq", 32), ("int4_gptq", 32), ("nvfp4", 128)]


def evaluate(engine, text, args, against=None):
    command = [EDGEWISE, "eval", "--engine", engine, "--text", text, "--context", "1024", "--json",
               "--max_chars", str(args.max_chars), "--cache_dir", args.work_dir / "cache"]
    if against:
        command += ["--against", against]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def megabytes(folder):
    return sum(f.stat().st_size for f in folder.glob("model*.safetensors")) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--texts", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--max_chars", type=int, default=200000, help="of each text")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)

    columns = " | ".join(f"{text.stem}: perplexity | KL | top-1 | BLEU" for text in args.texts)
    print(f"| weights | size | {columns} |\n|---|---|{'---|' * (4 * len(args.texts))}", flush=True)
    plain = [evaluate(args.model, text, args)["perplexity"] for text in args.texts]
    print(f"| as they came | {megabytes(args.model):.1f} MB | " + " | ".join(f"{p:.4g} | | | " for p in plain) + " |", flush=True)
    for scheme, group in SCHEMES:
        name = f"{scheme}-{group}" if "int4" in scheme else scheme
        folder = args.work_dir / name
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([EDGEWISE, "quantize", "--model_dir", args.model, "--output_dir", folder, "--quantization", scheme,
                        "--group_size", str(group)], check=True, capture_output=True)
        cells = [name.replace("-", ", groups of "), f"{megabytes(folder):.1f} MB"]
        for text, reference in zip(args.texts, plain):
            report = evaluate(folder, text, args, args.model)
            distance = report["against"]
            cells += [f"{report['perplexity']:.4g} ({report['perplexity'] / reference * 100 - 100:+.2f}%)",
                      f"{distance['kl']:.4f}", f"{distance['top1'] * 100:.1f}%", f"{distance['bleu']:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
