#!/usr/bin/env python3
"""Sets Edgewise's tokenizer beside Hugging Face's, on one thread each, over the same texts in one run.

    pip install tokenizers
    python tools/bench_tokenizer.py build/tokenizer_bench texts.txt... --tokenizers a/tokenizer.json ...

Prints MB/s for encoding and decoding whole documents and single lines. Both keep their word caches between
runs; the figure is the median of seven runs after one to warm up.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402  (reads the variables above)

RUNS = 7


def median_seconds(work):
    work()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_reference(tokenizer, texts):
    size = sum(len(text.encode()) for text in texts)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    encode = median_seconds(lambda: [tokenizer.encode(text, add_special_tokens=False) for text in texts])
    decode = median_seconds(lambda: [tokenizer.decode(item, skip_special_tokens=False) for item in ids])
    return {"tokens": sum(map(len, ids)), "encode": size / encode / 1e6, "decode": size / decode / 1e6}


def lines_of(text):
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the built tokenizer_bench")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--tokenizers", nargs="+", required=True)
    args = parser.parse_args()
    print(f"{'tokenizer':>16} {'text':>20} {'mode':>9} {'tokens':>8}   encode MB/s: ours, theirs, ratio"
          "     decode MB/s: ours, theirs, ratio")
    for path in args.tokenizers:
        reference = Tokenizer.from_file(path)
        output = subprocess.run([args.program, path, *args.texts], check=True, capture_output=True, text=True)
        for line in output.stdout.splitlines():
            ours = json.loads(line)
            with open(ours["file"], encoding="utf-8", newline="") as file:
                text = file.read()
            theirs = measure_reference(reference, [text] if ours["mode"] == "document" else lines_of(text))
            name = os.path.basename(os.path.dirname(os.path.abspath(path)))
            tokens = str(ours["tokens"]) + ("" if ours["tokens"] == theirs["tokens"] else f" != {theirs['tokens']}")
            print(f"{name:>16} {os.path.basename(ours['file']):>20} {ours['mode']:>9} {tokens:>8}   "
                  + "     ".join(f"{ours[key]:12.1f} {theirs[key]:8.1f} {ours[key] / theirs[key]:6.1f}x"
                                 for key in ("encode", "decode")))


if __name__ == "__main__":
    main()
