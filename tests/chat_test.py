"""The conversation at the terminal, through a pseudo-terminal: commands, editing, Ctrl-C, and sessions kept in files.

Prints "N passed, N failed". Usage: chat_test.py build/edgewise
"""
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

from cli_support import MODEL, SLOWNESS, Checks, program_from_arguments
from cut_model import cut_model

CTRL_C, CTRL_D, CTRL_S, ENTER, UP, LEFT, BACKSPACE = "\x03", "\x04", "\x13", "\r", "\x1b[A", "\x1b[D", "\x7f"
PATIENCE = 120 * SLOWNESS


class Terminal:
    """A program on a pseudo-terminal of 100 columns."""

    def __init__(self, command, environment=None, limits=()):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for which, value in limits:
                resource.setrlimit(which, (value, value))

        environment = {**os.environ, "TERM": "xterm", **(environment or {})}
        self.process = subprocess.Popen([str(c) for c in command], stdin=slave, stdout=slave, stderr=slave, env=environment,
                                        preexec_fn=own_terminal)
        os.close(slave)
        self.said = ""

    def send(self, keys):
        os.write(self.master, keys.encode())

    def read(self, seconds):
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            data = b""
        self.said += data.decode(errors="replace")
        return data != b""

    def wait_for(self, text, begin):
        """Reads until `text` shows up behind `begin`; its end."""
        self.read_until(lambda: text in self.said[begin:], f"{text!r} behind character {begin}")
        return self.said.index(text, begin) + len(text)

    def wait_for_length(self, length):
        self.read_until(lambda: len(self.said) >= length, f"{length} characters")

    def read_until(self, reached, what):
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {what} in {self.said[-500:]!r}")
            if not self.read(1) and self.process.poll() is not None:
                raise RuntimeError(f"ended without {what}: {self.said[-500:]!r}")

    def ready(self, begin=0):
        """Waits for a prompt behind `begin`. Bracketed paste is switched on just before it."""
        return self.wait_for("> ", self.wait_for("\x1b[?2004h", begin))

    def line(self, text):
        """Enters a line and returns what was said before the next prompt."""
        begin = len(self.said)
        self.send(text + ENTER)
        off = self.wait_for("\x1b[?2004l", begin)
        end = self.ready(off)
        return plain(self.said[off:end - 2])

    def end(self):
        """Reads to the end; the exit code."""
        while self.read(PATIENCE):
            pass
        code = self.process.wait(PATIENCE)
        os.close(self.master)
        return code

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def plain(text):
    """Without the terminal's control sequences."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).replace("\r", "").strip("\n")


def saved(path):
    """The document of a session file."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<8sQQQQ", data[:40])[3]
    return json.loads(data[40:40 + size])


def contents(path):
    return [message["content"] for message in saved(path)["messages"]]


