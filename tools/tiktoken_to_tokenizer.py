#!/usr/bin/env python3
"""Writes a tokenizer.json from a tiktoken vocabulary ("base64 rank" lines), such as Qwen's, to measure with:
  tools/tiktoken_to_tokenizer.py qwen.tiktoken tokenizer.json
"""
import base64
import json
import sys

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


def byte_symbols():
    """GPT-2's printable character for each byte."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def halves(token, ranks):
    """The two tokens that were merged into this one."""
    limit = ranks[token]
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
        rank, i = min(pairs)
        if rank >= limit:
            sys.exit(f"{token!r} is not a merge of earlier tokens")
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts


def main():
    source, target = sys.argv[1:]
    ranks = {}
    with open(source, "rb") as file:
        for line in file:
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token)] = int(rank)
    symbols = byte_symbols()
    text = lambda token: "".join(symbols[byte] for byte in token)
    merges = [" ".join(map(text, halves(token, ranks))) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0",
        "added_tokens": [{"id": len(ranks) + i, "content": name, **flags} for i, name in enumerate(SPECIAL)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {text(token): rank for token, rank in ranks.items()}, "merges": merges},
    }
    with open(target, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
