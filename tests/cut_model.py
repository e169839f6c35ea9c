"""The embedded model cut to one layer, and what tests of the command line do with it."""
import json
import shutil

from cli_support import MODEL, Checks, read_safetensors, write_safetensors

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


class CutModelTest:
    """Has `parts()`, for run_parts()."""

    def __init__(self, program, work):
        self.program = program
        self.work = work
        self.checks = Checks()
        self.model = cut_model(work / "model")
        self.onnx = work / "onnx"
        self.engine = work / "engine"

    def close(self):
        pass

    def make_engine(self):
        self.program("export", "--model_dir", self.model, "--output_dir", self.onnx)
        self.program("build", "--onnxDir", self.onnx, "--engineDir", self.engine, "--maxBatchSize", 2, "--maxInputLen", 64,
                     "--maxKVCacheCapacity", 128, "--optLevel", 0)

    def link(self, name):
        """The program under one of its other names."""
        links = self.work / "bin"
        links.mkdir(exist_ok=True)
        if not (links / name).exists():
            (links / name).symlink_to(self.program.path)
        return links / name

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
