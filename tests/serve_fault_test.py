"""A server whose device fails: answers end with the error, and the process goes on with a new engine.

Usage: serve_fault_test.py build/tests/frail_edgewise. EDGEWISE_FRAIL_DEVICE=frail-cuda lets a GPU fail. Prints "N passed, N failed".
"""
import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time

from cli_support import MODEL, Checks, run_parts
from server_support import TIMEOUT, Server

DEVICE = os.environ.get("EDGEWISE_FRAIL_DEVICE", "frail-cpu")
ERROR = {"frail-cpu": "the device burnt down", "frail-cuda": "cudaErrorIllegalAddress"}[DEVICE]
LIVES = 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gpu_megabytes():
    """What all processes use of the GPU."""
    if DEVICE != "frail-cuda":
        return 0
    return int(subprocess.check_output(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], text=True).split()[0])


class FrailServer(Server):
    def __init__(self, program, engine):
        super().__init__(program, engine, port=free_port())  # which a new start keeps

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def starts(self):
        return 1 + sum(line.startswith("serving ") for line in self.log)

    def wait_for_start(self, number):
        end = time.time() + TIMEOUT
        while self.starts() < number:
            if self.process.poll() is not None or time.time() > end:
                raise RuntimeError(f"start {number} of the server: {''.join(self.log)}")
            time.sleep(0.01)

    def ask(self, tokens=20):
        """Status and body."""
        return self.post("/v1/completions", {"model": "tiny", "prompt": "The sea is", "max_tokens": tokens, "temperature": 0})

    def burn(self):
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)  # until it has come


class ServeFaultTest:
    def __init__(self, program, work):
        self.checks = Checks()
        self.program = program
        self.engine = work / "engine"
        program("export", "--model_dir", MODEL, "--output_dir", work / "onnx")
        # Not by program(), which leaves too few addresses for a GPU.
        subprocess.run([program.path, "build", "--onnxDir", work / "onnx", "--engineDir", self.engine, "--device", DEVICE, "--maxInputLen", "100",
                        "--maxKVCacheCapacity", "256", "--optLevel", "0"], check=True, capture_output=True)

    def close(self):
        pass

    def parts(self):
        return [self.goes_on, self.gives_up, self.ends_when_told]

    def goes_on(self):
        with FrailServer(self.program, self.engine) as server:
            status, first = server.ask()
            self.checks.that(status == 200 and len(first["choices"][0]["text"]) > 20, f"the first answer is {first}")
            memory = gpu_megabytes()
            for life in range(2, LIVES + 1):
                server.burn()
                status, reply = server.ask()
                self.checks.that(status == 500 and ERROR in reply["error"]["message"], f"the device failed, and the answer is {status} {reply}")
                server.wait_for_start(life)
                status, again = server.ask()
                self.checks.that(status == 200 and again["choices"] == first["choices"], f"life {life} answers {again}, the first one {first}")
            more = gpu_megabytes() - memory
            self.checks.that(more < 50, f"{LIVES - 1} engines left {more} MB on the GPU")
            self.checks.that(server.process.poll() is None, "the process has ended")
            self.checks.that(server.stop() == 0, "exit code 0")
            self.checks.that(sum("starting anew" in line for line in server.log) == LIVES - 1, f"it says so: {server.log}")

    def gives_up(self):
        with FrailServer(self.program, self.engine) as server:
            server.burn()
            status, reply = server.ask()
            self.checks.that(status == 500 and ERROR in reply["error"]["message"], f"the answer is {status} {reply}")
            self.checks.that(server.end() == 2, "an engine that never answered is not loaded anew: exit code 2")
            self.checks.that(server.log[-1].startswith("error: ") and ERROR in server.log[-1], f"the last line is {server.log[-1]}")

    def ends_when_told(self):
        with FrailServer(self.program, self.engine) as server:
            server.ask()
            with concurrent.futures.ThreadPoolExecutor(40) as clients:
                asked = [clients.submit(server.ask, 150) for _ in range(40)]
                concurrent.futures.wait(asked, return_when=concurrent.futures.FIRST_COMPLETED)
                server.process.terminate()
                server.burn()
                failed = sum(each.result()[0] == 500 for each in asked)
            self.checks.that(failed > 0, f"the device failed under {failed} of 40 answers")
            self.checks.that(server.end() == 2 and server.starts() == 1, f"a server that was told to end ends: {server.log}")


if __name__ == "__main__":
    sys.exit(run_parts(ServeFaultTest))
