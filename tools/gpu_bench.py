#!/usr/bin/env python3
"""Speed on a GPU against what the GPU and transformers reach, in one run: a table, and JSON beside it. See gpu_bench.sh."""
import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import time

TOOLS = pathlib.Path(__file__).resolve().parent
# (shape, dtype, quantization)
MODELS = [("qwen2.5-7b", "bf16", None), ("qwen2.5-7b", "bf16", "fp8"), ("qwen2.5-7b", "bf16", "int8"), ("qwen2.5-7b", "bf16", "int4"),
          ("tinyllama", "fp16", None), ("tinyllama", "fp16", "int8"), ("tinyllama", "fp16", "int4"), ("qwen3-0.6b", "bf16", None)]
BASELINES = ["tinyllama", "qwen3-0.6b", "qwen2.5-7b"]  # in this order, as far as time goes
DECODE = ["--input_len", 128, "--output_len", 256]
PREFILL = ["--input_len", 2048, "--output_len", 2, "--iterations", 5]
BATCHES = [1, 8, 32]


class Bench:
    def __init__(self, edgewise, work):
        self.edgewise, self.work = edgewise, work

    def run(self, *arguments, limit=None):
        start = time.time()
        done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=limit)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(str(a) for a in arguments)}:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
        print(f"  {time.time() - start:6.1f} s  {pathlib.Path(arguments[0]).name} {' '.join(str(a) for a in arguments[1:3])}", file=sys.stderr)
        return done.stdout

    def python(self, script, *arguments):
        return self.run(sys.executable, TOOLS / script, *arguments)

    def baseline(self, shape, limit):
        """As far as it comes in `limit` seconds."""
        try:
            written = self.run(sys.executable, TOOLS / "gpu_baselines.py", shape, limit=limit)
        except subprocess.TimeoutExpired as timeout:
            written = timeout.stdout or ""
            written = written.decode() if isinstance(written, bytes) else written
        if not written.strip():
            raise RuntimeError(f"nothing was measured in {limit:.0f} s")
        return json.loads(written.strip().splitlines()[-1])

    def build(self, shape, dtype, quantization):
        """An engine; what it is made from is gone again, since memory is short where the work directory lies in it."""
        model, onnx, engine = (self.work / name for name in ("model", "onnx", "engine"))
        shutil.rmtree(engine, ignore_errors=True)
        extra = ["--quantization", quantization] if quantization else []
        self.python("make_random_model.py", "--shape", shape, "--dtype", dtype, "--output_dir", model, *extra)
        self.run(self.edgewise, "export", "--model_dir", model, "--output_dir", onnx)
        shutil.rmtree(model)
        self.run(self.edgewise, "build", "--onnxDir", onnx, "--engineDir", engine, "--device", "cuda", "--maxBatchSize", max(BATCHES),
                 "--maxInputLen", 2048, "--maxKVCacheCapacity", 2304)
        shutil.rmtree(onnx)
        return engine

    def bench(self, engine, batches, lengths):
        out = self.work / "bench"
        self.run(self.edgewise, "bench", "--engine_dirs", engine, "--batch_sizes", *batches, *lengths, "--output_dir", out)
        return json.loads((out / "bench.json").read_text())[0]

    def measure(self, shape, dtype, quantization):
        engine = self.build(shape, dtype, quantization)
        decode = self.bench(engine, BATCHES[:1], [*DECODE, "--iterations", 5])
        decode["points"] += self.bench(engine, BATCHES[1:], [*DECODE, "--iterations", 2])["points"]
        prefill = self.bench(engine, [1], PREFILL)["points"][0]
        return {"shape": shape, "weights": quantization or dtype, "decode": decode,
                "prefill_2048_tokens_per_second": prefill["prefill_tokens_per_second"]["p50"],
                "ttft_2048_seconds": prefill["ttft_seconds"]["p50"]}


def point(result, batch):
    return next(p for p in result["decode"]["points"] if p["batch_size"] == batch)


def fastest(baseline):
    """The faster of the two ways, and which it is."""
    rates = {way: baseline[way]["decode_tokens_per_second"] for way in ("eager", "compiled") if "error" not in baseline.get(way, {"error": 1})}
    way = max(rates, key=rates.get)
    return rates[way], way


