#!/usr/bin/env python3
"""The server under load: clients that use all of the API at random, leave early, and send what is malformed.

    tools/load_test.py --engine out/engine [--no_eagle] [--clients 64] [--seconds 120]
    tools/load_test.py --engine out/engine --program build-tsan/edgewise --storm_only --questions 3 --clients 8 --seconds 60 --patience 600

The engine is one of models/edge-tiny-16m, with a draft head where --eagle is given, built with --maxBatchSize 16 --kvCachePolicy
paged --maxInputLen 1600 --maxKVCacheCapacity 2048. Prints what was done, throughput of 16 clients against one, and how long tokens
wait while a 1,500-token prompt is computed. Exit code 1 when an answer differs from the one given alone, or a page, a thread, an
adapter or memory is lost, or a client waits longer than --patience. Standard library only.
"""
import argparse
import asyncio
import collections
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADAPTERS = ["upper", "shakespeare"]
MODELS = ["tiny", *ADAPTERS]
QUESTIONS = [f"Tell me about {thing}" for thing in ["Paris", "rain", "a river", "the moon", "bread", "a cat", "the sea", "snow", "a school",
                                                   "Norway", "trees", "a bridge", "music", "the sun", "a horse", "tea"]]
GARBAGE = [b"\0\1\2\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\n\r\n{{{{{",
           b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 900\r\n\r\n{"]
CITY = {"type": "json_schema", "json_schema": {"name": "city", "schema": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "population": {"type": "integer", "minimum": 1000, "maximum": 99999}},
    "required": ["city", "population"], "additionalProperties": False}}}
ANIMALS = {"type": "regex", "regex": "[1-9][0-9]{2} (cats|dogs)( and [a-z]{3,9}){2}"}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["Oslo", "Rome"]}}, "required": ["a", "b"]}}}
    for name in ["add", "get_weather"]]
REFUSED = [{"model": "pirate"}, {"response_format": {"type": "regex", "regex": "["}}, {"tool_choice": "required"}, {"temperature": -1}, {"n": 0},
           {"messages": [{"role": "user", "content": "river " * 3000}]}, {"logprobs": "many"}, {"wings": 2}]


class Client:
    """Every call raises TimeoutError after `patience` seconds."""

    def __init__(self, port, patience):
        self.port, self.patience = port, patience

    async def stream(self, body, leave_after=None):
        """Status, text and times of the pieces of a streamed answer; closes the connection after `leave_after` pieces."""
        return await asyncio.wait_for(self._stream(body, leave_after), self.patience)

    async def post(self, path, body, leave_after=None):
        """Status and document of an answer; closes the connection after `leave_after` seconds."""
        return await asyncio.wait_for(self._post(path, body, leave_after), self.patience)

    async def _stream(self, body, leave_after):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            data = json.dumps({**body, "stream": True}).encode()
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            status = int((await reader.readline()).split()[1])
            text, times = "", []
            while line := await reader.readline():
                if not line.startswith(b"data: {"):
                    continue
                choices = json.loads(line[6:]).get("choices")
                piece = choices and choices[0]["delta"].get("content")
                if piece:
                    text += piece
                    times.append(time.monotonic())
                    if leave_after is not None and len(times) > leave_after:
                        break
            return status, text, times
        finally:
            writer.close()

    async def _post(self, path, body, leave_after):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            data = json.dumps(body).encode()
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            if leave_after is not None:
                return await asyncio.sleep(leave_after)
            head, _, text = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split()[1]), json.loads(text)
        finally:
            writer.close()

    async def garbage(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(random.choice(GARBAGE))
        try:
            await asyncio.wait_for(reader.read(100), 0.2)
        except (asyncio.TimeoutError, ConnectionError):
            pass
        writer.close()

    async def metric(self, name):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return float(re.search(rf"^edgewise_{name} (\S+)", text, re.M)[1])


def chat(question, **fields):
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 48, **fields}


def known_requests(questions):
    """(kind, path, body) of requests whose answers are the same whoever asks beside them."""
    for i, question in enumerate(questions):
        fields = {"model": MODELS[i % 3]}
        for kind, more in [("plain", {}), ("json_schema", {"response_format": CITY, "max_tokens": 100}), ("regex", {"response_format": ANIMALS}),
                           ("tools", {"tools": TOOLS, "tool_choice": "required", "max_tokens": 120}), ("logprobs", {"logprobs": True, "top_logprobs": 3}),
                           ("two answers", {"n": 2, "temperature": 1, "seed": i})]:
            yield kind, "/v1/chat/completions", chat(question, **fields, **more)
        yield "embeddings", "/v1/embeddings", {"input": [question, question[::-1]], **fields}


