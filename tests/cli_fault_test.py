"""Damaged files, a full disk, and commands that are killed: an error message or an answer, and nothing half-written.

Uses the embedded model cut to one layer. Prints "N passed, N failed". Usage: cli_fault_test.py build/edgewise
"""
import contextlib
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np

import prequantized_test
from cli_support import CHECKPOINTS, MODEL, SLOWNESS, read_safetensors, run_parts
from cut_model import CutModelTest

SEEDS = 12


def unread(pipe):
    """Bytes that wait in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


class FaultTest(CutModelTest):
    def __init__(self, program, work):
        super().__init__(program, work)
        self.make_engine()
        (work / "in.json").write_text(json.dumps({"max_generate_length": 4, "requests": [{"messages": [{"role": "user", "content": "Hi"}]}]}))

    def parts(self):
        return [self.damaged_files, self.damaged_column_order, self.killed, self.no_space, self.interrupted]

    @contextlib.contextmanager
    def damaged(self, path, seed):
        """The file cut, with bits flipped, or with a run of random bytes; as before afterwards."""
        data = path.read_bytes()
        dice = random.Random(f"{path.name} {seed}")
        broken = bytearray(data)
        end = dice.choice([64, 4096, len(data)])
        first, last = dice.choice([(0, min(end, len(data))), (max(0, len(data) - end), len(data))])
        kind = ["cut", "flip", "noise", "flip"][seed % 4]
        if kind == "cut":
            del broken[dice.randrange(len(data)):]
        elif kind == "flip":
            for _ in range(dice.choice([1, 8, 200])):
                broken[dice.randrange(first, last)] ^= 1 << dice.randrange(8)
        else:
            at = dice.randrange(first, last)
            size = min(dice.choice([4, 8, 64]), len(data) - at)
            broken[at:at + size] = dice.randbytes(size)
        path.write_bytes(broken)
        try:
            yield f"{path.name} damaged by {kind}, seed {seed}"
        finally:
            path.write_bytes(data)

    def damaged_files(self):
        llama = self.work / "damaged-llama"
        shutil.copytree(CHECKPOINTS / "llama2", llama)
        onnx, engine, out = self.work / "damaged-onnx", self.work / "damaged-engine", self.work / "damaged-out"
        for seed in range(SEEDS):
            for name in ["model.safetensors", "config.json"]:
                with self.damaged(llama / name, seed) as what:
                    result = self.program.run("export", "--model_dir", llama, "--output_dir", out)
                    self.survives(f"export: {what}", result)
                    self.checks.that(out.exists() == (result.returncode == 0), f"export: {what}: output and exit code disagree")
                shutil.rmtree(out, ignore_errors=True)
        self.program("export", "--model_dir", llama, "--output_dir", onnx)
        for path in sorted(onnx.glob("model.onnx*")):
            for seed in range(SEEDS):
                with self.damaged(path, seed) as what:
                    result = self.program.run("build", "--onnxDir", onnx, "--engineDir", out, "--optLevel", 0)
                    self.survives(f"build: {what}", result)
                    self.checks.that(out.exists() == (result.returncode == 0), f"build: {what}: output and exit code disagree")
                shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.engine, engine)
        request = self.work / "damaged.json"
        request.write_text(json.dumps({"temperature": 0, "max_generate_length": 3,
                                       "requests": [{"messages": [{"role": "user", "content": "Hi"}]}]}))
        for path in sorted(engine.iterdir()):
            for seed in range(SEEDS if path.suffix == ".engine" else 6):
                with self.damaged(path, seed) as what:
                    self.survives(f"infer: {what}", self.program.run("infer", "--engineDir", engine, "--inputFile", request,
                                                                     "--outputFile", self.work / "out.json"))

    def damaged_column_order(self):
        """GPTQ's order of columns are indices in the weights: one out of range must not be followed."""
        scheme = prequantized_test.SCHEMES["gptq-4bit-asym-actorder"]
        stored = self.work / "actorder"
        prequantized_test.write_checkpoints(scheme, stored, self.work / "actorder-float", self.model)
        onnx, engine = self.work / "actorder-onnx", self.work / "actorder-engine"
        self.program("export", "--model_dir", stored, "--output_dir", onnx)
        self.program("build", "--onnxDir", onnx, "--engineDir", engine, "--optLevel", 0)
        tensors = read_safetensors(stored / "model.safetensors")
        order = np.argsort(tensors["model.layers.0.self_attn.q_proj.g_idx"][1], kind="stable")
        request = self.work / "order.json"
        request.write_text(json.dumps({"requests": [{"messages": [{"role": "user", "content": "Hi"}]}], "max_generate_length": 2}))
        for directory, command in [(engine, ["infer", "--engineDir", engine, "--inputFile", request, "--outputFile", self.work / "o.json"]),
                                   (onnx, ["build", "--onnxDir", onnx, "--engineDir", self.work / "order-out"])]:
            replaced = 0
            for path in directory.iterdir():
                data = path.read_bytes()
                for kind in [np.int32, np.int64]:
                    needle = order.astype(kind).tobytes()
                    broken = needle[:-np.dtype(kind).itemsize] + kind(1 << 30).tobytes()
                    replaced += data.count(needle)
                    data = data.replace(needle, broken)
                path.write_bytes(data)
            self.checks.that(replaced > 0, f"{directory.name} holds the column order")
            result = self.program.run(*command)
            self.checks.that(result.returncode == 2 and result.stderr.startswith("error: "),
                             f"{command[0]} with a column index out of range: exit {result.returncode}: {result.stderr.strip()}")

    # Runs that end early.

    def stages(self, out):
        """Each command that writes a directory: name, arguments, its file that makes the directory whole."""
        return [("quantize", ["--model_dir", self.model, "--output_dir", out, "--quantization", "int4_rtn"], "model.safetensors"),
                ("export", ["--model_dir", self.model, "--output_dir", out], "model.onnx"),
                ("build", ["--onnxDir", self.onnx, "--engineDir", out, "--optLevel", 0], None)]

    def whole(self, command, out):
        """What a killed or failed command left under the name of its output can be used."""
        use = {"quantize": ["export", "--model_dir", out, "--output_dir", self.work / "use"],
               "export": ["build", "--onnxDir", out, "--engineDir", self.work / "use", "--optLevel", 0],
               "build": ["infer", "--engineDir", out, "--inputFile", self.work / "in.json", "--outputFile", self.work / "out.json"]}
        result = self.program.run(*use[command])
        shutil.rmtree(self.work / "use", ignore_errors=True)
        return result.returncode == 0

    def after(self, what, command, args, out):
        """Behind an end too early: no half-written output, and the next run works."""
        if out.exists():
            self.checks.that(self.whole(command, out), f"{what} left a broken {out.name}")
        result = self.program.run(command, *args)
        self.checks.that(result.returncode == 0, f"the run after {what}: {result.stderr.strip()}")
        shutil.rmtree(out, ignore_errors=True)

    def killed(self):
        dice = random.Random(5)
        out = self.work / "killed" / "out"
        for command, args, _ in self.stages(out):
            started = time.monotonic()
            self.program(command, *args)
            usual = time.monotonic() - started
            shutil.rmtree(out)
            for _ in range(3):
                process = subprocess.Popen([str(self.program.path), command, *map(str, args)], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)
                time.sleep(dice.random() * usual)
                process.kill()
                process.wait()
                if out.exists():
                    self.checks.that(self.whole(command, out), f"killed {command} left a broken output")
            self.after(f"killed {command}", command, args, out)
            shutil.rmtree(out.parent)

    def no_space(self):
        out = self.work / "full" / "out"
        for command, args, _ in self.stages(out):
            for size in [1000, 200_000, 3_000_000]:
                result = self.program.run(command, *args, limits=[(resource.RLIMIT_FSIZE, size)])
                self.checks.that(result.returncode == 2 and "error:" in result.stderr,
                                 f"{command} beyond a file size of {size}: exit {result.returncode}: {result.stderr.strip()}")
                self.checks.that(not out.parent.exists() or not list(out.parent.iterdir()),
                                 f"{command} beyond a file size of {size} left files behind")
            self.after(f"{command} without space", command, args, out)
        mount = self.work / "tmpfs"
        mount.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", mount],
                                               capture_output=True).returncode != 0:
            print("skip  a full file system: mounting one needs root")
            return
        try:
            for command, args, _ in self.stages(mount / "out"):
                result = self.program.run(command, *args)
                self.checks.that(result.returncode == 2 and "No space left" in result.stderr and not list(mount.iterdir()),
                                 f"{command} on a full disk: exit {result.returncode}: {result.stderr.strip()}, "
                                 f"left {list(mount.iterdir())}")
        finally:
            subprocess.run(["umount", mount], check=True)

    def interrupted(self):
        folder = self.work / "interrupted"
        folder.mkdir()
        for number in [signal.SIGINT, signal.SIGTERM]:
            process = subprocess.Popen([str(self.program.path), "quantize", "--model_dir", str(MODEL), "--output_dir",
                                        str(folder / "q"), "--quantization", "int4_awq"], stderr=subprocess.PIPE, text=True)
            time.sleep(1.5)
            process.send_signal(number)
            _, said = process.communicate(timeout=120 * SLOWNESS)
            self.checks.that(process.returncode == 130 and "interrupted" in said,
                             f"quantize with signal {number}: exit {process.returncode}: {said.strip()}")
            self.checks.that(not list(folder.iterdir()), "an interrupted quantize leaves nothing")
            process = subprocess.Popen([str(self.program.path), "tokenize", str(MODEL)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            process.stdin.write("half a sent")
            process.stdin.flush()
            while unread(process.stdin) > 0 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            ids, said = process.communicate(timeout=120 * SLOWNESS)
            self.checks.that(process.returncode == 130 and ids == "", f"half a text with signal {number}: exit "
                                                                      f"{process.returncode}: {ids}{said.strip()}")


if __name__ == "__main__":
    sys.exit(run_parts(FaultTest))
