#!/usr/bin/env python3
"""What others reach on this GPU, as JSON: the dense bf16 rate of torch.matmul, and transformers at the shapes of
make_random_model.py, eager and with a static cache under torch.compile. Weights are random and made on the GPU. What is known
is written after each measurement: the last line is the result.

    tools/gpu_baselines.py ceiling
    tools/gpu_baselines.py qwen3-0.6b --dtype bf16
"""
import argparse
import json
import statistics
import time

import make_random_model
import torch

PROMPT, ANSWER, LONG_PROMPT = 128, 256, 2048
EAGER_ANSWER = 64  # each of its tokens takes as long


def seconds(work):
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ceiling(n=8192, runs=20):
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = [seconds(lambda: torch.matmul(a, b)) for _ in range(3 + runs)][3:]
    return {"matmul_bf16_flops": 2 * n ** 3 / statistics.median(times), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}


def make_model(shape, dtype):
    import transformers
    config = transformers.AutoConfig.for_model(**make_random_model.SHAPES[shape], max_position_embeddings=4096)
    with torch.device("cuda"):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


class Clock:
    """Takes the time of each token."""

    def __init__(self):
        self.times = []

    def put(self, _):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def measure(model, answer, runs, warmups, **options):
    """Tokens a second behind the first one of a greedy answer, and seconds to that. All answers are of one length, as a
    static cache is compiled for one."""
    ids = torch.randint(100, 30000, (1, PROMPT), device="cuda")
    mask = torch.ones_like(ids)
    rates, first = [], []
    for _ in range(warmups + runs):
        clock = Clock()
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(ids, attention_mask=mask, min_new_tokens=answer, max_new_tokens=answer, do_sample=False, pad_token_id=0,
                       eos_token_id=None, streamer=clock, **options)
        tokens = clock.times[1:]  # the first call brings the prompt
        rates.append((len(tokens) - 1) / (tokens[-1] - tokens[0]))
        first.append(tokens[0] - start)
    return {"decode_tokens_per_second": statistics.median(rates[warmups:]), "ttft_seconds": statistics.median(first[warmups:])}


def baselines(shape, dtype, runs):
    model = make_model(shape, dtype)
    result = {"shape": shape, "dtype": dtype, "compiled": {"error": "not done when time was up"}}
    with torch.no_grad():
        ids = torch.randint(100, 30000, (1, LONG_PROMPT), device="cuda")
        times = [seconds(lambda: model(ids, logits_to_keep=1)) for _ in range(2 + runs)][2:]
        result["prefill_tokens_per_second"] = LONG_PROMPT / statistics.median(times)
        result["eager"] = measure(model, EAGER_ANSWER, runs, 1)
        print(json.dumps(result), flush=True)  # the compiler takes its time
        try:
            result["compiled"] = measure(model, ANSWER, runs, 2, cache_implementation="static")
        except Exception as error:  # a compiler that fails is a finding, and no reason to lose the rest
            result["compiled"] = {"error": f"{type(error).__name__}: {error}"[:300]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ceiling", *make_random_model.SHAPES])
    parser.add_argument("--dtype", choices=["bf16", "fp16"], default="fp16")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[args.dtype]
    print(json.dumps(ceiling() if args.what == "ceiling" else baselines(args.what, dtype, args.runs)))


if __name__ == "__main__":
    main()
