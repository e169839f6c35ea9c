"""The command line as a user meets it: exit codes, messages, bad requests, damaged files, runs that are killed.

Most checks use the embedded model cut to one layer. Prints "N passed, N failed". Usage: cli_test.py build/edgewise
"""
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

import prequantized_test
from cli_support import CHECKPOINTS, MODEL, ROOT, SLOWNESS, Checks, from_bf16, program_from_arguments, read_safetensors, write_safetensors

COMMANDS = ["quantize", "export", "merge", "reduce-vocab", "build", "run", "serve", "infer", "bench", "memory", "inspect", "verify", "eval", "tokenize", "template"]
HEAD = MODEL.parent / "edge-tiny-16m-eagle3"
SEEDS = 12
COMPANIONS = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def cut_model(directory):
    """The embedded model's first layer: the same tokenizer and template, a third of the work."""
    directory.mkdir()
    config = json.loads((MODEL / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    (directory / "config.json").write_text(json.dumps(config))
    tensors = read_safetensors(MODEL / "model.safetensors")
    write_safetensors(directory / "model.safetensors",
                      {name: t for name, t in tensors.items() if ".layers." not in name or ".layers.0." in name})
    for name in COMPANIONS:
        shutil.copy(MODEL / name, directory)
    return directory


def cut_adapter(directory):
    """The first layer's part of the embedded adapter "upper"."""
    source = MODEL.parent / f"{MODEL.name}-lora-upper"
    directory.mkdir()
    shutil.copyfile(source / "adapter_config.json", directory / "adapter_config.json")
    tensors = read_safetensors(source / "adapter_model.safetensors")
    write_safetensors(directory / "adapter_model.safetensors", {name: t for name, t in tensors.items() if ".layers.0." in name})
    return directory


def copy_with_config(source, target, change):
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config.update(change)
    (target / "config.json").write_text(json.dumps(config))
    return target


class CliTest:
    def __init__(self, program, work):
        self.program = program
        self.work = work
        self.checks = Checks()
        self.model = cut_model(work / "model")
        self.onnx = work / "onnx"
        self.engine = work / "engine"

    def fails(self, what, args, mentions, code=2, **options):
        """The command exits with `code` and one line that starts with "error:" or names each of `mentions`."""
        result = self.program.run(*args, **options)
        said = result.stderr + (result.stdout if code == 1 else "")
        good = result.returncode == code and all(m in said for m in mentions)
        self.checks.that(good, f"{what}: exit {result.returncode} (expected {code}), said {said.strip()[:300]!r}, "
                               f"expected it to mention {mentions}")

    def survives(self, what, result):
        """An answer or an error message; never a signal, an empty complaint or memory beyond the limit."""
        good = result.returncode in (0, 1) or (result.returncode == 2 and result.stderr.startswith("error: "))
        out_of_memory = "out of memory" in result.stderr or "bad_alloc" in result.stderr
        return self.checks.that(good and not out_of_memory, f"{what}: exit {result.returncode}: {result.stderr.strip()[-300:]!r}")

    # Commands, flags, help.

    def usage(self):
        for command in COMMANDS:
            result = self.program.run(command, "--help")
            self.checks.that(result.returncode == 0 and "Example:" in result.stdout and f"edgewise {command}" in result.stdout,
                             f"{command} --help: no example: {result.stderr.strip()[:200]}")
        result = self.program.run("--help")
        self.checks.that(result.returncode == 0 and all(c in result.stdout for c in COMMANDS), "--help lists the commands")
        self.checks.that(self.program.run("--version").returncode == 0, "--version")
        self.fails("no command", [], ["subcommand"])
        self.fails("unknown command", ["frobnicate"], ["frobnicate"])
        self.fails("unknown flag", ["build", "--frobnicate", 1], ["--onnxDir"])
        self.fails("unknown flag beside good ones", ["run", MODEL, "Hi", "--frobnicate"], ["--frobnicate"])
        self.fails("flag without a number", ["run", MODEL, "Hi", "--max_tokens", "many"], ["max_tokens", "many"])
        self.fails("missing model", ["run", self.work / "nowhere", "Hi"], ["nowhere", "no such directory"])
        self.fails("directory without a model", ["export", "--model_dir", CHECKPOINTS, "--output_dir", self.work / "x"],
                   ["config.json"])
        self.fails("ONNX directory without model.onnx", ["build", "--onnxDir", self.model, "--engineDir", self.work / "x"],
                   ["model.onnx"])
        self.fails("engine directory without an engine",
                   ["infer", "--engineDir", self.model, "--inputFile", "a", "--outputFile", "b"], ["edgewise build"])
        self.fails("unknown quantization",
                   ["quantize", "--model_dir", self.model, "--output_dir", self.work / "x", "--quantization", "int3"], ["int3"])
        self.fails("output directory with other files",
                   ["export", "--model_dir", self.model, "--output_dir", CHECKPOINTS], ["model.onnx"])
        self.checks.that(not (self.work / "x").exists(), "a failed command leaves no output directory")

    def pipeline(self):
        """Both spellings of each flag, through all stages."""
        program, work = self.program, self.work
        program("quantize", "--modelDir", self.model, "--outputDir", work / "q8", "--quantization", "int8")
        program("export", "--modelDir", work / "q8", "--outputDir", work / "q8-onnx")
        program("build", "--onnx_dir", work / "q8-onnx", "--engine_dir", work / "q8-engine", "--max_batch_size", 2,
                "--max_input_len", 64, "--max_kv_cache_capacity", 128, "--kv_cache_policy", "paged", "--opt_level", 0)
        (work / "in.json").write_text(json.dumps({"max_generate_length": 4, "requests": [
            {"messages": [{"role": "user", "content": "Hi"}]}]}))
        program("infer", "--engine_dir", work / "q8-engine", "--input_file", work / "in.json", "--output_file", work / "out.json")
        self.checks.that(len(json.loads((work / "out.json").read_text())["responses"][0]["output_ids"]) > 0, "snake case flags")
        program("export", "--model_dir", self.model, "--output_dir", self.onnx)
        program("build", "--onnxDir", self.onnx, "--engineDir", self.engine, "--maxBatchSize", 2, "--maxInputLen", 64,
                "--maxKVCacheCapacity", 128, "--optLevel", 0)
        self.fails("quantized twice", ["quantize", "--model_dir", work / "q8", "--output_dir", work / "q9", "--quantization", "int8"],
                   ["quantized already"])

    def quantized_cache(self):
        """A cache scheme travels from the checkpoint into the engine; a flag overrides it; answers stay close."""
        program, work = self.program, self.work
        program("quantize", "--model_dir", self.model, "--output_dir", work / "kv8", "--quantization", "fp8", "--kv_cache", "int8",
                "--calib_size", 8)
        tensors = read_safetensors(work / "kv8" / "model.safetensors")
        for name in ["k_scale", "v_scale"]:
            bits = tensors[f"model.layers.0.self_attn.{name}"][1].astype(np.uint32) << 16
            self.checks.that(bits.shape == (1,) and 1e-4 < bits.view(np.float32)[0] < 10, f"{name} is a plausible number")
        program("export", "--model_dir", work / "kv8", "--output_dir", work / "kv8-onnx")
        text = work / "kv.txt"
        text.write_text("Rain is water that falls from clouds. A river carries it to the sea. " * 8)
        for flag, expected in [([], "i8"), (["--kvDtype", "fp8"], "f8e4m3"), (["--kvDtype", "fp32"], "f32")]:
            engine = work / f"kv-{expected}"
            program("build", "--onnxDir", work / "kv8-onnx", "--engineDir", engine, "--optLevel", 0, *flag)
            self.checks.that(f"in {expected} " in program("inspect", engine), f"the engine's cache is {expected}")
        for kind, most in [("i8", 0.005), ("f8e4m3", 0.05)]:
            report = json.loads(program("eval", "--engine", work / f"kv-{kind}", "--against", work / "kv-f32", "--text", text,
                                        "--context", 64, "--json"))
            self.checks.that(0 < report["against"]["kl"] < most, f"KL of a {kind} cache: {report['against']['kl']}")
        self.fails("unknown cache type", ["quantize", "--model_dir", self.model, "--output_dir", work / "x", "--quantization", "fp8",
                                          "--kv_cache", "int4"], ["--kv_cache int4", "fp8 or int8"])
        copy_with_config(work / "kv8-onnx", work / "kv4-onnx", {"quantization_config": {"kv_cache_scheme": {"num_bits": 4, "type": "int"}}})
        self.fails("cache scheme of 4 bits", ["build", "--onnxDir", work / "kv4-onnx", "--engineDir", work / "x"], ["num_bits 4", "--kvDtype"])

    def link_names(self):
        links = self.work / "bin"
        links.mkdir()
        for name in ["llm_build", "llm_inference", "tensorrt-edgellm-quantize-llm", "tensorrt-edgellm-export-llm",
                     "tensorrt-edgellm-merge-lora", "tensorrt-edgellm-reduce-vocab", "tensorrt-edgellm-export-draft"]:
            (links / name).symlink_to(self.program.path)
        here = self.work / "links"
        here.mkdir()
        (here / "input.json").write_text(json.dumps({
            "batch_size": 1, "temperature": 1.0, "top_p": 0.8, "top_k": 50, "max_generate_length": 8,
            "requests": [{"messages": [{"role": "system", "content": "You are a helpful assistant."},
                                       {"role": "user", "content": "What is the capital of France?"}]}]}))
        for line in [f"tensorrt-edgellm-quantize-llm --model_dir {self.model} --output_dir ./q --quantization fp8",
                     "tensorrt-edgellm-export-llm --model_dir ./q --output_dir ./onnx",
                     "llm_build --onnxDir ./onnx --engineDir ./engine --maxBatchSize 1 --maxInputLen 512 --maxKVCacheCapacity 2048",
                     "llm_inference --engineDir ./engine --inputFile input.json --outputFile output.json"]:
            name, *args = line.split()
            result = self.program.run(*args, name=links / name, cwd=here)
            self.checks.that(result.returncode == 0, f"{name}: exit {result.returncode}: {result.stderr.strip()}")
        responses = json.loads((here / "output.json").read_text())["responses"]
        self.checks.that(len(responses) == 1 and responses[0]["tokens_generated"] > 0, "llm_inference answers")
        self.speculation(links, here)

    def speculation(self, links, here):
        """The embedded model with its EAGLE-3 head, by the names and flags people have in their scripts."""
        say = lambda text, **fields: {"messages": [{"role": "user", "content": text}], **fields}
        (here / "questions.json").write_text(json.dumps({"temperature": 0, "max_generate_length": 60, "requests": [
            say("Write a short story about a dog."), say("Explain gravity"), say("Explain gravity", disable_spec_decode=True)]}))
        answers = {}
        for line in [f"tensorrt-edgellm-export-draft --base_model_dir {MODEL} --draft_model_dir {HEAD} --output_dir ./eagle-onnx",
                     "llm_build --onnxDir ./eagle-onnx --engineDir ./eagle --maxBatchSize 3 --eagleBase --optLevel 0",
                     "llm_inference --engineDir ./eagle --inputFile questions.json --outputFile plain.json",
                     "llm_inference --engineDir ./eagle --inputFile questions.json --outputFile chain.json --eagle "
                     "--dumpProfile --profileOutputFile profile.json",
                     "llm_inference --engineDir ./eagle --inputFile questions.json --outputFile tree.json --eagle "
                     "--draftingTopK 4 --draftingStep 4 --verifyTreeSize 20"]:
            name, *args = line.split()
            result = self.program.run(*args, name=links / name, cwd=here)
            self.checks.that(result.returncode == 0, f"{name}: exit {result.returncode}: {result.stderr.strip()}")
        for name in ["plain", "chain", "tree"]:
            answers[name] = json.loads((here / f"{name}.json").read_text())["responses"]
        ids = {name: [r["output_ids"] for r in responses] for name, responses in answers.items()}
        self.checks.that(ids["chain"] == ids["plain"] and ids["tree"] == ids["plain"], "tokens with --eagle are those without")
        self.checks.that("drafted_tokens" not in answers["plain"][0] and answers["chain"][0]["verifications"] > 0, "drafts are counted")
        self.checks.that("drafted_tokens" not in answers["chain"][2], "disable_spec_decode")
        report = json.loads((here / "profile.json").read_text())["speculation"]
        self.checks.that(report["acceptance_length"] > 2, f"acceptance length {report['acceptance_length']}")
        self.fails("--eagle without a head", ["run", self.engine, "Hi", "--eagle"], ["no draft.engine", "--draft_model_dir"])
        self.fails("a tree too large", ["run", here / "eagle", "Hi", "--verifyTreeSize", 65], ["--verifyTreeSize 65", "2 to 64"])
        self.fails("two ways to guess", ["run", here / "eagle", "Hi", "--eagle", "--prompt_lookup", 3], ["choose one"])
        self.fails("--eagleDraft without a head", ["build", "--onnxDir", self.onnx, "--engineDir", here / "x", "--eagleDraft"], ["no draft.onnx"])
        self.fails("a head of another model", ["export", "--model_dir", self.model, "--draft_model_dir", HEAD, "--output_dir", here / "x"],
                   ["layer 2 of a base model with 1 layers"])

    # Requests.

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
                           name=work / "bin" / "tensorrt-edgellm-merge-lora").stdout
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

        def engine(size):
            said = program.run("--model_dir", self.model, "--output_dir", work / f"vocab{size}", "--reduced_vocab_size", size,
                               "--coverage_text", ROOT / "models" / "calibration.jsonl", name=work / "bin" / "tensorrt-edgellm-reduce-vocab").stdout
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

    # verify, tokenize, template.

    def verify(self):
        llama = CHECKPOINTS / "llama2"
        golden = llama / "golden.safetensors"
        self.checks.that(self.program.run("verify", llama, "--golden", golden).returncode == 0, "verify of a good model exits 0")
        other = self.work / "other-llama"
        shutil.copytree(llama, other)
        tensors = read_safetensors(other / "model.safetensors")
        dtype, head = tensors["lm_head.weight"]
        tensors["lm_head.weight"] = (dtype, head[::-1])
        write_safetensors(other / "model.safetensors", tensors)
        self.fails("verify of other weights", ["verify", other, "--golden", golden], ["FAIL"], code=1)
        for field, change in [("some_new_norm", {"some_new_norm": True}), ("frobformer", {"model_type": "frobformer"}),
                              ("hidden_size", {"hidden_size": None}), ("hidden_act", {"hidden_act": "step"})]:
            model = copy_with_config(llama, self.work / f"llama-{field}", change)
            self.fails(f"verify with {field}", ["verify", model, "--golden", golden], [field])
        cut = self.work / "llama-cut"
        shutil.copytree(llama, cut)
        data = (cut / "model.safetensors").read_bytes()
        (cut / "model.safetensors").write_bytes(data[:len(data) // 2])
        self.fails("verify of a truncated file", ["verify", cut, "--golden", golden], ["model.safetensors", "truncated"])
        (cut / "model.safetensors").unlink()
        self.fails("verify without weights", ["verify", cut, "--golden", golden], ["model.safetensors"])
        self.fails("verify without a golden file", ["verify", llama, "--golden", self.work / "none"], ["none"])
        self.fails("verify on an unknown backend", ["verify", llama, "--golden", golden, "--backend", "abacus"], ["abacus"])

    def text_goldens(self):
        ids = [int(i) for i in self.program("tokenize", self.model, "--no_special", stdin="Hello world\n").split()]
        back = self.program("tokenize", self.model, "--decode", stdin=" ".join(map(str, ids)))
        self.checks.that(back == "Hello world\n", f"tokenize --decode: {back!r}")
        golden = self.work / "tokens.json"
        inputs = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}
        rendered = self.program("template", self.model, stdin=json.dumps(inputs))
        special = json.loads((MODEL / "tokenizer_config.json").read_text())
        inputs |= {k: v for k, v in special.items() if k.endswith("_token") and isinstance(v, str)}
        for wrong, code in [(False, 0), (True, 1)]:
            golden.write_text(json.dumps({"cases": [{"text": "Hello world", "ids": ids[::-1] if wrong else ids}]}))
            result = self.program.run("tokenize", self.model, "--golden", golden)
            self.checks.that(result.returncode == code, f"tokenize --golden: exit {result.returncode}, expected {code}")
            golden.write_text(json.dumps({"cases": [{"inputs": inputs, "rendered": rendered + "!" * wrong}]}))
            result = self.program.run("template", self.model, "--golden", golden)
            self.checks.that(result.returncode == code, f"template --golden: exit {result.returncode}, expected {code}")
        for command in ["tokenize", "template"]:
            self.fails(f"{command} without a golden file", [command, self.model, "--golden", self.work / "none"], ["none"])
            for content in ['{"cases": [{}]}', '{"cases": [7]}', '{"cases": 7}', "7", "{", '[{"text": 1, "ids": "x"}]',
                            '[{"inputs": 1, "rendered": 2}]']:
                golden.write_text(content)
                self.survives(f"{command} --golden {content}", self.program.run(command, self.model, "--golden", golden))
        self.fails("tokenize in a wrong directory", ["tokenize", CHECKPOINTS], ["tokenizer.json"])
        self.fails("ids that are none", ["tokenize", self.model, "--decode"], ["token ids"], stdin="1 x 2")
        self.fails("messages that are no JSON", ["template", self.model], ["JSON"], stdin="{")

    # Damaged files.

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

    # run.

    def run_command(self):
        cache = self.work / "cache"
        run = ["run", self.model, "--quiet", "--cache_dir", cache, "--max_tokens", 8, "--optLevel", 0]
        processes = [subprocess.Popen([str(self.program.path), *map(str, run), "Tell me about Paris", "--temperature", "0"],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        ends = [(p.communicate(timeout=300 * SLOWNESS), p.returncode) for p in processes]
        texts = [out for (out, _), _ in ends]
        self.checks.that(all(code == 0 for _, code in ends) and texts[0] == texts[1] and texts[0].strip() != "",
                         f"two runs on one fresh cache: {ends}")
        greedy = self.program(*run, "--temperature", 0, "Tell me about Paris")
        self.checks.that(greedy == texts[0], "the cached engine gives the same answer")
        self.checks.that(greedy == self.program(*run, "--temperature", 0, stdin="Tell me about Paris\n"), "prompt on standard input")
        raw = self.program(*run, "--temperature", 0, "--raw", "Tell me about Paris")
        self.checks.that(raw != greedy, "--raw leaves the chat template out")
        sampled = [self.program(*run, "--temperature", 1.5, "--top_k", 0, "--seed", seed, "Tell me about Paris") for seed in [1, 1, 2]]
        self.checks.that(sampled[0] == sampled[1] != sampled[2], f"--seed: {sampled}")
        self.fails("empty prompt on standard input", run, ["empty"], stdin="\n")
        self.fails("bad temperature", [*run, "Hi", "--temperature", "-1"], ["temperature"])
        self.fails("bad length", [*run, "Hi", "--max_tokens", "0"], ["max"])
        self.fails("prompt too long", [*run, "word " * 3000], ["maxInputLen"])
        self.fails("invalid limits", [*run, "Hi", "--maxInputLen", "0"], ["maxInputLen"])

    def all(self):
        for part in [self.usage, self.pipeline, self.quantized_cache, self.link_names, self.requests, self.request_files,
                     self.prefix_cache,
                     self.adapters, self.reduced_vocabulary, self.verify, self.text_goldens, self.damaged_files, self.damaged_column_order, self.killed, self.no_space,
                     self.interrupted, self.run_command]:
            with self.checks.part(part.__name__):
                part()
        return self.checks.finish()


def main():
    with tempfile.TemporaryDirectory() as folder:
        return CliTest(program_from_arguments(), pathlib.Path(folder)).all()


if __name__ == "__main__":
    sys.exit(main())
