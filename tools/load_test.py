#!/usr/bin/env python3
"""The server under load: streaming clients with random prompts, cancels, disconnects and malformed requests.

    tools/load_test.py --engine out/engine [--clients 64] [--seconds 120]

The engine should be built with --maxBatchSize 16 --kvCachePolicy paged --maxInputLen 1600 --maxKVCacheCapacity 2048. Prints
what was done, throughput of 16 clients against one, and how long tokens wait while a 1,500-token prompt is computed. Exit
code 1 when an answer differs from the one given alone, or a page, a thread or memory is lost. Standard library only.
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
import time

EDGEWISE = pathlib.Path(__file__).resolve().parent.parent / "build" / "edgewise"
QUESTIONS = [f"Tell me about {thing}" for thing in ["Paris", "rain", "a river", "the moon", "bread", "a cat", "the sea", "snow", "a school",
                                                   "Norway", "trees", "a bridge", "music", "the sun", "a horse", "tea"]]
GARBAGE = [b"\0\1\2\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\n\r\n{{{{{",
           b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 900\r\n\r\n{"]


class Client:
    def __init__(self, port):
        self.port = port

    async def stream(self, body, leave_after=None):
        """The text of a streamed answer and the times of its pieces; closes the connection after `leave_after` pieces."""
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

    async def idle(self):
        while await self.metric("requests_running") + await self.metric("requests_waiting") > 0:
            await asyncio.sleep(0.05)


def chat(question, **fields):
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 48, **fields}


def process_status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {key: int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) for key in ["Threads", "VmRSS"]}


async def one_client(client, alone, end, counts, wrong):
    while time.monotonic() < end:
        kind = random.random()
        try:
            if kind < 0.7:
                question = random.choice(QUESTIONS)
                status, text, _ = await client.stream(chat(question))
                counts["answered" if status == 200 else f"status {status}"] += 1
                if status == 200 and text != alone[question]:
                    wrong.append((question, text, alone[question]))
            elif kind < 0.8:
                await client.stream(chat(random.choice(QUESTIONS), max_tokens=400, ignore_eos=True), random.randrange(20))
                counts["left early"] += 1
            elif kind < 0.9:
                words = " ".join(random.choice(QUESTIONS) for _ in range(random.randrange(1, 80)))
                await client.stream(chat(words, temperature=1.5, max_tokens=random.randrange(1, 80)))
                counts["sampled"] += 1
            else:
                await client.garbage()
                counts["malformed"] += 1
        except ConnectionError:
            counts["connection errors"] += 1


def planned_bytes(engine):
    """What `edgewise memory` says the engine takes with its cache full."""
    text = subprocess.run([EDGEWISE, "memory", engine, "--batch_sizes", "16", "--sequence_lengths", "2048"], check=True, capture_output=True,
                          text=True).stdout
    return float(re.search(r"^ +16 +2048 .* ([0-9.]+)$", text, re.M)[1]) * 1e6


async def storm(client, pid, engine, clients, seconds):
    alone = {q: (await client.stream(chat(q)))[1] for q in QUESTIONS}
    counts, wrong = collections.Counter(), []
    before = process_status(pid)
    start, tokens = time.monotonic(), await client.metric("generated_tokens_total")
    await asyncio.gather(*(one_client(client, alone, start + seconds, counts, wrong) for _ in range(clients)))
    spent, tokens = time.monotonic() - start, await client.metric("generated_tokens_total") - tokens
    await client.idle()
    after = process_status(pid)
    lost = await client.metric("cache_pages") - await client.metric("cache_pages_available")
    print(f"{clients} clients, {seconds} s: {dict(counts)}; {tokens / spent:.0f} tokens/s; {await client.metric('preemptions_total'):.0f} preemptions")
    memory, plan = after["VmRSS"] * 1024, planned_bytes(engine)
    print(f"wrong answers {len(wrong)}, lost pages {lost:.0f}, threads {before['Threads']} -> {after['Threads']}, "
          f"memory {memory / 1e6:.0f} MB of {plan / 1e6:.0f} planned for a full cache")
    for question, got, expected in wrong[:3]:
        print(f"  {question!r}: {got!r}, alone {expected!r}")
    return not wrong and lost == 0 and after["Threads"] <= before["Threads"] and memory < plan * 1.05


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
            words = " ".join(random.choice(["river", "stone", "bread", "cloud"]) for _ in range(1450))
            await client.stream(chat(words, max_tokens=1))
        result = []
        for task in tasks:
            times = (await task)[2]
            result += [b - a for a, b in zip(times, times[1:]) if a > begin]
        return result
    await gaps(False)  # lets the scheduler learn what a step costs
    return percentile(await gaps(False), 0.95), percentile(await gaps(True), 0.95)


async def run(args, port, pid):
    client = Client(port)
    one, many = await throughput(client, 1), await throughput(client, 16)
    print(f"1 client {one:.0f} tokens/s, 16 clients {many:.0f} tokens/s: {many / one:.1f} times")
    calm, disturbed = await latency(client)
    print(f"p95 between tokens: {calm * 1e3:.1f} ms undisturbed, {disturbed * 1e3:.1f} ms beside 1,500-token prompts: {disturbed / calm:.2f} times")
    return await storm(client, pid, args.engine, args.clients, args.seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=120)
    args = parser.parse_args()
    server = subprocess.Popen([EDGEWISE, "serve", args.engine, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        port = next(int(found[1]) for line in server.stderr if (found := re.search(r":(\d+)/v1", line)))
        good = asyncio.run(run(args, port, server.pid))
        server.send_signal(signal.SIGTERM)
        return 0 if server.wait(60) == 0 and good else 1
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