def table(report):
    ceiling = report["ceiling"]
    lines = [f"{report['date']}, {report['gpu']}, driver {report['driver']}, CUDA {report['cuda']}, torch {ceiling['torch']}: reads "
             f"{ceiling['read_bytes_per_second'] / 1e12:.2f} TB/s, multiplies {ceiling['matmul_bf16_flops'] / 1e12:.0f} TFLOP/s (bf16, dense).", "",
             "128 prompt tokens, 256 generated, greedy, median of 5 (batches: of 2); the limit is reading weights and cache once a step; prompts of 2048 tokens.",
             "", "| shape | weights | decode tok/s | of the limit | batch 8 | batch 32 | TTFT 2048 ms | prefill tok/s | decode / transformers |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in report["results"]:
        one = point(r, 1)
        rate = one["decode_tokens_per_second"]["p50"]
        ratio = "-"
        if baseline := report["baselines"].get(r["shape"]):
            best, way = fastest(baseline)
            ratio = f"{rate / best:.1f} ({way}, {best:.0f})"
        batches = [f"{point(r, b)['decode_tokens_per_second']['p50']:.0f}" for b in BATCHES[1:]]
        lines.append(f"| {r['shape']} | {r['weights']} | {rate:.0f} | {one['share_of_bandwidth'] * 100:.0f}% | {' | '.join(batches)} | "
                     f"{r['ttft_2048_seconds'] * 1e3:.1f} | {r['prefill_2048_tokens_per_second']:.0f} | {ratio} |")
    for shape, b in report["baselines"].items():
        compiled = b["compiled"].get("decode_tokens_per_second")
        lines.append(f"\ntransformers, {shape}, {b['dtype']}: eager {b['eager']['decode_tokens_per_second']:.0f} tok/s, static cache and "
                     f"torch.compile {f'{compiled:.0f}' if compiled else b['compiled']['error']}, prefill {b['prefill_tokens_per_second']:.0f} tok/s")
    return "\n".join(lines + [f"\n{f}" for f in report["failures"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edgewise", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="for engines: room for 45 GB, best in memory")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("gpu_bench.json"))
    parser.add_argument("--models", nargs="*", help="SHAPE:WEIGHTS, as qwen2.5-7b:int4 (default: all)")
    parser.add_argument("--seconds", type=float, default=570, help="no further measurement is begun after so long")
    parser.add_argument("--no_baselines", action="store_true")
    args = parser.parse_args()
    started = time.time()
    bench = Bench(args.edgewise.resolve(), args.work)
    smi = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout
    gpu, driver = smi.strip().splitlines()[0].split(", ")
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout if shutil.which("nvcc") else ""
    report = {"date": datetime.date.today().isoformat(), "gpu": gpu, "driver": driver,
              "cuda": nvcc.partition("release ")[2].partition(",")[0] or "unknown", "results": [], "baselines": {}, "failures": []}
    report["ceiling"] = json.loads(bench.python("gpu_baselines.py", "ceiling"))
    wanted = [m for m in MODELS if not args.models or f"{m[0]}:{m[2] or m[1]}" in args.models]

    def attempt(what, work):
        if time.time() - started > args.seconds:
            report["failures"].append(f"{what}: no time left")
            return
        try:
            work()
        except (RuntimeError, KeyError, ValueError, OSError) as error:
            report["failures"].append(f"{what}: {error}")

    for shape, dtype, quantization in wanted:
        attempt(f"{shape} {quantization or dtype}", lambda: report["results"].append(bench.measure(shape, dtype, quantization)))
    for shape in BASELINES:
        if args.no_baselines or all(m[0] != shape for m in wanted):
            continue
        left = started + args.seconds + 20 - time.time()
        attempt(f"transformers {shape}", lambda: report["baselines"].update({shape: bench.baseline(shape, left)}))
    report["seconds"] = time.time() - started
    if report["results"]:
        report["ceiling"]["read_bytes_per_second"] = report["results"][0]["decode"]["memory_bandwidth_bytes_per_second"]
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    if report["results"]:
        print(table(report))
    for failure in report["failures"]:
        print(failure, file=sys.stderr)
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
