"""The server as its clients meet it: the official openai package, raw sockets, clients that go away, bad requests.

Usage: server_test.py build/edgewise. Prints "N passed, N failed".
"""
import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import socket
import sys
import threading
import time
import urllib.request

import numpy as np
import openai

from cli_support import MODEL, SLOWNESS, Checks, run_parts
from server_support import KEY, Server

LORA = {name: MODEL.parent / f"{MODEL.name}-lora-{name}" for name in ["upper", "shakespeare"]}
QUESTION = [{"role": "user", "content": "Tell me about Paris"}]


class ServerTest:
    def __init__(self, program, work):
        self.checks = Checks()
        self.program = program
        program("export", "--model_dir", MODEL, "--output_dir", work / "onnx")
        program("build", "--onnxDir", work / "onnx", "--engineDir", work / "engine", "--maxBatchSize", 4, "--maxInputLen", 512,
                "--maxKVCacheCapacity", 1024, "--kvCachePolicy", "paged", "--optLevel", 0)
        self.engine = work / "engine"
        self.server = Server(program, self.engine, "--max_waiting", 8, "--max_body_mb", 1, "--lora", f"upper={LORA['upper']}",
                             "--lora", f"shakespeare={LORA['shakespeare']}", "--lora_updates")
        self.client = self.server.client

    def chat(self, **fields):
        return self.client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 24, **fields})

    def rejected(self, what, status, mentions, **fields):
        try:
            self.chat(**fields)
            self.checks.that(False, f"{what}: was answered")
        except openai.APIStatusError as error:
            self.checks.that(error.status_code == status and all(m in str(error) for m in mentions),
                             f"{what}: {error.status_code} {error}, expected {status} and {mentions}")

    def chat_answers(self):
        answer = self.chat()
        choice = answer.choices[0]
        self.checks.that(len(choice.message.content) > 10 and choice.message.role == "assistant", f"an answer: {choice}")
        self.checks.that(choice.finish_reason in ("stop", "length"), f"finish_reason {choice.finish_reason}")
        usage = answer.usage
        self.checks.that(usage.completion_tokens <= 24 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"{usage}")
        pieces = list(self.chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        self.checks.that(text == choice.message.content, f"streamed {text!r}, whole {choice.message.content!r}")
        self.checks.that(pieces[0].choices[0].delta.role == "assistant" and pieces[-1].usage == usage, "role first, usage last")
        self.checks.that(pieces[-2].choices[0].finish_reason == choice.finish_reason, "finish_reason in the last chunk")
        stopped = self.chat(stop=[choice.message.content[8:12]])
        self.checks.that(stopped.choices[0].message.content == choice.message.content[:8] and
                         stopped.choices[0].finish_reason == "stop", f"stop: {stopped.choices[0]}")
        parts = self.chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "about Paris"}]}])
        self.checks.that(parts.choices[0].message.content == choice.message.content, "content in parts")

    def sampling(self):
        wild = {"n": 3, "temperature": 2, "top_p": 1, "seed": 5, "extra_body": {"top_k": 0}}
        several = self.chat(**wild).choices
        again = self.chat(**wild).choices
        self.checks.that([c.index for c in several] == [0, 1, 2] and len({c.message.content for c in several}) > 1, "n differ")
        self.checks.that([c.message.content for c in several] == [c.message.content for c in again], "a seed repeats them")
        biased = self.chat(logit_bias={"300": 100}, max_tokens=3, logprobs=True, top_logprobs=2)
        content = biased.choices[0].logprobs.content
        self.checks.that(len(content) == 3 and len({t.token for t in content}) == 1 and len(content[0].top_logprobs) == 2, f"{content}")
        self.checks.that(bytes(content[0].bytes).decode() == content[0].token, "bytes of a token")
        streamed = [p for p in self.chat(logprobs=True, stream=True) if p.choices[0].logprobs]
        whole = self.chat(logprobs=True).choices[0].logprobs.content
        tokens = [t.token for p in streamed for t in p.choices[0].logprobs.content]
        self.checks.that(tokens == [t.token for t in whole], f"streamed logprobs: {tokens}")

    def completions(self):
        answer = self.client.completions.create(model="tiny", prompt=["Once upon a time", "The river"], max_tokens=6, temperature=0, echo=True)
        self.checks.that([c.text[:9] for c in answer.choices] == ["Once upon", "The river"], f"echo: {answer.choices}")
        ids = self.server.post("/tokenize", {"prompt": "Once upon a time"})[1]["tokens"]
        by_ids = self.client.completions.create(model="tiny", prompt=ids, max_tokens=6, temperature=0)
        self.checks.that("Once upon a time" + by_ids.choices[0].text == answer.choices[0].text, "a prompt of ids")
        text = "".join(p.choices[0].text for p in self.client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=6,
                                                                               temperature=0, stream=True))
        self.checks.that(text == by_ids.choices[0].text, "streamed")
        back = self.server.post("/detokenize", {"tokens": ids})[1]["prompt"]
        self.checks.that(back == "Once upon a time", f"detokenize: {back!r}")
        self.checks.that([m.id for m in self.client.models.list()] == ["tiny", "shakespeare", "upper"], "models")

    def embeddings(self):
        texts = ["A river flows to the sea.", "A stream runs into the ocean.", "2+2 equals 4"]
        both = self.client.embeddings.create(model="tiny", input=texts, encoding_format="float")
        vectors = [np.array(d.embedding) for d in both.data]
        self.checks.that([v.shape for v in vectors] == [(384,)] * 3 and [d.index for d in both.data] == [0, 1, 2], f"{both.usage}")
        self.checks.that(all(abs(np.linalg.norm(v) - 1) < 1e-5 for v in vectors), "they have length 1")
        self.checks.that(vectors[0] @ vectors[1] > vectors[0] @ vectors[2], "nearer in meaning, nearer in direction")
        packed = self.client.embeddings.create(model="tiny", input=texts[1])  # the client asks for base64
        self.checks.that(np.allclose(packed.data[0].embedding, vectors[1], atol=1e-6), "base64, and alone")
        ids = self.server.post("/tokenize", {"prompt": texts[2]})[1]["tokens"]
        of_ids = self.server.post("/v1/embeddings", {"input": [ids, ids]})[1]
        self.checks.that(np.allclose(of_ids["data"][1]["embedding"], vectors[2], atol=1e-6) and of_ids["usage"]["prompt_tokens"] == 2 * len(ids), "ids")
        for what, body, mentions in [("dimensions", {"input": "x", "dimensions": 5}, "dimensions"), ("format", {"input": "x", "encoding_format": "int"}, "encoding_format"),
                                     ("nothing", {"input": []}, "input"), ("an object", {"input": {}}, "input"), ("empty text", {"input": ""}, "empty")]:
            status, reply = self.server.post("/v1/embeddings", body)
            self.checks.that(status == 400 and mentions in reply["error"]["message"], f"{what}: {status} {reply}")

    def refusals(self):
        self.rejected("unknown field", 400, ["wings"], extra_body={"wings": 2})
        self.rejected("no messages", 400, ["messages"], messages=[])
        self.rejected("bad temperature", 400, ["temperature"], temperature=-1)
        self.rejected("bad top_p", 400, ["top_p"], top_p=7)
        self.rejected("temperature of another type", 400, ["temperature"], extra_body={"temperature": "hot"})
        self.rejected("n too large", 400, ["n:"], n=1000)
        self.rejected("image", 400, ["image_url"], messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
        self.rejected("response_format", 400, ["response_format"], response_format={"type": "xml"})
        self.rejected("prompt too long", 400, ["maxInputLen"], messages=[{"role": "user", "content": "word " * 3000}])
        self.rejected("unknown model", 404, ["gpt-9"], model="gpt-9")
        self.rejected("token outside the vocabulary", 400, ["logit_bias"], logit_bias={"99999999": 1})
        post = self.server.post
        for what, status, got in [
                ("wrong key", 401, post("/v1/chat/completions", {}, key="wrong")), ("no key", 401, post("/v1/models", None, key="")),
                ("no JSON", 400, post("/v1/chat/completions", b"{")), ("an array", 400, post("/v1/chat/completions", b"[]")),
                ("invalid UTF-8", 400, post("/v1/chat/completions", b'{"model": "\xff"}')),
                ("deep nesting", 400, post("/v1/chat/completions", b"[" * 100000)),
                ("GET", 405, post("/v1/chat/completions", None, method="GET")), ("no route", 404, post("/v1/wings", {})),
                ("ids beyond", 400, post("/v1/completions", {"prompt": [99999999]})),
                ("floats as ids", 400, post("/v1/completions", {"prompt": [1.5]})),
                ("detokenize text", 400, post("/detokenize", {"tokens": "x"}))]:
            self.checks.that(got[0] == status, f"{what}: {got}, expected {status}")
        page = urllib.request.urlopen(self.server.url + "/", timeout=10 * SLOWNESS)
        self.checks.that(b"<title>Edgewise</title>" in page.read() and "frame-ancestors" in page.headers["Content-Security-Policy"],
                         "the chat page needs no key")
        health = urllib.request.urlopen(self.server.url + "/health", timeout=10 * SLOWNESS)
        self.checks.that(health.status == 200, "health needs no key")
        self.chat()  # and it still answers

    def raw_socket(self, data, wait=2.0):
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.settimeout(wait)
            with contextlib.suppress(OSError):
                connection.sendall(data)
                return connection.recv(4096)
        return b""

    def malformed_http(self):
        for data in [b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                     b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{}", b"BREW / HTTP/1.1\r\n\r\n",
                     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"]:
            self.raw_socket(data, 0.5)
            self.checks.that(self.server.post("/v1/models", None, method="GET")[0] == 200, f"alive after {data[:40]!r}")
        reply = self.raw_socket(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b" " * 3000000)
        self.checks.that(not reply.startswith(b"HTTP/1.1 200"), f"a body too large: {reply[:40]}")

    def clients_that_leave(self):
        body = {"messages": QUESTION, "max_tokens": 900, "ignore_eos": True, "temperature": 0}
        for stream in [False, True]:
            before = self.server.metric("requests_cancelled_total")
            data = json.dumps({**body, "stream": stream}).encode()
            with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode() +
                                   b"\r\nContent-Length: " + str(len(data)).encode() + b"\r\n\r\n" + data)
                self.checks.that(self.server.wait_for("requests_running", 1), "the answer is under way")
            self.checks.that(self.server.wait_for("requests_cancelled_total", before + 1), f"stream={stream}: a client that left frees its slot")
        stream = self.chat(max_tokens=900, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.checks.that(self.server.wait_for("requests_running", 0), "a stream that was closed")
        self.checks.that(self.server.metric("cache_pages") == self.server.metric("cache_pages_available"), "no page is lost")

    def many_at_once(self):
        questions = [f"Tell me about number {i}" for i in range(8)]  # as many as may wait

        def ask(question):
            return self.chat(messages=[{"role": "user", "content": question}]).choices[0].message.content
        alone = [ask(q) for q in questions]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, questions))
        self.checks.that(together == alone, "answers do not depend on company")

        def flood(_):
            try:
                self.chat(max_tokens=200, extra_body={"ignore_eos": True})
                return 200
            except openai.APIStatusError as error:
                return error.status_code
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            codes = list(pool.map(flood, range(40)))
        self.checks.that(set(codes) == {200, 429}, f"a full queue answers 429 at once: {sorted(set(codes))}")

    def prefix_cache(self):
        system = {"role": "system", "content": "You answer like a captain of an old ship. " * 12}
        first = self.chat(messages=[system, *QUESTION])
        second = self.chat(messages=[system, {"role": "user", "content": "Who are you?"}])
        details = [first.usage.prompt_tokens_details.cached_tokens, second.usage.prompt_tokens_details.cached_tokens]
        self.checks.that(details[1] >= 64, f"the system prompt comes from the cache: {details}")

    def adapters(self):
        """Two adapters and the base side by side, each as it answers alone."""
        def ask(model):
            answer = self.chat(model=model)
            self.checks.that(answer.model == model, f"the reply names {answer.model}")
            return answer.choices[0].message.content
        models = ["tiny", "upper", "shakespeare"]
        alone = {model: ask(model) for model in models}
        self.checks.that(len(set(alone.values())) == 3 and alone["upper"] == alone["upper"].upper(), f"adapters change the answer: {alone}")
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            together = list(pool.map(ask, models * 2))
        self.checks.that(together == [alone[model] for model in models * 2], f"mixed in a batch: {together}")
        streamed = "".join(p.choices[0].delta.content or "" for p in self.chat(model="upper", stream=True))
        self.checks.that(streamed == alone["upper"], f"streamed: {streamed!r}")
        text = self.client.completions.create(model="shakespeare", prompt="Once upon a time", max_tokens=6, temperature=0)
        self.checks.that(text.model == "shakespeare" and text.choices[0].text != "", f"{text}")

        post = self.server.post
        loaded = post("/v1/load_lora_adapter", {"lora_name": "loud", "lora_path": str(LORA["upper"])})
        self.checks.that(loaded == (200, {"modules": 32}) and ask("loud") == alone["upper"], f"loaded while it runs: {loaded}")
        stream = self.chat(model="loud", stream=True, max_tokens=900, extra_body={"ignore_eos": True})
        next(iter(stream))
        unload = {"lora_name": "loud"}
        busy = post("/v1/unload_lora_adapter", unload)
        self.checks.that(busy[0] == 429 and "uses it" in busy[1]["error"]["message"], f"unloaded while it is used: {busy}")
        stream.close()
        self.server.wait_for("requests_running", 0)
        self.checks.that(post("/v1/unload_lora_adapter", unload) == (200, {}) and ask("tiny") == alone["tiny"], "unloaded when idle")
        self.rejected("an adapter that left", 404, ["loud"], model="loud")
        for what, path, body, mentions in [
                ("a name in use", "load", {"lora_name": "upper", "lora_path": str(LORA["upper"])}, "already"),
                ("the model's name", "load", {"lora_name": "tiny", "lora_path": str(LORA["upper"])}, "itself"),
                ("no such directory", "load", {"lora_name": "x", "lora_path": "/nowhere"}, "/nowhere"),
                ("no path", "load", {"lora_name": "x"}, "lora_path"), ("a name unknown", "unload", unload, "loud"), ("no name", "unload", {}, "lora_name")]:
            got = post(f"/v1/{path}_lora_adapter", body)
            self.checks.that(got[0] in (400, 500) and mentions in got[1]["error"]["message"], f"{what}: {got}")

    def idle_adapters(self):
        """They leave memory, and come back for the next request; one whose files changed spoils that request only."""
        changing = pathlib.Path(self.engine.parent, "changing")
        shutil.copytree(LORA["upper"], changing)
        with contextlib.closing(Server(self.program, self.engine, "--lora", f"upper={changing}", "--lora", f"shakespeare={LORA['shakespeare']}",
                                       "--lora_idle_seconds", 3 * SLOWNESS, "--max_loras", 5)) as server:
            def ask(model):
                answer = server.client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=24)
                return answer.choices[0].message.content
            models = ["tiny", "upper", "shakespeare"]
            first = [ask(model) for model in models]
            self.checks.that(server.metric("adapters") == 2 and server.metric("adapter_loads_total") == 2, "both are there")
            self.checks.that(server.wait_for("adapters_loaded", 0), "both leave memory")
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                again = list(pool.map(ask, models * 2))
            self.checks.that(again == first * 2 and server.metric("adapter_loads_total") == 4, f"both come back, once each: {again}")
            server.wait_for("adapters_loaded", 0)
            (changing / "adapter_model.safetensors").write_bytes((LORA["upper"] / "adapter_model.safetensors").read_bytes()[:-1] + b"?")
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                others = [pool.submit(ask, model) for model in ["tiny", "shakespeare"]]
                try:
                    self.checks.that(False, f"an adapter that changed answers {ask('upper')}")
                except openai.InternalServerError as error:
                    self.checks.that("no longer the adapter" in str(error), f"{error}")
            self.checks.that([other.result() for other in others] == [first[0], first[2]], "the others are answered")

    def terminates(self):
        """SIGTERM lets answers under way end; new requests find nobody."""
        result = {}

        def ask():
            result["answer"] = self.chat(max_tokens=300, extra_body={"ignore_eos": True})
        thread = threading.Thread(target=ask)
        thread.start()
        self.server.wait_for("requests_running", 1)
        code = self.server.stop()
        thread.join()
        self.checks.that(code == 0 and result["answer"].usage.completion_tokens == 300, f"exit {code}, {result}, {''.join(self.server.log)}")
        self.checks.that("stopped" in "".join(self.server.log), f"says so: {self.server.log}")

    def starting(self):
        blocker = socket.socket()
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        port = blocker.getsockname()[1]
        result = self.program.run("serve", self.engine, "--port", port)
        self.checks.that(result.returncode == 2 and str(port) in result.stderr, f"a taken port: {result.stderr}")
        self.checks.that(self.program.run("serve", self.engine, "--port", 70000).returncode == 2, "an impossible port")
        for lora, mentions in [(f"{LORA['upper']}", "NAME=DIRECTORY"), ("x=/nowhere", "/nowhere"), (f"engine={LORA['upper']}", "engine")]:
            result = self.program.run("serve", self.engine, "--port", 0, "--lora", lora)
            self.checks.that(result.returncode == 2 and mentions in result.stderr, f"--lora {lora}: {result.stderr}")

    def parts(self):
        return [self.chat_answers, self.sampling, self.completions, self.embeddings, self.refusals, self.malformed_http, self.clients_that_leave,
                self.many_at_once, self.prefix_cache, self.adapters, self.idle_adapters, self.starting, self.terminates]

    def close(self):
        self.server.close()


if __name__ == "__main__":
    sys.exit(run_parts(ServerTest))
