#!/usr/bin/env python3
"""Are the checkpoints that `edgewise quantize` writes what Hugging Face transformers reads?

    tools/check_transformers.py --model models/edge-tiny-16m --work_dir out/transformers

For every scheme: quantize, let transformers (with compressed-tensors) load the result in float32 and compute logits of the
golden prompts, and hold Edgewise's reference backend on the same checkpoint against them with `edgewise verify`. Where only
weights are rounded the logits are the same to 1e-4 of the largest. Activations (int8_sq) and a cache (kv_cache) are rounded at
run time, where a last bit decides a tie: there KL must stay under 1e-4.
Needs torch, transformers, compressed-tensors, safetensors and build/edgewise. Exit code 1 when a scheme differs.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

EDGEWISE = pathlib.Path(__file__).resolve().parent.parent / "build" / "edgewise"
SCHEMES = {"fp8": [], "int8": [], "int8_sq": [], "int4_rtn": [], "int4_awq": ["--group_size", "32"], "int4_gptq": [], "nvfp4": [],
           "int8+lm_head": ["--lm_head", "int8"], "fp8+kv_cache": ["--kv_cache", "fp8"],
           "int8+kv_cache": ["--kv_cache", "int8"]}
ROUNDED_AT_RUN_TIME = {"int8_sq", "fp8+kv_cache", "int8+kv_cache"}


def golden_of(checkpoint, prompts, path, device):
    """What transformers computes from `checkpoint`, in the layout `edgewise verify` reads."""
    # NVFP4 weights come out as bfloat16 whatever is asked for, and only at the first forward pass.
    late = "nvfp4" in checkpoint.name
    dtype = torch.bfloat16 if late else torch.float32
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    golden = {}
    with torch.no_grad():
        if late:
            model(prompts["prompt_0_ids"][None].to(device))
            torch.nn.Module.float(model)
        for i in range(3):
            ids = prompts[f"prompt_{i}_ids"]
            rows = prompts[f"prompt_{i}_logits"].shape[0]
            logits = model(ids[None].to(device)).logits[0, -rows:]
            golden[f"prompt_{i}_ids"] = ids
            golden[f"prompt_{i}_logits"] = logits.float().cpu().contiguous()
    save_file(golden, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompts = load_file(args.model / "golden.safetensors")
    failed = 0
    for name, flags in SCHEMES.items():
        checkpoint = args.work_dir / name
        shutil.rmtree(checkpoint, ignore_errors=True)
        args.work_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run([EDGEWISE, "quantize", "--model_dir", args.model, "--output_dir", checkpoint, "--quantization",
                        name.split("+")[0], *flags], check=True, capture_output=True)
        golden = args.work_dir / f"{name}.safetensors"
        try:
            golden_of(checkpoint, prompts, golden, device)
        except Exception as error:  # one scheme's failure must not hide the others
            print(f"{name}: transformers: {type(error).__name__}: {str(error)[:600]}", flush=True)
            failed += 1
            continue
        result = subprocess.run([EDGEWISE, "verify", checkpoint, "--golden", golden, "--backend", "reference", "--dtype", "fp32"],
                                capture_output=True, text=True)
        kl = re.search(r"KL ([0-9.e+-]+)", result.stdout)
        good = kl and float(kl[1]) < 1e-4 if name in ROUNDED_AT_RUN_TIME else result.returncode == 0
        failed += not good
        print(f"{name}: {'ok' if good else 'DIFFERS'}: {re.sub(chr(10), ' ', result.stdout + result.stderr).strip()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
