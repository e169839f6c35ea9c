"""/v1/embeddings against the model written out in numpy (plain_model.py), with and without an adapter.

Usage: embedding_test.py build/edgewise. Prints "N passed, N failed".
"""
import contextlib
import pathlib
import sys
import tempfile

import numpy as np

from cli_support import MODEL, Checks, program_from_arguments
from plain_model import PlainModel
from server_support import Server

ADAPTER = MODEL.parent / f"{MODEL.name}-lora-shakespeare"
TEXTS = ["x", "A river flows to the sea.", "2+2 equals 4", "Grüße, 世界!", "Once upon a time there was a king who had three sons. " * 12]
# Largest distance between directions, 1 - cosine: float32 arithmetic, then weights and cache as a checkpoint has them.
ALLOWED = {"fp32": 1e-9, "bf16": 1e-4}


def check_precision(checks, program, work, precision):
    program("export", "--model_dir", MODEL, "--output_dir", work / "onnx", "--dtype", precision)
    program("build", "--onnxDir", work / "onnx", "--engineDir", work / "engine", "--kvDtype", precision, "--maxBatchSize", 4, "--maxInputLen", 300,
            "--maxKVCacheCapacity", 320, "--optLevel", 0)
    with contextlib.closing(Server(program, work / "engine", "--lora", f"shakespeare={ADAPTER}")) as server:
        means = {}
        for name, plain in {"tiny": PlainModel(MODEL), "shakespeare": PlainModel(MODEL, ADAPTER)}.items():
            vectors = [d["embedding"] for d in server.post("/v1/embeddings", {"model": name, "input": TEXTS})[1]["data"]]
            means[name] = np.mean(vectors, axis=0)
            for text, vector in zip(TEXTS, vectors):
                ids = server.post("/tokenize", {"prompt": text})[1]["tokens"]
                distance = 1 - np.dot(vector, plain.embedding(ids)) / np.linalg.norm(vector)
                checks.that(distance < ALLOWED[precision], f"{precision}, {name}, {len(ids)} tokens: 1 - cosine is {distance:.1e}")
        checks.that(np.linalg.norm(means["tiny"] - means["shakespeare"]) > 0.1, "the adapter changes them")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        for precision in ALLOWED:
            with checks.part(precision):
                check_precision(checks, program_from_arguments(), pathlib.Path(folder), precision)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
