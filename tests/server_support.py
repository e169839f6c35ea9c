"""`edgewise serve` as a child process, for the tests of the API."""
import functools
import json
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

from cli_support import SLOWNESS

KEY = "a-key-for-tests"
TIMEOUT = 60 * SLOWNESS


class Server:
    """`edgewise serve`, on a free port unless told."""

    def __init__(self, program, engine, *flags, key=KEY, port=0):
        self.key = key
        self.process = subprocess.Popen([str(program.path), "serve", str(engine), "--port", str(port), "--model_name", "tiny", "--api_key", key,
                                         "--grace", str(30 * SLOWNESS),
                                         *map(str, flags)], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError("the server did not start")
        self.log = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def read(self):
        for line in self.process.stderr:
            self.log.append(line)

    @functools.cached_property
    def client(self):
        import openai  # which a GPU machine need not have
        return openai.OpenAI(base_url=self.url + "/v1", api_key=self.key, max_retries=0, timeout=TIMEOUT)

    def post(self, path, body, key=KEY, method="POST"):
        """Status and parsed body of a plain request; `body` is JSON or bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data if method == "POST" else None, method=method,
                                         headers={"Authorization": f"Bearer {key}"} if key else {})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                return reply.status, json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else text

    def metric(self, name):
        request = urllib.request.Request(self.url + "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = urllib.request.urlopen(request, timeout=TIMEOUT).read().decode()
        return float(re.search(rf"^edgewise_{name} (\S+)$", text, re.M)[1])

    def wait_for(self, name, value, seconds=10):
        end = time.time() + seconds * SLOWNESS
        while time.time() < end:
            if self.metric(name) == value:
                return True
            time.sleep(0.02)
        return False

    def close(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self):
        """The exit code, once all it said is in the log."""
        code = self.process.wait(TIMEOUT)
        self.reader.join(TIMEOUT)
        return code
