#!/usr/bin/env python3
"""Uses the chat page as a person does, in headless Chromium, and takes screenshots to look at.

    pip install websockets
    tools/check_page.py --engine out/engine --screenshots out/page

The engine is one of models/edge-tiny-16m, which its two adapters fit. Needs Chromium (Debian: chromium) and build/edgewise. Exit code 1 when something on the page does not work.
"""
import argparse
import asyncio
import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

import websockets

ROOT = pathlib.Path(__file__).resolve().parent.parent
EDGEWISE = ROOT / "build" / "edgewise"
ADAPTERS = {name: ROOT / f"models/edge-tiny-16m-lora-{name}" for name in ["upper", "shakespeare"]}


class Page:
    """One tab over the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.calls, self.errors = socket, 0, []

    async def call(self, method, **params):
        self.calls += 1
        await self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while True:
            message = json.loads(await self.socket.recv())
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"]["text"])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("id") == self.calls:
                return message.get("result", message)

    async def js(self, expression):
        reply = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return reply["result"].get("value")

    async def wait(self, expression, seconds=15):
        for _ in range(int(seconds / 0.05)):
            if await self.js(expression):
                return True
            await asyncio.sleep(0.05)
        return False

    async def say(self, text):
        await self.js(f"document.querySelector('#text').value = {json.dumps(text)}; document.querySelector('#form').requestSubmit()")

    async def screenshot(self, path):
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))


IDLE = "document.querySelector('#send').textContent == 'Send'"


async def use(page, url, folder):
    failed = []

    def check(good, what):
        print(("ok    " if good else "FAIL  ") + what)
        if not good:
            failed.append(what)
    for domain in ["Runtime", "Log", "Page"]:
        await page.call(domain + ".enable")
    await page.call("Page.navigate", url=url)
    check(await page.wait("document.querySelector('#model')?.value"), "the model is listed")
    await page.say("What is rain?")
    check(await page.wait("document.querySelectorAll('.note').length == 1"), "an answer and its figures")
    check(len(await page.js("document.querySelector('.assistant').textContent")) > 10, "the answer has text")
    await page.say("Tell me a story about a river.")
    check(await page.wait("document.querySelectorAll('.note').length == 2"), "a second turn")
    await asyncio.sleep(1.5)
    check(len((await page.js("document.querySelector('#speed_line').getAttribute('points')")).split()) > 1, "the speed graph moves")
    await page.screenshot(folder / "desktop.png")
    await page.js("document.querySelector('#fresh').click()")
    check(await page.js("[...document.querySelector('#model').options].map(o => o.value).join()") == "tiny,shakespeare,upper", "adapters are listed")
    for notes, model in enumerate(["upper", "tiny"], 1):
        await page.js(f"document.querySelector('#model').value = '{model}'; document.querySelector('#temperature').value = 0;"
                      "document.querySelector('#temperature').dispatchEvent(new Event('input'))")
        await page.say("Tell me about Paris")
        check(await page.wait(f"document.querySelectorAll('.note').length == {notes}"), f"an answer of {model}")
        text = await page.js("[...document.querySelectorAll('.assistant')].at(-1).textContent")
        check((text == text.upper()) == (model == "upper"), f"is {model}'s: {text[:40]!r}")
        check(f"{model}: " in await page.js("[...document.querySelectorAll('.note')].at(-1).textContent"), "and its note says so")
    check(await page.js("document.querySelector('aside').scrollHeight <= innerHeight"), "the panel fits without a scroll bar")
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    await page.screenshot(folder / "adapters.png")
    await page.js("document.querySelector('#max_tokens').value = 900; document.querySelector('#temperature').value = 2;"
                  "document.querySelector('#top_p').value = 1")
    await page.say("Tell me everything about everything, from the beginning.")
    check(await page.wait("document.querySelector('#send').textContent == 'Stop'", 2), "the button becomes Stop")
    await page.js("document.querySelector('#form').requestSubmit()")
    check(await page.wait(IDLE, 2), "and stops")
    await page.js("document.querySelector('#max_tokens').value = 0")
    await page.say("Hello")
    check(await page.wait("document.querySelector('.error')?.textContent.includes('max')"), "a refusal is shown with its reason")
    errors = [e for e in page.errors if "400" not in e]
    check(not errors, f"no errors in the console: {errors}")
    await page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=2, mobile=True)
    await page.call("Page.reload")
    await page.wait("document.querySelector('#model')?.value")
    await page.say("Hello, who are you?")
    check(await page.wait("document.querySelectorAll('.note').length == 1"), "an answer on a phone")
    check(await page.js("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone")
    await page.screenshot(folder / "phone.png")
    await page.js("document.querySelector('#panel').open = true")
    await page.screenshot(folder / "phone_panel.png")
    return 1 if failed else 0


async def run(url, folder):
    with tempfile.TemporaryDirectory() as profile:
        browser = subprocess.Popen(["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
                                    f"--user-data-dir={profile}", "--window-size=1200,800", "about:blank"],
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            port = next(found[1] for line in browser.stderr if (found := re.search(r"ws://127\.0\.0\.1:(\d+)/", line)))
            targets = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
            address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            async with websockets.connect(address, max_size=1 << 26) as socket:
                return await use(Page(socket), url, folder)
        finally:
            browser.kill()
            browser.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--screenshots", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.screenshots.mkdir(parents=True, exist_ok=True)
    adapters = [flag for name, path in ADAPTERS.items() for flag in ["--lora", f"{name}={path}"]]
    server = subprocess.Popen([EDGEWISE, "serve", args.engine, "--port", "0", "--model_name", "tiny", *adapters], stderr=subprocess.PIPE, text=True)
    try:
        port = next(found[1] for line in server.stderr if (found := re.search(r":(\d+)/v1", line)))
        return asyncio.run(run(f"http://127.0.0.1:{port}/", args.screenshots))
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
