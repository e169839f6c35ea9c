"""The command line as a user meets it: commands, flags, help, exit codes, messages.

Most checks use the embedded model cut to one layer. Prints "N passed, N failed". Usage: cli_test.py build/edgewise
"""
import json
import shutil
import subprocess
import sys

import numpy as np

from cli_support import CHECKPOINTS, MODEL, SLOWNESS, read_safetensors, run_parts, write_safetensors
from cut_model import CutModelTest, copy_with_config

COMMANDS = ["quantize", "export", "merge", "reduce-vocab", "build", "run", "serve", "infer", "bench", "memory", "inspect", "verify", "eval", "tokenize", "template"]
HEAD = MODEL.parent / "edge-tiny-16m-eagle3"


class CliTest(CutModelTest):
    def parts(self):
        return [self.usage, self.pipeline, self.quantized_cache, self.link_names, self.verify, self.text_goldens, self.run_command]

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
        self.make_engine()
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
        program("build", "--onnxDir", work / "kv8-onnx", "--engineDir", work / "kv-auto", "--optLevel", 0, "--maxKVCacheCapacity", "auto")
        self.checks.that("as many tokens as fit" in program("inspect", work / "kv-auto"), "the cache's size is left to the load")
        self.fails("a cache of no size", ["build", "--onnxDir", work / "kv8-onnx", "--engineDir", work / "x", "--maxKVCacheCapacity", "12x"],
                   ["--maxKVCacheCapacity 12x", "auto"])
        for kind, most in [("i8", 0.005), ("f8e4m3", 0.05)]:
            report = json.loads(program("eval", "--engine", work / f"kv-{kind}", "--against", work / "kv-f32", "--text", text,
                                        "--context", 64, "--json"))
            self.checks.that(0 < report["against"]["kl"] < most, f"KL of a {kind} cache: {report['against']['kl']}")
        self.fails("unknown cache type", ["quantize", "--model_dir", self.model, "--output_dir", work / "x", "--quantization", "fp8",
                                          "--kv_cache", "int4"], ["--kv_cache int4", "fp8 or int8"])
        copy_with_config(work / "kv8-onnx", work / "kv4-onnx", {"quantization_config": {"kv_cache_scheme": {"num_bits": 4, "type": "int"}}})
        self.fails("cache scheme of 4 bits", ["build", "--onnxDir", work / "kv4-onnx", "--engineDir", work / "x"], ["num_bits 4", "--kvDtype"])

    def link_names(self):
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
            result = self.program.run(*args, name=self.link(name), cwd=here)
            self.checks.that(result.returncode == 0, f"{name}: exit {result.returncode}: {result.stderr.strip()}")
        responses = json.loads((here / "output.json").read_text())["responses"]
        self.checks.that(len(responses) == 1 and responses[0]["tokens_generated"] > 0, "llm_inference answers")
        self.speculation(here)

    def speculation(self, here):
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
            result = self.program.run(*args, name=self.link(name), cwd=here)
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


if __name__ == "__main__":
    sys.exit(run_parts(CliTest))