def essence(document):
    """What must not differ: all but ids, times and what was cached."""
    if "choices" not in document:
        return document.get("data", document)
    choices = document["choices"]
    for choice in choices:
        for call in choice["message"].get("tool_calls") or []:
            del call["id"]
    return choices


async def conversation(client, question, model):
    """The answers of three turns."""
    messages = []
    for ask in [question, "And then?", "Why?"]:
        messages.append({"role": "user", "content": ask})
        _, text, _ = await client.stream({**chat(""), "messages": messages, "model": model})
        messages.append({"role": "assistant", "content": text})
    return messages[1::2]


def process_status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {key: int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) for key in ["Threads", "VmRSS"]}


class Storm:
    """What clients ask, what they should be told, and what came."""

    def __init__(self, client, questions):
        self.client, self.questions, self.counts, self.wrong = client, questions, collections.Counter(), []

    async def learn(self):
        """The answers as they are alone."""
        self.known = [(kind, path, body, essence((await self.client.post(path, body))[1])) for kind, path, body in known_requests(self.questions)]
        self.streamed = {q: (await self.client.stream(chat(q)))[1] for q in self.questions}
        self.talks = {(q, m): await conversation(self.client, q, m) for q in self.questions[:4] for m in MODELS}

    def expect(self, kind, question, got, expected):
        self.counts[kind] += 1
        if got != expected:
            self.wrong.append((kind, question, got, expected))

    async def one_request(self):
        kind = random.random()
        if kind < 0.5:
            what, path, body, expected = random.choice(self.known)
            status, document = await self.client.post(path, body)
            self.expect(what, body, essence(document) if status == 200 else status, expected)
        elif kind < 0.6:
            question = random.choice(self.questions)
            self.expect("streamed", question, (await self.client.stream(chat(question)))[1], self.streamed[question])
        elif kind < 0.65:
            question, model = random.choice(list(self.talks))
            self.expect("three turns", question, await conversation(self.client, question, model), self.talks[question, model])
        elif kind < 0.75:
            what, path, body, _ = random.choice(self.known)
            if random.random() < 0.5 and path != "/v1/embeddings":
                await self.client.stream({**body, "max_tokens": 400, "ignore_eos": True}, random.randrange(20))
            else:
                await self.client.post(path, body, random.random() * 0.3)
            self.counts["left early"] += 1
        elif kind < 0.85:
            words = " ".join(random.choice(QUESTIONS) for _ in range(random.randrange(1, 80)))
            await self.client.stream(chat(words, temperature=1.5, max_tokens=random.randrange(1, 80), model=random.choice(MODELS)))
            self.counts["sampled"] += 1
        elif kind < 0.93:
            fields = random.choice(REFUSED)
            self.expect("refused", fields, (await self.client.post("/v1/chat/completions", {**chat("Hello"), **fields}))[0] in (400, 404), True)
        else:
            await self.client.garbage()
            self.counts["malformed"] += 1

    async def one_client(self, end):
        while time.monotonic() < end:
            try:
                await self.one_request()
            except ConnectionError:
                self.counts["connection errors"] += 1


def planned_bytes(program, engine):
    """What `edgewise memory` says the engine takes with its cache full."""
    text = subprocess.run([program, "memory", engine, "--batch_sizes", "16", "--sequence_lengths", "2048"], check=True, capture_output=True,
                          text=True).stdout
    return float(re.search(r"^ +16 +2048 .* ([0-9.]+)$", text, re.M)[1]) * 1e6


async def settled(client):
    """After the storm: whether the adapters leave memory, which takes a second without requests."""
    while await client.metric("requests_running") + await client.metric("requests_waiting") > 0:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)
    return await client.metric("adapters_loaded") == 0


def long_prompt():
    return chat(" ".join(random.choice(["river", "stone", "bread", "cloud"]) for _ in range(1450)), max_tokens=1)


async def fill_cache(client):
    """So that memory that grows behind it is lost."""
    for _ in range(int(await client.metric("cache_pages") * 64 / 1450) + 1):
        await client.stream(long_prompt())