class ChatTest:
    def __init__(self, program, work):
        self.program = program
        self.work = work
        self.checks = Checks()
        self.model = cut_model(work / "model")
        self.engine = work / "engine"
        program("export", "--model_dir", self.model, "--output_dir", work / "onnx")
        program("build", "--onnxDir", work / "onnx", "--engineDir", self.engine, "--optLevel", 0)

    @contextlib.contextmanager
    def chat(self, *flags, model=None, temperature=0, max_tokens=40, **options):
        terminal = Terminal([self.program.path, "run", model or self.engine, "--temperature", temperature,
                             "--max_tokens", max_tokens, "--threads", 1, *flags], **options)
        try:
            terminal.ready()
            yield terminal
        finally:
            terminal.kill()

    def answers(self, *questions, system=None):
        """What the model says in a conversation, each turn computed for itself."""
        messages = [{"role": "system", "content": system}] if system else []
        for question in questions:
            messages.append({"role": "user", "content": question})
            document = {"max_generate_length": 40, "temperature": 0, "requests": [{"messages": messages}]}
            messages.append({"role": "assistant", "content": self.program.infer(self.engine, document, self.work)[0]["output_text"]})
        return [m["content"].strip("\n") for m in messages if m["role"] == "assistant"]

    def conversation(self):
        expected = self.answers("Tell me about Paris", "And the sea?")
        with self.chat() as t:
            self.checks.that("/help" in plain(t.said), "a banner names /help")
            found = [t.line("Tell me about Paris"), t.line("And the sea?")]
            self.checks.that(found == expected, f"two turns: {found}, expected {expected}")
            stats = t.line("/stats")
            self.checks.that("4 messages" in stats and "tokens/s" in stats, f"/stats: {stats}")
            self.checks.that(t.line("/retry") == expected[1], "/retry answers the last question again")
            self.checks.that("2 messages" in (t.line("/undo"), t.line("/stats"))[1], "/undo takes back a question and its answer")
            self.checks.that(t.line("And the sea?") == expected[1], "/undo takes back nothing else")
            t.line("/clear")
            self.checks.that("0 messages, 0 of" in t.line("/stats"), "/clear forgets")
            self.checks.that(t.line("Tell me about Paris") == expected[0], "after /clear the first answer comes again")
            t.line("/clear")
            t.line("/system You are a pirate.")
            pirate = self.answers("Tell me about Paris", system="You are a pirate.")[0]
            self.checks.that(t.line("Tell me about Paris") == pirate, "/system")
            t.line("/clear")
            self.checks.that("1 messages" in t.line("/stats"), "/clear keeps the system prompt")
            t.line("/system")
            self.checks.that(t.line("") == "", "an empty line says nothing")
            t.send("/exit" + ENTER)
            self.checks.that(t.end() == 0, "/exit")

    def commands(self):
        with self.chat() as t:
            said = t.line("/help")
            names = ["/help", "/clear", "/system", "/set", "/retry", "/undo", "/stats", "/save", "/load", "/exit"]
            self.checks.that(all(name in said for name in names), f"/help lists all: {said}")
            for line, mentions in [("/frobnicate", "/frobnicate"), ("/set speed 3", "speed"), ("/set temperature", "missing"),
                                   ("/set temperature hot", "temperature"), ("/set temperature -1", "temperature"),
                                   ("/set top_k 1.5", "top_k"), ("/set max_tokens 0", "max_tokens"), ("/retry", "nothing"),
                                   ("/undo", "nothing"), ("/save", "--session"), ("/load", "--session"),
                                   (f"/load {self.work / 'absent'}", "absent"), (f"/save {self.work / 'no' / 'folder'}", "folder"),
                                   (f"/load {self.engine / 'config.json'}", "not a session"), ("word " * 3000, "tokens")]:
                said = t.line(line)
                self.checks.that("error:" in said and mentions in said, f"{line[:40]}: {said}")
            self.checks.that("0 messages" in t.line("/stats"), "what failed left nothing in the conversation")
            t.line("/set max_tokens 3")
            t.line("/set temperature 0.7")
            said = t.line("/set")
            self.checks.that(re.search(r"max_tokens +3\n", said) and re.search(r"temperature +0.7\n", said), f"/set: {said}")
            t.line("Hello")
            self.checks.that("; 3 tokens" in t.line("/stats"), "/set max_tokens 3 shortens answers")
            t.send(CTRL_D)
            self.checks.that(t.end() == 0, "Ctrl-D leaves")

    def editing(self):
        """What reaches the model, as the session file shows it; in a locale that knows no UTF-8."""
        file = self.work / "editing"
        with self.chat("--session", file, environment={"LANG": "C", "LC_ALL": "C"}) as t:
            t.line("Grüße, 世界 🙂!")
            t.line("abx" + BACKSPACE + "ßdf" + LEFT + "e")
            t.line("日本x" + LEFT + LEFT + BACKSPACE + "ö")
            t.line(UP)
            t.line("\x1b[200~line one\r\tline two\n\nlast — line\r\x1b[201~ and more")
            self.checks.that(t.process.poll() is None, "a paste is one question")
            t.send("never sent" + CTRL_C)
            t.line("sent")
            t.send(CTRL_C)
            self.checks.that(t.end() == 0, "Ctrl-C on an empty line leaves")
        expected = ["Grüße, 世界 🙂!", "abßdef", "ö本x", "ö本x", "line one\n\tline two\n\nlast — line and more", "sent"]
        self.checks.that(contents(file)[::2] == expected, f"edited lines: {contents(file)[::2]}, expected {expected}")

    def interrupt(self):
        """Ctrl-C in the middle of answers; the uncut model gives time for it, and its answers have no early end."""
        engine = self.work / "slow"
        self.program("export", "--model_dir", MODEL, "--output_dir", self.work / "slow-onnx")
        self.program("build", "--onnxDir", self.work / "slow-onnx", "--engineDir", engine, "--optLevel", 0)
        with self.chat("--regex", "[a-z ]{5000,}", model=engine, max_tokens=2000, temperature=8) as t:
            for attempt in range(4):
                t.line("/clear")
                begin = len(t.said)
                t.send("Tell me a story" + ENTER)
                off = t.wait_for("\x1b[?2004l", begin)
                t.wait_for_length(off + 20 * (attempt + 1))
                if attempt == 3:  # the answer stands in the middle of a write
                    t.send(CTRL_S)
                    while t.read(1):
                        pass
                t.send(CTRL_C)
                t.ready(off)
                stats = t.line("/stats")
                self.checks.that("cancelled" in stats and "2 messages" in stats, f"Ctrl-C stops an answer: {stats}")
            t.line("/set max_tokens 5")
            t.line("/clear")
            self.checks.that(t.line("Hello") != "", "the next answer comes")
            self.checks.that("; 5 tokens" in t.line("/stats"), "and it is whole")
            t.send(CTRL_C)
            self.checks.that(t.end() == 0, "Ctrl-C on an empty line leaves")

    def sessions(self):
        """A conversation over several processes gives the answers of one."""
        questions = ["Tell me about the long river that runs through the old town, and about its people, its bridges and its boats, "
                     "and about the sea where it ends after so many days.", "And the sea?", "And the sun?"]
        expected = self.answers(*questions)
        file = self.work / "river session"
        for i, question in enumerate(questions[:2]):
            with self.chat("--session", file) as t:
                self.checks.that(i == 0 or f"{2 * i} messages" in plain(t.said), "the banner counts messages")
                said = t.line(question)
                self.checks.that(said == expected[i], f"turn {i}: {said!r}, expected {expected[i]!r}")
                stats = t.line("/stats")
                cached = re.search(r"(\d+) of them cached", stats)
                self.checks.that(i == 0 or cached and int(cached[1]) >= 64, f"the cache comes from the file: {stats}")
                t.send(CTRL_D)
                self.checks.that(t.end() == 0, "Ctrl-D saves")
        copy = self.work / "copy"
        shutil.copy(file, copy)
        single = ["run", self.engine, "--quiet", "--temperature", 0, "--max_tokens", 40, "--session", copy]
        self.checks.that(self.program(*single, questions[2]).strip("\n") == expected[2], "a single prompt goes on in a session")
        self.checks.that(len(contents(copy)) == 6, "and is added to it")
        with self.chat() as t:
            t.line(f"/load {copy}")
            t.line("/undo")
            self.checks.that(t.line(questions[2]) == expected[2], "/load")
            t.line(f"/save {self.work / 'again'}")
            self.checks.that(contents(self.work / "again") == contents(copy), "/save FILE")
            t.process.send_signal(signal.SIGTERM)
            self.checks.that(t.end() == 130, "SIGTERM at the prompt ends the program")
        with self.chat("--session", file) as t:
            t.line(questions[2])
            t.process.send_signal(signal.SIGTERM)
            t.end()
        self.checks.that(len(contents(file)) == 6, "SIGTERM saves")
        result = self.program.run("run", self.model, "Hi", "--session", file, "--optLevel", 0, "--cache_dir", self.work / "cache",
                                  "--maxKVCacheCapacity", 2049)
        self.checks.that(result.returncode == 2 and "saved with" in result.stderr, f"another engine's session: {result.stderr}")
        result = self.program.run(*single, "Hi", "--raw")
        self.checks.that(result.returncode == 2 and "--raw" in result.stderr, f"--session with --raw: {result.stderr}")
        file.write_bytes(file.read_bytes()[:-1])
        before = file.read_bytes()
        result = self.program.run("run", self.engine, "Hi", "--session", file)
        self.checks.that(result.returncode == 2 and "truncated" in result.stderr and file.read_bytes() == before,
                         f"a torn session is refused and stays as it is: {result.stderr}")

    def no_space(self):
        file = self.work / "full" / "session"
        file.parent.mkdir()
        with self.chat("--session", file, limits=[(resource.RLIMIT_FSIZE, 100)]) as t:
            t.line("Hello")
            self.checks.that("error:" in t.line("/save"), "/save beyond a file size")
            self.checks.that("2 messages" in t.line("/stats"), "the conversation goes on")
            t.send(CTRL_D)
            self.checks.that(t.end() == 2 and "error:" in t.said, "an end that can't save says so")
        self.checks.that(not list(file.parent.iterdir()), "and leaves nothing half-written")

    def all(self):
        for part in [self.conversation, self.commands, self.editing, self.interrupt, self.sessions, self.no_space]:
            with self.checks.part(part.__name__):
                part()
        return self.checks.finish()


def main():
    with tempfile.TemporaryDirectory() as folder:
        return ChatTest(program_from_arguments(), pathlib.Path(folder)).all()


if __name__ == "__main__":
    sys.exit(main())
