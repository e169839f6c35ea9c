"""Requests of `infer`: good ones, bad ones, with adapters, fewer logits, cached prompts.

Most checks use the embedded model cut to one layer. Prints "N passed, N failed". Usage: cli_request_test.py build/edgewise
"""
import json
import random
import shutil
import sys

import numpy as np

from cli_support import MODEL, ROOT, from_bf16, read_safetensors, run_parts
from cut_model import CutModelTest, cut_adapter


class RequestTest(CutModelTest):
    def __init__(self, program, work):
        super().__init__(program, work)
        self.make_engine()

    def parts(self):
        return [self.requests, self.request_files, self.prefix_cache, self.adapters, self.reduced_vocabulary]

    def requests(self):
        say = [{"role": "user", "content": "What is machine learning?"}]
        bad = {
            "prompt too long": ({"messages": [{"role": "user", "content": "word " * 200}]}, "maxInputLen"),
            "no messages": ({"messages": []}, "empty"),
            "messages missing": ({}, "messages"),
            "messages of a wrong type": ({"messages": "Hi"}, "messages"),
            "request of a wrong type": (7, "object"),
            "role missing": ({"messages": [{"content": "Hi"}]}, "role"),
            "unknown adapter": ({"messages": say, "lora_name": "pirate"}, "pirate"),
            "negative temperature": ({"messages": say, "temperature": -1}, "temperature"),
            "top_p above 1": ({"messages": say, "top_p": 1.5}, "top_p"),
            "num_logprobs beyond an int": ({"messages": say, "num_logprobs": 2**32 + 1}, "num_logprobs"),
            "unknown field": ({"messages": say, "temprature": 1}, "temprature"),
            "temperature as text": ({"messages": say, "temperature": "hot"}, "temperature"),
            "too many logprobs": ({"messages": say, "num_logprobs": 1000}, "num_logprobs"),
            "bias of a token beyond the vocabulary": ({"messages": say, "logit_bias": {"999999": 1}}, "999999"),
            "bias of no token": ({"messages": say, "logit_bias": {"x": 1}}, "x"),
            "no length": ({"messages": say, "max_generate_length": 0}, "max"),
        }
        greedy = {"messages": say, "temperature": 0, "max_generate_length": 12, "ignore_eos": True}
        sampled = greedy | {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": 7}
        good = {"greedy": greedy, "greedy again": greedy, "sampled": sampled, "sampled again": sampled,
                "other seed": sampled | {"seed": 8}, "logprobs": greedy | {"num_logprobs": 5},
                "parts": greedy | {"messages": [{"role": "user", "content": [{"type": "text", "text": say[0]["content"]}]}]}}
        entries = [*bad.items(), *good.items()]
        random.Random(1).shuffle(entries)
        document = {"requests": [e[0] if name in bad else e for name, e in entries]}
        responses = dict(zip([name for name, _ in entries], self.program.infer(self.engine, document, self.work)))
        for name, (_, mention) in bad.items():
            error = responses[name].get("error", "")
            self.checks.that(mention in error, f"request with {name}: error {error!r}, expected it to mention {mention}")
        ids = {name: responses[name]["output_ids"] for name in good}
        for name in good:
            self.checks.that("error" not in responses[name] and len(ids[name]) == 12, f"good request {name}: {responses[name]}")
        self.checks.that(ids["greedy"] == ids["greedy again"] == ids["logprobs"] == ids["parts"], "greedy is reproducible")
        self.checks.that(ids["sampled"] == ids["sampled again"], "a seed is reproducible")
        self.checks.that(ids["sampled"] != ids["other seed"], "another seed gives another answer")
        logprobs = responses["logprobs"]["logprobs"]
        self.checks.that(len(logprobs) == 12 and all(len(t["top"]) == 5 and t["token"] == t["top"][0]["token"] and t["logprob"] <= 0
                                                      for t in logprobs), "log-probabilities of the five best")

        first, second = ids["greedy"][:2]
        pushed = next(t for t in range(100, 200) if t != first)
        text = responses["greedy"]["output_text"]
        stop = text[3:6]
        document = {"requests": [greedy | {"logit_bias": {str(pushed): 100}}, greedy | {"logit_bias": {str(first): -100}},
                                 greedy | {"stop": stop}, greedy | {"stop": [stop, "never said"]}]}
        push, avoid, stopped, listed = self.program.infer(self.engine, document, self.work)
        self.checks.that(set(push["output_ids"]) == {pushed}, f"a bias of 100 decides: {push}")
        self.checks.that(avoid["output_ids"][0] != first, "a bias of -100 forbids")
        for response in [stopped, listed]:
            self.checks.that(response.get("output_text") == text[:text.index(stop)],
                             f"stop {stop!r} in {text!r}: {response.get('output_text')!r}")

    def request_files(self):
        run = ["infer", "--engineDir", self.engine, "--outputFile", self.work / "no.json", "--inputFile"]
        path = self.work / "bad.json"
        self.fails("missing request file", [*run, self.work / "nowhere.json"], ["nowhere.json"])
        for what, content, mentions in [
                ("no JSON", b"{", ["bad.json", "JSON"]), ("empty file", b"", ["bad.json"]),
                ("no requests", b"{}", ["requests"]), ("an array", b"[]", ["requests"]),
                ("unknown field", b'{"requests": [], "wings": 2}', ["wings"]),
                ("invalid UTF-8", b'{"requests": [{"messages": [{"role": "user", "content": "\xff\xfe"}]}]}', ["bad.json"])]:
            path.write_bytes(content)
            self.fails(f"request file: {what}", [*run, path], mentions)
        self.checks.that(not (self.work / "no.json").exists(), "a bad request file leaves no output")
        path.write_text('{"requests": []}')
        self.program(*run, path)
        self.checks.that(json.loads((self.work / "no.json").read_text()) == {"responses": []}, "no requests, no responses")
        path.write_text('{"requests": [{"messages": [{"role": "user", "content": "\\ud83d\\ude00 \\u0000"}]}]}')
        self.program(*run, path)

    def adapters(self):
        """Merged into a checkpoint as numpy merges; chosen by requests of a file; those that do not fit spoil their requests."""
        program, work = self.program, self.work
        lora, merged = cut_adapter(work / "lora"), work / "merged"
        said = program.run("--model_dir", self.model, "--lora_dir", lora, "--output_dir", merged, "--dtype", "fp32",
                           name=self.link("tensorrt-edgellm-merge-lora")).stdout
        self.checks.that("merged 4 modules" in said, said)
        module = "model.layers.0.mlp.down_proj"
        parts = read_safetensors(lora / "adapter_model.safetensors")
        a, b = (parts[f"base_model.model.{module}.lora_{x}.weight"][1] for x in "AB")
        expected = from_bf16(read_safetensors(self.model / "model.safetensors")[f"{module}.weight"][1]) + 4.0 * (b.astype(float) @ a)
        found = read_safetensors(merged / "model.safetensors")[f"{module}.weight"]
        self.checks.that(found[0] == "F32" and np.allclose(found[1], expected, rtol=1e-6, atol=1e-8), "W + scale B A")

        ask = {"messages": [{"role": "user", "content": "Tell me about Paris"}], "temperature": 0, "max_generate_length": 12,
               "ignore_eos": True}
        whole = MODEL.parent / f"{MODEL.name}-lora-upper"
        document = {"available_lora_weights": {"upper": str(lora), "whole": str(whole), "gone": str(work / "nowhere")},
                    "requests": [ask, ask | {"lora_name": "upper"}, ask | {"lora_name": ""}, ask | {"lora_name": "whole"},
                                 ask | {"lora_name": "gone"}, ask | {"lora_name": "other"}, ask | {"available_lora_weights": {}}]}
        base, upper, empty, foreign, gone, other, inner = program.infer(self.engine, document, work)
        self.checks.that(base["output_ids"] == empty["output_ids"] != upper["output_ids"], f"an adapter changes the answer: {upper}")
        for what, response, mentions in [("modules the model lacks", foreign, ["model.layers.1.mlp.down_proj", "more"]),
                                         ("no such directory", gone, ["nowhere"]), ("a name not listed", other, ["other"]),
                                         ("weights in a request", inner, ["available_lora_weights"])]:
            self.checks.that(all(m in response.get("error", "") for m in mentions), f"{what}: {response}")
        run = ["run", self.engine, "--quiet", "--temperature", 0, "--max_tokens", 12]
        texts = [program(*run, *flags, "Tell me about Paris") for flags in [[], ["--lora", lora]]]
        self.checks.that(texts[0] != texts[1], f"run --lora: {texts}")
        self.fails("run --lora with another model's", [*run, "--lora", whole, "Hi"], ["lora-upper", "model.layers.1"])
        program("quantize", "--model_dir", self.model, "--output_dir", work / "q8", "--quantization", "int8")
        self.fails("a merge into a quantized base", ["merge", "--model_dir", work / "q8", "--lora_dir", lora, "--output_dir", work / "x"],
                   ["quantized"])
        self.fails("a merge of another model's", ["merge", "--model_dir", self.model, "--lora_dir", whole, "--output_dir", work / "x"],
                   ["model.layers.1"])

    def reduced_vocabulary(self):
        """Fewer logits, the same ids: answers stay where all their tokens are kept, and hold no other."""
        program, work = self.program, self.work
        ask = {"messages": [{"role": "user", "content": "Tell me about Paris"}], "temperature": 0, "max_generate_length": 12,
               "ignore_eos": True}
        whole = program.infer(self.engine, {"requests": [ask]}, work)[0]["output_ids"]
        reduce_vocab = self.link("tensorrt-edgellm-reduce-vocab")

        def engine(size):
            said = program.run("--model_dir", self.model, "--output_dir", work / f"vocab{size}", "--reduced_vocab_size", size,
                               "--coverage_text", ROOT / "models" / "calibration.jsonl", name=reduce_vocab).stdout
            self.checks.that(f"kept {size} of 8192 tokens" in said and said.count("covers") == 2, f"reduce-vocab says {said!r}")
            program("export", "--model_dir", self.model, "--output_dir", work / f"onnx{size}", "--reduced_vocab_dir", work / f"vocab{size}")
            program("build", "--onnxDir", work / f"onnx{size}", "--engineDir", work / f"engine{size}", "--maxInputLen", 64,
                    "--maxKVCacheCapacity", 128, "--optLevel", 0)
            return work / f"engine{size}", set(read_safetensors(work / f"vocab{size}" / "vocab_map.safetensors")["vocab_map"][1].tolist())
        all_kept, _ = engine(8192)
        self.checks.that(program.infer(all_kept, {"requests": [ask]}, work)[0]["output_ids"] == whole, "all tokens kept change nothing")
        few, kept = engine(400)
        pushed, dropped = max(kept), next(i for i in range(300, 8192) if i not in kept)
        answers = program.infer(few, {"requests": [ask, ask | {"logit_bias": {str(pushed): 100}}, ask | {"logit_bias": {str(dropped): 100}},
                                                  ask | {"num_logprobs": 3}]}, work)
        self.checks.that(all(set(a["output_ids"]) <= kept for a in answers), f"an answer holds a token that was dropped: {answers}")
        self.checks.that(set(answers[1]["output_ids"]) == {pushed} and answers[2]["output_ids"] == answers[0]["output_ids"],
                         f"logit_bias acts on original ids: {answers[1]}, {answers[2]}")
        self.checks.that(all(t["top"][0]["token"] == t["token"] and {x["token"] for x in t["top"]} <= kept for t in answers[3]["logprobs"]),
                         f"log probabilities name original ids: {answers[3]}")
        self.fails("too few tokens", ["reduce-vocab", "--model_dir", self.model, "--output_dir", work / "x", "--reduced_vocab_size", 3], ["272"])
        self.fails("export without the map", ["export", "--model_dir", self.model, "--output_dir", work / "x", "--reduced_vocab_dir", work],
                   ["vocab_map.safetensors"])
        self.fails("perplexity of a reduced engine", ["eval", "--engine", few, "--text", ROOT / "README.md", "--context", 64], ["reduced"])
        shutil.copy(work / "vocab8192" / "vocab_map.safetensors", few)
        self.fails("another engine's map", ["run", few, "Hi"], ["8192 tokens", "400 logits"])

    def prefix_cache(self):
        """A system prompt is computed once; a saved one stays though many others pass."""
        engine = self.work / "long-engine"
        self.program("build", "--onnxDir", self.onnx, "--engineDir", engine, "--maxInputLen", 512, "--maxKVCacheCapacity", 512,
                     "--optLevel", 0)

        def chat(system, user, **fields):
            return {"messages": [{"role": "user", "content": user}], "system_prompt": system, **fields}
        long = "You know all rivers of this country by name and answer in short sentences. " * 8
        others = [chat(f"You are number {i}. " * 50, "Who?") for i in range(6)]
        document = {"temperature": 0, "max_generate_length": 6, "requests": [
            chat(long, "Hello", save_system_prompt_kv_cache=True), chat(long, "Which river?"), *others, chat(long, "Which river?")]}
        answers = self.program.infer(engine, document, self.work)
        cached = [a["cached_tokens"] for a in answers]
        self.checks.that(cached[0] == 0 and cached[1] >= 64 and cached[-1] == cached[1] and cached[1] % 64 == 0, f"cached: {cached}")
        self.checks.that(answers[1]["output_ids"] == answers[-1]["output_ids"], "the same answer from the cache")
        alone = self.program.infer(engine, {**document, "requests": [chat(long, "Which river?")]}, self.work)[0]
        self.checks.that(alone["cached_tokens"] == 0 and alone["output_ids"] == answers[1]["output_ids"], "and without it")


if __name__ == "__main__":
    sys.exit(run_parts(RequestTest))
