"""Published formats of quantized checkpoints, written here independently of the reader in src/models.

Every scheme quantizes the embedded model twice: as the format stores it, and as the float weights those stored numbers
mean. Both must give the same log-probabilities on the reference backend; the CPU's greedy tokens are theirs up to ties.
Prints "N passed, N failed". Usage: prequantized_test.py build/edgewise
"""
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from cli_support import MODEL, Checks, from_bf16, program_from_arguments, read_safetensors, to_bf16, write_safetensors

PROMPTS = ["What is machine learning in one sentence?", "Tell me about Paris", "What is 2+2?"]
NEW_TOKENS = 8
TOLERANCE = 1e-3
# The CPU may choose otherwise between tokens this close in log-probability. Its kernels for integer weights round
# activations to 8 bits in groups of 32. Measured here on 2026-11-21: most positions move by less than 0.01, the few
# where the model hesitates by up to 0.7, and one greedy choice of 18 formats turned, over a gap of 0.22.
TIE = {"integer": 0.25, "float": 0.1}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # column in each nibble, the lowest first
FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def fp8_values():
    """The value of each of the 256 codes of float8_e4m3fn."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0**(exponent - 7.0))
    size[(codes & 127) == 127] = np.nan
    return np.where(codes < 128, size, -size).astype(np.float32)


FP8_VALUES = fp8_values()


def nearest(values, grid):
    """Index of the nearest entry of an ascending grid."""
    right = np.clip(np.searchsorted(grid, values), 1, len(grid) - 1)
    return np.where(values - grid[right - 1] <= grid[right] - values, right - 1, right)


def to_fp8(values):
    """Codes of the nearest float8_e4m3fn values."""
    size = nearest(np.minimum(np.abs(values), 448), FP8_VALUES[:127])
    return (size + np.where(np.signbit(values), 128, 0)).astype(np.uint8)


def pack(codes, bits, axis, order=None):
    """Unsigned codes to int32 words, 32 / bits neighbours along an axis to a word, the first lowest."""
    codes = np.moveaxis(np.asarray(codes), axis, -1)
    per = 32 // bits
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % per)])
    groups = codes.reshape(*codes.shape[:-1], -1, per).astype(np.uint32)
    words = np.zeros(groups.shape[:-1], np.uint32)
    for slot in range(per):
        words |= groups[..., order[slot] if order else slot] << np.uint32(slot * bits)
    return np.moveaxis(words.view(np.int32), -1, axis)


class Integers:
    """Round to nearest with a scale and a zero for each group of columns: codes [n, k], scale and zero [n, groups]."""

    def __init__(self, weight, bits, group_of, symmetric, scale_dtype):
        n, _ = weight.shape
        groups = group_of.max() + 1
        top = 2**bits - 1
        self.codes = np.empty(weight.shape, np.int64)
        scale = np.empty((n, groups), np.float32)
        self.zero = np.empty((n, groups), np.int64)
        for g in range(groups):
            part = weight[:, group_of == g]
            if symmetric:
                s = np.abs(part).max(1) / (top // 2)
                zero = np.full(n, 2**(bits - 1))
            else:
                low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
                s = (high - low) / top
                zero = np.clip(np.rint(-low / s), 1, top)  # GPTQ's first format has no word for 0
            scale[:, g], self.zero[:, g] = s, zero
        if scale_dtype == "F16":
            self.stored_scale = scale.astype(np.float16)
            scale = self.stored_scale.astype(np.float32)
        else:
            self.stored_scale = to_bf16(scale)
            scale = from_bf16(self.stored_scale)
        per_column, zero = scale[:, group_of], self.zero[:, group_of]
        self.codes = np.clip(np.rint(weight / per_column) + zero, 0, top).astype(np.int64)
        self.value = (self.codes - zero) * per_column


def grouped(k, size):
    return np.arange(k) // size


def shuffled(k, size, seed):
    return np.random.default_rng(seed).permutation(grouped(k, size))


# Each scheme: (weight) -> ({suffix: (dtype, array)}, the float weight they mean).

def awq(weight):
    k = weight.shape[1]
    q = Integers(weight, 4, grouped(k, 128), False, "F16")
    return {".qweight": ("I32", pack(q.codes.T, 4, 1, AWQ_ORDER)), ".qzeros": ("I32", pack(q.zero.T, 4, 1, AWQ_ORDER)),
            ".scales": ("F16", q.stored_scale.T)}, q.value


def gptq(bits, symmetric, act_order, version):
    def scheme(weight):
        k = weight.shape[1]
        group_of = shuffled(k, 128, k + weight.shape[0]) if act_order else grouped(k, 128)
        q = Integers(weight, bits, group_of, symmetric, "F16")
        zero = q.zero - (1 if version == "gptq" else 0)
        return {".qweight": ("I32", pack(q.codes.T, bits, 0)), ".qzeros": ("I32", pack(zero.T, bits, 1)),
                ".scales": ("F16", q.stored_scale.T), ".g_idx": ("I32", group_of)}, q.value
    return scheme


def fp8(weight, scale, rows, columns, suffix, dtype):
    """`scale` is a grid of blocks of rows x columns."""
    scale = scale.astype(np.float32)
    if dtype == "BF16":
        scale = from_bf16(to_bf16(scale))
    n, k = weight.shape
    full = np.repeat(np.repeat(scale, rows, 0), columns, 1)[:n, :k]
    codes = to_fp8(weight / full)
    return codes, FP8_VALUES[codes] * full, scale


def fp8_tensor(weight):
    codes, value, scale = fp8(weight, np.abs(weight).max().reshape(1, 1) / 448, *weight.shape, ".weight_scale", "F32")
    return {".weight": ("F8_E4M3", codes), ".weight_scale": ("F32", scale.reshape(())),
            ".input_scale": ("F32", np.float32(0.5).reshape(()))}, value


def fp8_channel(weight):
    codes, value, scale = fp8(weight, np.abs(weight).max(1, keepdims=True) / 448, 1, weight.shape[1], ".weight_scale", "BF16")
    return {".weight": ("F8_E4M3", codes), ".weight_scale": ("BF16", to_bf16(scale))}, value


def fp8_block(size, suffix):
    def scheme(weight):
        n, k = weight.shape
        padded = np.pad(np.abs(weight), [(0, -n % size[0]), (0, -k % size[1])])
        grid = padded.reshape(padded.shape[0] // size[0], size[0], -1, size[1]).max((1, 3)) / 448
        codes, value, scale = fp8(weight, grid, *size, suffix, "F32")
        return {".weight": ("F8_E4M3", codes), suffix: ("F32", scale)}, value
    return scheme


def packed(bits, group, symmetric, act_order=False):
    def scheme(weight):
        n, k = weight.shape
        size = group or k
        group_of = shuffled(k, size, k + n) if act_order else grouped(k, size)
        q = Integers(weight, bits, group_of, symmetric, "BF16")
        tensors = {".weight_packed": ("I32", pack(q.codes, bits, 1)), ".weight_scale": ("BF16", q.stored_scale),
                   ".weight_shape": ("I64", np.array([n, k]))}
        if not symmetric:
            tensors[".weight_zero_point"] = ("I32", pack(q.zero, bits, 0))
        if act_order:
            tensors[".weight_g_idx"] = ("I32", group_of)
        return tensors, q.value
    return scheme


def int8(symmetric):
    def scheme(weight):
        q = Integers(weight, 8, grouped(weight.shape[1], weight.shape[1]), symmetric, "BF16")
        tensors = {".weight": ("I8", q.codes - 128), ".weight_scale": ("BF16", q.stored_scale)}
        if not symmetric:
            tensors[".weight_zero_point"] = ("I8", q.zero - 128)
        return tensors, q.value
    return scheme


def nvfp4(weight):
    n, k = weight.shape
    blocks = weight.reshape(n, k // 16, 16)
    divisor = np.float32(448 * 6 / np.abs(weight).max())
    scale = to_fp8(np.abs(blocks).max(2) / 6 * divisor)
    full = (FP8_VALUES[scale] / divisor)[:, :, None]
    ratio = np.divide(blocks, full, out=np.zeros_like(blocks), where=full != 0)
    size = nearest(np.minimum(np.abs(ratio), 6), FP4_VALUES)
    codes = (size | np.where(np.signbit(ratio), 8, 0)).reshape(n, k).astype(np.uint8)
    value = (np.where(np.signbit(ratio), -1, 1) * FP4_VALUES[size] * full).reshape(n, k)
    return {".weight_packed": ("U8", codes[:, 0::2] | codes[:, 1::2] << 4), ".weight_scale": ("F8_E4M3", scale),
            ".weight_global_scale": ("F32", divisor.reshape(1))}, value


def gptq_config(bits, symmetric, act_order, version):
    return {"bits": bits, "group_size": 128, "damp_percent": 0.01, "desc_act": act_order, "static_groups": False,
            "sym": symmetric, "true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model",
            "quant_method": "gptq", "checkpoint_format": version}


def compressed_config(layout, kind="int", bits=4, strategy="group", group=None, symmetric=True, actorder=None, block=None,
                      inputs=None):
    weights = {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group,
               "block_structure": block, "dynamic": False, "actorder": actorder, "observer": "minmax", "observer_kwargs": {}}
    return {"quant_method": "compressed-tensors", "format": layout, "global_compression_ratio": 1.8, "ignore": ["lm_head"],
            "kv_cache_scheme": None, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs,
                                          "output_activations": None}}}


FP8_INPUT = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True, "group_size": None,
             "block_structure": None, "actorder": None, "observer": None, "observer_kwargs": {}}
AWQ_CONFIG = {"bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq", "version": "gemm",
              "zero_point": True}
FP8_BLOCK_CONFIG = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}

SCHEMES = {
    "awq-gemm": (AWQ_CONFIG, awq),
    "gptq-4bit": (gptq_config(4, True, False, "gptq"), gptq(4, True, False, "gptq")),
    "gptq-4bit-asym-actorder": (gptq_config(4, False, True, "gptq"), gptq(4, False, True, "gptq")),
    "gptq-8bit": (gptq_config(8, True, False, "gptq"), gptq(8, True, False, "gptq")),
    "gptq-v2-4bit-asym": (gptq_config(4, False, False, "gptq_v2"), gptq(4, False, False, "gptq_v2")),
    "gptq-v2-8bit-asym-actorder": (gptq_config(8, False, True, "gptq_v2"), gptq(8, False, True, "gptq_v2")),
    "fp8-tensor": ({"quant_method": "fp8", "activation_scheme": "static"}, fp8_tensor),
    "fp8-channel": (compressed_config("float-quantized", "float", 8, "channel", inputs=FP8_INPUT), fp8_channel),
    "fp8-block": (FP8_BLOCK_CONFIG, fp8_block([128, 128], ".weight_scale_inv")),
    "fp8-block-64x32": (FP8_BLOCK_CONFIG | {"weight_block_size": [64, 32]}, fp8_block([64, 32], ".weight_scale_inv")),
    "compressed-fp8-block": (compressed_config("float-quantized", "float", 8, "block", block=[128, 128], inputs=FP8_INPUT),
                             fp8_block([128, 128], ".weight_scale")),
    "compressed-int4-group": (compressed_config("pack-quantized", group=128), packed(4, 128, True)),
    "compressed-int4-asym": (compressed_config("pack-quantized", group=32, symmetric=False), packed(4, 32, False)),
    "compressed-int4-actorder": (compressed_config("pack-quantized", group=128, actorder="group"), packed(4, 128, True, True)),
    "compressed-int8-packed": (compressed_config("pack-quantized", bits=8, strategy="channel"), packed(8, None, True)),
    "compressed-int8": (compressed_config("int-quantized", bits=8, strategy="channel"), int8(True)),
    "compressed-int8-asym": (compressed_config("int-quantized", bits=8, strategy="channel", symmetric=False), int8(False)),
    "compressed-nvfp4": (compressed_config("nvfp4-pack-quantized", "float", 4, "tensor_group", 16), nvfp4),
}


def is_linear(name):
    return name.endswith("_proj.weight")


def write_checkpoints(scheme, stored, dequantized, model=MODEL):
    config, quantizer = scheme
    original = json.loads((model / "config.json").read_text())
    quantized_tensors, float_tensors = {}, {}
    for name, (dtype, array) in read_safetensors(model / "model.safetensors").items():
        if not is_linear(name):
            quantized_tensors[name] = float_tensors[name] = (dtype, array)
            continue
        tensors, value = quantizer(from_bf16(array))
        for suffix, tensor in tensors.items():
            quantized_tensors[name.removesuffix(".weight") + suffix] = tensor
        float_tensors[name] = ("F32", value)
    for directory, tensors, extra in [(stored, quantized_tensors, {"quantization_config": config}), (dequantized, float_tensors, {})]:
        directory.mkdir()
        for companion in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(model / companion, directory)
        (directory / "config.json").write_text(json.dumps(original | extra))
        write_safetensors(directory / "model.safetensors", tensors)


def answers(program, directory, device, work):
    """The answers of an engine made from a checkpoint; a quantized one's ONNX keeps its codes."""
    onnx = work / f"{directory.name}-onnx"
    if not onnx.exists():
        program("export", "--model_dir", directory, "--output_dir", onnx, "--dtype", "fp32")
    engine = work / f"{directory.name}-{device}"
    program("build", "--onnxDir", onnx, "--engineDir", engine, "--device", device, "--kvDtype", "fp32", "--optLevel", 0,
            "--maxInputLen", 64, "--maxKVCacheCapacity", 128)
    document = {"temperature": 0.0, "max_generate_length": NEW_TOKENS, "ignore_eos": True, "num_logprobs": 20,
                "requests": [{"messages": [{"role": "user", "content": p}]} for p in PROMPTS]}
    responses = program.infer(engine, document, work)
    for response in responses:
        if "error" in response:
            raise RuntimeError(response["error"])
    shutil.rmtree(engine)
    return responses


