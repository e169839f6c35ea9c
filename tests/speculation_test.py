"""Answers with tokens guessed ahead are those without: through the API, for every kind of request, by a draft head and by another engine.

Usage: speculation_test.py build/edgewise. Prints "N passed, N failed".
"""
import concurrent.futures
import json
import pathlib
import shutil
import sys
import tempfile

from cli_support import MODEL, Checks, program_from_arguments
from server_support import Server

HEAD = MODEL.parent / f"{MODEL.name}-eagle3"
LORA = MODEL.parent / f"{MODEL.name}-lora-upper"
QUESTIONS = ["Write a short story about a dog.", "Explain gravity", "Tell me about Paris", "What is rain?"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
          "required": ["city", "big"], "additionalProperties": False}


class SpeculationTest:
    def __init__(self, program, work):
        self.checks, self.program, self.work, self.engine = Checks(), program, work, work / "engine"
        small = ["--maxBatchSize", 4, "--maxInputLen", 512, "--maxKVCacheCapacity", 1024, "--kvCachePolicy", "paged", "--optLevel", 0]
        program("export", "--model_dir", MODEL, "--draft_model_dir", HEAD, "--output_dir", work / "onnx")
        program("build", "--onnxDir", work / "onnx", "--engineDir", self.engine, *small)
        program("quantize", "--model_dir", MODEL, "--output_dir", work / "int4", "--quantization", "int4_rtn")
        program("export", "--model_dir", work / "int4", "--output_dir", work / "int4-onnx")
        program("build", "--onnxDir", work / "int4-onnx", "--engineDir", work / "small", *small)
        self.expected = self.answers("--no_eagle")
        self.checks.that(self.expected["tried"] == 0, "nothing is guessed with --no_eagle")

    def answers(self, *flags):
        """All kinds of requests to one server: their answers, and what /metrics says."""
        server = Server(self.program, self.engine, "--lora", f"upper={LORA}", *flags)

        def ask(text, model="tiny", stream=False, **fields):
            reply = server.client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], max_tokens=60, stream=stream,
                                                          **{"temperature": 0, **fields})
            if stream:
                return "".join(piece.choices[0].delta.content or "" for piece in reply if piece.choices)
            return reply.choices[0].message.content

        try:
            plain = ask(QUESTIONS[0], extra_body={"disable_spec_decode": True})
            untouched = server.metric("drafted_tokens_total")
            result = {"plain": plain, "whole": ask(QUESTIONS[0]), "streamed": ask(QUESTIONS[0], stream=True),
                      "again": ask(QUESTIONS[0])}
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                result["together"] = list(pool.map(ask, QUESTIONS))
            result["adapter"] = ask(QUESTIONS[1], model="upper")
            result["sampled"] = ask(QUESTIONS[2], temperature=1, seed=4)
            result["format"] = ask(QUESTIONS[2], response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}})
            tried, right, steps = (server.metric(f"{name}_total") for name in ["drafted_tokens", "accepted_tokens", "verifications"])
        finally:
            code = server.stop()
            self.checks.that(code == 0, f"{flags}: the server ends with {code}: {''.join(server.log)}")
        self.checks.that(untouched == 0, f"{flags}: disable_spec_decode")
        self.checks.that(result["whole"] == result["plain"] == result["streamed"] == result["again"] == result["together"][0],
                         f"{flags}: whole {result['whole']!r}, plain {result['plain']!r}, streamed {result['streamed']!r}, again {result['again']!r}")
        json.loads(result["format"])
        return {"answers": result, "tried": tried, "right": right, "steps": steps}

    def compare(self, *flags):
        found = self.answers(*flags)
        for name, text in self.expected["answers"].items():
            self.checks.that(found["answers"][name] == text, f"{flags}: {name} is {found['answers'][name]!r}, without guesses {text!r}")
        self.checks.that(found["tried"] >= found["right"] > found["steps"] > 0, f"{flags}: /metrics {found}")

    def eagle(self):
        self.compare("--eagle")
        self.compare()  # the engine holds a head

    def draft_engine(self):
        self.compare("--draft_engine", self.work / "small")

    def commands(self):
        """run, infer and bench take another engine too."""
        draft = ["--draft_engine", self.work / "small"]
        ask = ["run", self.engine, QUESTIONS[1], "--temperature", 0, "--max_tokens", 40]
        plain = self.program.run(*ask, "--no_eagle")
        guessed = self.program.run(*ask, *draft)
        self.checks.that(guessed.stdout == plain.stdout and "tried ahead" in guessed.stderr and "tried ahead" not in plain.stderr,
                         f"run: {guessed.stdout!r} {guessed.stderr!r}")
        (self.work / "in.json").write_text(json.dumps({"temperature": 0, "max_generate_length": 40, "requests": [
            {"messages": [{"role": "user", "content": text}]} for text in QUESTIONS]}))
        responses = []
        for flags in [[], draft]:
            self.program("infer", "--engineDir", self.engine, "--inputFile", self.work / "in.json", "--outputFile", self.work / "out.json", *flags)
            responses.append(json.loads((self.work / "out.json").read_text())["responses"])
        self.checks.that([r["output_ids"] for r in responses[0]] == [r["output_ids"] for r in responses[1]], "infer")
        self.checks.that(all(r["accepted_tokens"] > 0 for r in responses[1]), "infer guesses")
        self.program("bench", "--engine_dirs", self.engine, "--iterations", 1, "--warmup", 0, "--input_len", 16, "--output_len", 16,
                     "--output_dir", self.work / "bench", *draft)
        point = json.loads((self.work / "bench/bench.json").read_text())[0]["points"][0]
        self.checks.that(point["speculation"]["verifications"] > 0, f"bench: {point}")

    def memory(self):
        """An engine that guesses takes weights and pages of its own."""
        def point(*args):
            return json.loads(self.program("memory", *args, "--batch_sizes", 2, "--sequence_lengths", 100, "--json"))["points"][0]
        small = self.work / "small"
        alone, two = point(small), point(small, "--draft_engine", small)
        for part in ["weights_bytes", "kv_cache_bytes"]:
            self.checks.that(two[part] == 2 * alone[part], f"memory: {part} {two[part]}, alone {alone[part]}")
        self.checks.that(two["activation_bytes"] > alone["activation_bytes"], f"memory: {two}, alone {alone}")

    def restored(self):
        """A conversation that another process saved goes on as it would have here, guesses included."""
        for flags in [["--eagle"], ["--draft_engine", self.work / "small"]]:
            texts = []
            for saved_with, loaded_with in [(["--no_eagle"], ["--no_eagle"]), (["--no_eagle"], flags), (flags, flags), (flags, ["--no_eagle"])]:
                session = self.work / "session"
                session.unlink(missing_ok=True)
                self.program("run", self.engine, QUESTIONS[0], "--temperature", 0, "--session", session, *saved_with)
                result = self.program.run("run", self.engine, QUESTIONS[1], "--temperature", 0, "--session", session, *loaded_with)
                self.checks.that(result.returncode == 0, f"{saved_with} {loaded_with}: {result.stderr}")
                texts.append(result.stdout)
            self.checks.that(len(set(texts)) == 1 and texts[0], f"{flags}: {texts}")

    def refused(self):
        def fails(what, args, mentions):
            result = self.program.run(*args)
            self.checks.that(result.returncode == 2 and all(str(m) in result.stderr for m in mentions), f"{what}: {result.returncode} {result.stderr}")
        run = ["run", self.engine, "Hi", "--draft_engine"]
        fails("no engine", [*run, self.work / "nothing"], ["nothing", "no model.engine"])
        fails("no engine", ["memory", self.engine, "--draft_engine", self.work / "nothing"], ["nothing", "no model.engine"])
        fails("two ways", [*run, self.work / "small", "--eagle"], ["choose one"])
        fails("two ways", [*run, self.work / "small", "--prompt_lookup", 4], ["choose one"])
        fails("a chain too long", [*run, self.work / "small", "--draftingStep", 99], ["--draftingStep 99"])
        other = self.work / "other"
        shutil.copytree(self.work / "small", other)
        (other / "tokenizer.json").unlink()
        fails("no tokenizer", [*run, other], ["other", "tokenizer.json"])
        tokenizer = json.loads((self.work / "small" / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        a, b = [token for token, id in vocabulary.items() if id in (4000, 4001)]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
        fails("another vocabulary", [*run, other], [other / "tokenizer.json", self.engine / "tokenizer.json", "token 4000", f'"{a}"', f'"{b}"'])

    def run(self):
        for part in [self.eagle, self.draft_engine, self.commands, self.memory, self.restored, self.refused]:
            with self.checks.part(part.__name__):
                part()
        return self.checks.finish()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(SpeculationTest(program_from_arguments(), pathlib.Path(folder)).run())