async def storm(client, pid, args):
    storm = Storm(client, QUESTIONS[:args.questions])
    await storm.learn()
    await fill_cache(client)
    before, memory = process_status(pid), []
    start, tokens = time.monotonic(), await client.metric("generated_tokens_total")

    async def watch():
        for _ in range(8):
            await asyncio.sleep(args.seconds / 8)
            memory.append(process_status(pid)["VmRSS"] / 1e3)
    await asyncio.gather(watch(), *(storm.one_client(start + args.seconds) for _ in range(args.clients)))
    spent, tokens = time.monotonic() - start, await client.metric("generated_tokens_total") - tokens
    unloaded = await settled(client)
    after = process_status(pid)
    lost = await client.metric("cache_pages") - await client.metric("cache_pages_available")
    print(f"{args.clients} clients, {args.seconds} s: {dict(storm.counts)}; {tokens / spent:.0f} tokens/s; {await client.metric('preemptions_total'):.0f} preemptions")
    print(f"adapters: {await client.metric('adapter_loads_total'):.0f} loads, {'all' if unloaded else 'NOT all'} out of memory after a second; "
          f"guessed ahead {await client.metric('drafted_tokens_total'):.0f}, right {await client.metric('accepted_tokens_total'):.0f}")
    print(f"wrong answers {len(storm.wrong)}, lost pages {lost:.0f}, threads {before['Threads']} -> {after['Threads']}, "
          f"memory MB {' '.join(f'{m:.0f}' for m in memory)} ({planned_bytes(args.program, args.engine) / 1e6:.0f} planned for a full cache)")
    for wrong in storm.wrong[:3]:
        print("  {}: {!r}: {!r}, alone {!r}".format(*wrong))
    flat = memory[-1] < memory[0] * 1.05
    return not storm.wrong and lost == 0 and after["Threads"] <= before["Threads"] and unloaded and flat


async def throughput(client, clients):
    bodies = [chat(QUESTIONS[i % len(QUESTIONS)], max_tokens=200, ignore_eos=True) for i in range(clients)]
    start, tokens = time.monotonic(), await client.metric("generated_tokens_total")
    await asyncio.gather(*(client.stream(body) for body in bodies))
    return (await client.metric("generated_tokens_total") - tokens) / (time.monotonic() - start)


def percentile(values, share):
    return sorted(values)[int(len(values) * share)]


async def latency(client):
    """p95 of the time between tokens of three clients, undisturbed and while long prompts are computed."""
    async def gaps(disturbed):
        tasks = [asyncio.create_task(client.stream(chat(q, max_tokens=400, ignore_eos=True))) for q in QUESTIONS[:3]]
        await asyncio.sleep(0.3)
        begin = time.monotonic()
        while disturbed and not all(t.done() for t in tasks):
            await client.stream(long_prompt())
        result = []
        for task in tasks:
            times = (await task)[2]
            result += [b - a for a, b in zip(times, times[1:]) if a > begin]
        return result
    await gaps(False)  # lets the scheduler learn what a step costs
    calm, disturbed = [], []
    for _ in range(5):  # in turns, since the machine is faster at some times than at others
        calm += await gaps(False)
        disturbed += await gaps(True)
    return percentile(calm, 0.95), percentile(disturbed, 0.95)


async def run(args, port, pid):
    client = Client(port, args.patience)
    if not args.storm_only:
        one, many = await throughput(client, 1), await throughput(client, 16)
        print(f"1 client {one:.0f} tokens/s, 16 clients {many:.0f} tokens/s: {many / one:.1f} times")
        calm, disturbed = await latency(client)
        print(f"p95 between tokens: {calm * 1e3:.1f} ms undisturbed, {disturbed * 1e3:.1f} ms beside 1,500-token prompts: {disturbed / calm:.2f} times")
    return await storm(client, pid, args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build" / "edgewise", help="the server, also one built with a sanitizer")
    parser.add_argument("--clients", type=int, default=64, help="that ask side by side")
    parser.add_argument("--seconds", type=int, default=120, help="that they go on asking")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), help="different ones, each of which is answered alone first")
    parser.add_argument("--storm_only", action="store_true", help="measure no speed before: it means little with a sanitizer")
    parser.add_argument("--patience", type=int, default=60, help="seconds that an answer, and the server's end, may take")
    parser.add_argument("--eagle", action="store_const", const=["--eagle"], default=[], help="guess ahead with the draft head, or fail")
    parser.add_argument("--no_eagle", action="store_const", const=["--no_eagle"], dest="eagle", help="don't")
    args = parser.parse_args()
    adapters = [flag for name in ADAPTERS for flag in ["--lora", f"{name}={ROOT}/models/edge-tiny-16m-lora-{name}"]]
    server = subprocess.Popen([args.program, "serve", args.engine, "--port", "0", "--model_name", MODELS[0], *adapters, "--lora_idle_seconds", "1",
                               "--max_loras", "1", *args.eagle], stderr=subprocess.PIPE, text=True)
    try:
        port = next(int(found[1]) for line in server.stderr if (found := re.search(r":(\d+)/v1", line)))
        threading.Thread(target=lambda: sys.stderr.writelines(server.stderr), daemon=True).start()
        good = asyncio.run(run(args, port, server.pid))
        server.send_signal(signal.SIGTERM)
        return 0 if server.wait(args.patience) == 0 and good else 1
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