def largest_difference(expected, found):
    """Of the log-probabilities of tokens that are among the 20 best of both."""
    largest = 0.0
    for a, b in zip(expected, found):
        for x, y in zip(a["logprobs"], b["logprobs"]):
            best = {t["token"]: t["logprob"] for t in y["top"]}
            common = [abs(t["logprob"] - best[t["token"]]) for t in x["top"] if t["token"] in best]
            if len(common) < 15:
                return float("inf")
            largest = max(largest, *common)
    return largest


def same_but_for_ties(expected, found, tie):
    """Greedy tokens are equal, or differ first between two that are about as likely."""
    for a, b in zip(expected, found):
        for token, x in zip(b["output_ids"], a["logprobs"]):
            if token == x["token"]:
                continue
            likely = {t["token"]: t["logprob"] for t in x["top"]}
            if token not in likely or x["logprob"] - likely[token] > tie:
                return False
            break
    return True


def check_adapter_warning(checks, program):
    """AutoAWQ folds factors away that adapters of the float model need; GPTQ has none, and ours stand in a file."""
    for name, warns in [("awq-gemm", True), ("gptq-4bit", False), ("awq-gemm", False)]:
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            write_checkpoints(SCHEMES[name], work / "stored", work / "dequantized")
            if name == "awq-gemm" and not warns:
                write_safetensors(work / "stored" / "channel_scales.st", {})
            result = program.run("run", work / "stored", "Hello", "--lora", f"{MODEL}-lora-upper", "--max_tokens", 1, "--cache_dir", work, "--optLevel", 0)
            checks.that(result.returncode == 0 and ("AutoAWQ" in result.stderr) == warns, f"{name}, warns {warns}: {result.stderr}")


def main():
    program = program_from_arguments()
    checks = Checks()
    with checks.part("adapters"):
        check_adapter_warning(checks, program)
    for name, scheme in SCHEMES.items():
        with checks.part(name), tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            stored, dequantized = work / "stored", work / "dequantized"
            write_checkpoints(scheme, stored, dequantized)
            expected = answers(program, dequantized, "reference", work)
            found = answers(program, stored, "reference", work)
            tokens = [r["output_ids"] for r in expected]
            difference = largest_difference(expected, found)
            checks.that(difference <= TOLERANCE and tokens == [r["output_ids"] for r in found],
                        f"{name}: log-probabilities differ by {difference:.2e} from those of the dequantized weights")
            on_cpu = answers(program, stored, "cpu", work)
            checks.that(same_but_for_ties(found, on_cpu, TIE["float" if "fp" in name else "integer"]),
                        f"{name}: greedy tokens on the CPU {[r['output_ids'] for r in on_cpu]}, expected {tokens}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
