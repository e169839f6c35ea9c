"""What the command-line tests share: running the program, safetensors files by hand, counting checks."""
import contextlib
import json
import os
import pathlib
import random
import resource
import struct
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "edge-tiny-16m"
CHECKPOINTS = ROOT / "tests" / "data" / "checkpoints"
MEMORY_LIMIT = 4 << 30
SANITIZED = "EDGEWISE_SANITIZED" in os.environ
SLOWNESS = 10 if SANITIZED else 1  # factor of every time limit


class Checks:
    """Counts checks; a failed one is printed and the program goes on."""

    def __init__(self):
        self.passed = self.failed = 0

    def that(self, condition, what):
        if condition:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL  {what}", flush=True)
        return bool(condition)

    @contextlib.contextmanager
    def part(self, name):
        """One part of a test: an exception in it is a failure of that part only."""
        try:
            yield
            print(f"ran   {name}", flush=True)
        except Exception as error:
            self.that(False, f"{name}: {type(error).__name__}: {error}")

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0


class Program:
    """The edgewise binary; each run is limited in memory and time."""

    def __init__(self, path):
        self.path = pathlib.Path(path).resolve()

    def run(self, *args, stdin="", limits=(), cwd=None, name=None, timeout=300 * SLOWNESS, text=True):
        def limit():
            # One core: on a busy machine threads that wait for each other take a multiple of the time.
            os.sched_setaffinity(0, [random.choice(sorted(os.sched_getaffinity(0)))])
            # A sanitizer reserves terabytes of addresses; it watches allocations itself.
            memory = [] if SANITIZED else [(resource.RLIMIT_AS, MEMORY_LIMIT)]
            for which, value in [*memory, *limits]:
                resource.setrlimit(which, (value, value))

        return subprocess.run([str(name or self.path), *map(str, args)], input=stdin, capture_output=True, text=text,
                              cwd=cwd, timeout=timeout, preexec_fn=limit, errors="replace" if text else None)

    def __call__(self, *args, **options):
        """Runs and expects success; returns standard output."""
        result = self.run(*args, **options)
        if result.returncode != 0:
            raise RuntimeError(f"edgewise {' '.join(map(str, args))}: exit {result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def infer(self, engine, document, work):
        (work / "requests.json").write_text(json.dumps(document))
        self("infer", "--engineDir", engine, "--inputFile", work / "requests.json", "--outputFile", work / "responses.json")
        return json.loads((work / "responses.json").read_text())["responses"]


NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64,
               "BF16": np.uint16, "F8_E4M3": np.uint8}


def to_bf16(values):
    """Float32 to the bits of bfloat16, to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    """{name: (dtype, array)}; BF16 and F8_E4M3 as their bits."""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    result = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[8 + size + begin:8 + size + end], NUMPY_TYPES[entry["dtype"]])
        result[name] = (entry["dtype"], array.reshape(entry["shape"]))
    return result


def write_safetensors(path, tensors):
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (dtype, array) in sorted(tensors.items()):
        blob = np.ascontiguousarray(array, NUMPY_TYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(np.shape(array)), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def program_from_arguments():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} build/edgewise")
    return Program(sys.argv[1])


def run_parts(test_class):
    """Makes a test of the program and an empty directory, and runs its parts(); the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        test = test_class(program_from_arguments(), pathlib.Path(folder))
        for part in test.parts():
            with test.checks.part(part.__name__):
                part()
        test.close()
        return test.checks.finish()
