"""models/edge-tiny-16m in plain numpy, float64, straight from its safetensors: what the engine's numbers are compared with.

Qwen3 (arXiv:2505.09388): RMSNorm before each block and on the heads of q and k, rotary positions, grouped-query attention, SwiGLU.
"""
import json

import numpy as np

from cli_support import from_bf16, read_safetensors


def read_weights(path):
    return {name: (from_bf16(array) if dtype == "BF16" else array).astype(np.float64) for name, (dtype, array) in read_safetensors(path).items()}


class PlainModel:
    def __init__(self, directory, adapter=None):
        self.config = json.loads((directory / "config.json").read_text())
        self.weights = read_weights(directory / "model.safetensors")
        if adapter:
            settings = json.loads((adapter / "adapter_config.json").read_text())
            matrices = read_weights(adapter / "adapter_model.safetensors")
            for name in matrices:
                if ".lora_A." in name:
                    change = matrices[name.replace(".lora_A.", ".lora_B.")] @ matrices[name]
                    self.weights[name.removeprefix("base_model.model.").replace(".lora_A", "")] += change * settings["lora_alpha"] / settings["r"]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * self.weights[name + ".weight"]

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T

    def rotate(self, x):
        """x [heads, tokens, head_dim]: its halves are the parts of complex numbers, turned by position * theta^(-2i/d)."""
        half = x.shape[-1] // 2
        angles = np.arange(x.shape[1])[:, None] * self.config["rope_parameters"]["rope_theta"] ** (-np.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

    def attention(self, x, name):
        def heads(part, count):
            return self.linear(x, f"{name}.{part}_proj").reshape(len(x), count, -1).swapaxes(0, 1)
        count, kv_count = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        q = self.rotate(self.norm(heads("q", count), name + ".q_norm"))
        k = self.rotate(self.norm(heads("k", kv_count), name + ".k_norm")).repeat(count // kv_count, 0)
        v = heads("v", kv_count).repeat(count // kv_count, 0)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + np.triu(np.full((len(x), len(x)), -np.inf), 1)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return self.linear((shares @ v).swapaxes(0, 1).reshape(len(x), -1), name + ".o_proj")

    def mlp(self, x, name):
        gate = self.linear(x, name + ".gate_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, name + ".up_proj"), name + ".down_proj")

    def embedding(self, ids):
        """The final hidden state of the last token, of length 1."""
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            x = x + self.attention(self.norm(x, name + ".input_layernorm"), name + ".self_attn")
            x = x + self.mlp(self.norm(x, name + ".post_attention_layernorm"), name + ".mlp")
        last = self.norm(x[-1], "model.norm")
        return last / np.linalg.norm(last)
