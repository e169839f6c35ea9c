"""Exports against onnx.checker and ONNX Runtime: the same greedy tokens as Edgewise, prefill and decode.

Run by tests/run_onnx_runtime.sh in a virtual environment a version of ONNX Runtime; prints "N passed, N failed".
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "edge-tiny-16m"
HEAD = ROOT / "models" / "edge-tiny-16m-eagle3"
PROMPTS = ["What is machine learning in one sentence?", "Tell me about Paris", "What is 2+2?"]
NEW_TOKENS = 24


def edgewise(*args, stdin=None):
    result = subprocess.run([sys.argv[1], *map(str, args)], input=stdin, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"edgewise {args[0]} failed: {result.stderr}")
    return result.stdout


def check_standard_operators(directory, file="model.onnx"):
    onnx.checker.check_model(str(directory / file))
    model = onnx.load(str(directory / file), load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)], "only the default domain, opset 23"
    assert model.ir_version == 10
    assert all(node.domain == "" for node in model.graph.node)


class Runtime:
    """Greedy decoding with ONNX Runtime, one token a step after the prefill."""

    def __init__(self, directory):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.past_inputs = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values")]

    def generate(self, prompt):
        past = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in self.past_inputs}
        ids, position, result = prompt, 0, []
        names = [o.name for o in self.session.get_outputs()]
        while len(result) < NEW_TOKENS:
            feed = {"input_ids": np.array([ids], np.int64), "position_ids": np.arange(position, position + len(ids))[None]}
            out = dict(zip(names, self.session.run(None, feed | past)))
            position += len(ids)
            past = {name: out[name.replace("past_key_values", "present")] for name in past}
            ids = [int(out["logits"][0, -1].argmax())]
            result += ids
        return result


def engine_tokens(directory, work, prompts):
    engine = work / (directory.name + "-engine")
    edgewise("build", "--onnxDir", directory, "--engineDir", engine, "--optLevel", 0)
    requests = {
        "temperature": 0.0,
        "max_generate_length": NEW_TOKENS,
        "apply_chat_template": True,
        "ignore_eos": True,
        "requests": [{"messages": [{"role": "user", "content": p}]} for p in prompts],
    }
    (work / "in.json").write_text(json.dumps(requests))
    edgewise("infer", "--engineDir", engine, "--inputFile", work / "in.json", "--outputFile", work / "out.json")
    return [r["output_ids"] for r in json.loads((work / "out.json").read_text())["responses"]]


def compare(name, directory, work, prompt_ids):
    check_standard_operators(directory)
    runtime = Runtime(directory)
    for prompt, ids, expected in zip(PROMPTS, prompt_ids, engine_tokens(directory, work, PROMPTS)):
        found = runtime.generate(ids)
        assert found == expected, f"{name}: {prompt!r}: ONNX Runtime {found}, Edgewise {expected}"


def check_draft_head(work, prompt_ids):
    """Base and EAGLE-3 head in ONNX Runtime, by their files alone: the head guesses what the base says next."""
    directory = work / "eagle-onnx"
    edgewise("export", "--model_dir", MODEL, "--draft_model_dir", HEAD, "--output_dir", directory, "--dtype", "fp32")
    check_standard_operators(directory, "draft.onnx")
    d2t = np.frombuffer((directory / "draft_vocabulary.safetensors").read_bytes()[-8 * 2048:], np.int64)
    sessions = [onnxruntime.InferenceSession(str(directory / f), providers=["CPUExecutionProvider"]) for f in ["model.onnx", "draft.onnx"]]

    def run(session, ids, **given):
        feed = {"input_ids": np.array([ids], np.int64), "position_ids": np.arange(len(ids))[None]}
        for i in session.get_inputs():
            if i.name.startswith("past_key_values"):
                feed[i.name] = np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
            elif i.name not in feed:
                feed[i.name] = given.get(i.name, np.zeros((1, len(ids), 384), np.float32))
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed)))

    right = total = 0
    for ids, answer in zip(prompt_ids, engine_tokens(directory, work, PROMPTS)):
        tokens = ids + answer
        base = run(sessions[0], tokens)
        hidden = {name: base[name] for name in ["hidden.low", "hidden.mid", "hidden.high"]}
        features = run(sessions[1], tokens, **hidden)["fc"]
        guesses = run(sessions[1], tokens[1:], hidden_states=features[:, :-1])["logits"][0].argmax(-1)
        for position in range(len(ids) - 1, len(tokens) - 2):
            right += guesses[position] + d2t[guesses[position]] == tokens[position + 2]
            total += 1
    assert right > 0.7 * total, f"the draft head guessed {right} of {total} tokens"


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        prompt_ids = []
        for prompt in PROMPTS:
            inputs = {"messages": [{"role": "user", "content": prompt}], "add_generation_prompt": True}
            text = edgewise("template", MODEL, stdin=json.dumps(inputs))
            prompt_ids.append([int(i) for i in edgewise("tokenize", MODEL, "--no_special", stdin=text + "\n").split()])
        for name in ["fp32", "int8", "int4_awq"]:
            source = MODEL
            if name != "fp32":
                source = work / name
                edgewise("quantize", "--model_dir", MODEL, "--output_dir", source, "--quantization", name,
                         "--group_size", 32, "--calib_size", 8)
            directory = work / f"{name}-onnx"
            edgewise("export", "--model_dir", source, "--output_dir", directory, "--dtype", "fp32")
            try:
                compare(name, directory, work, prompt_ids)
                passed += 1
                print(f"ok    {name}: ONNX Runtime {onnxruntime.__version__} gives the same tokens")
            except (AssertionError, RuntimeError) as error:
                failed += 1
                print(f"FAIL  {error}")
        try:
            check_draft_head(work, prompt_ids)
            passed += 1
        except (AssertionError, RuntimeError) as error:
            failed += 1
            print(f"FAIL  draft head: {error}")
        for family in sorted((ROOT / "tests/data/checkpoints").iterdir()):
            directory = work / family.name
            try:
                edgewise("export", "--model_dir", family, "--output_dir", directory, "--dtype", "fp32")
                check_standard_operators(directory)
                passed += 1
            except Exception as error:  # the checker's own exception types differ between versions
                failed += 1
                print(f"FAIL  {family.name}: {error}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
