#!/usr/bin/env python3
"""Writes components.json in tests/data/tokenizers.tar.xz: small tokenizers that between them use every component of
tokenizer.json, and what Hugging Face's library encodes and decodes with them.

    pip install tokenizers==0.23.* && python tools/make_tokenizer_goldens.py

The models are trained here, on the texts below.
"""

import base64
import json
import pathlib
import random
import struct
import tarfile
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "tests" / "data" / "tokenizers.tar.xz"

TEXTS = [
    "",
    " ",
    "   ",
    "a",
    "\n",
    "Hello, world!",
    "  Leading and trailing  ",
    "The quick brown fox jumps over the lazy dog.",
    "the-final--countdown -- begins-",
    "I'm sure they'll say we've DON'T it's I'D 'S 'LL",
    "Tabs\tand\nnew lines\r\n\r\n  then   spaces \u00a0nbsp\u3000ideographic\u2028end",
    "In 1984, 3.14159 and 1,000,000 or \u0661\u0662\u0663 \u00bd \u2167 x\u00b2",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030angstrom \u0130stanbul stra\u00dfe \u1e9e \u01c5",
    "\ufb01ne \u2460 \uff21\uff22\uff23 \u212b \u00b5 \u2126 \uff76\uff9e \u3300 \ufdfa",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u6771\u4eac\u30bf\u30ef\u30fc\u3068\u3072\u3089\u304c\u306a abc \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0393\u03b5\u03b9\u03ac \u03a3\u039f\u03a6\u039f\u03a3 \u0448\u0430\u0439\u0431\u0430",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u061f \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\u2764\ufe0f ok",
    "\u200bzero\u200cwidth\u200d \ufeffbom \x07bell \x7f \x85 \u00ad soft",
    "snake_case camelCase kebab-case a.b.c x=y+z; $5 #tag @me 50% (paren) [bracket] {brace} <tag> ~`^|\\/",
    "<s>hello</s> <s> x [MASK]. <mask>  y<mask>z new_token renew_tokened NEW_TOKEN  <pad><pad>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u2581under\u2581score \u2581 \u2581\u2581x <0x41> <unk> ##ing ## </w>",
    "q\u0323\u0307 q\u0307\u0323 \u0344 \u1100\u1161 \uac00\u11a8 \u0915\u093c \u0958",
    "\ufffd\ufffe \U0010ffff \ue000 \u0378 \u0ff0 end",
    "do not worry , it 's fine . is n't it ? yes ! I 'm sure we 've ' quoted '",
    "Strange\u0085line\u000bbreaks\u000cand\u001cseparators",
    "word " * 20 + "end",
]

CORPUS = TEXTS + [
    "the quick brown fox and the slow green turtle went to the market to buy some bread and butter",
    "she sells sea shells on the sea shore and the shells she sells are sea shells for sure",
    "once upon a time there was a small village where nobody had ever seen the running water of the sea",
    "walking talking singing running jumping thinking nothing something everything",
] * 3

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]"]


def train(model, trainer, pre=None, norm=None):
    tokenizer = Tokenizer(model)
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if norm is not None:
        tokenizer.normalizer = norm
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_tokens():
    return [f"<0x{byte:02X}>" for byte in range(256)]


def make_models():
    quiet = dict(show_progress=False)
    spm = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made = {}
    made["bytes"] = train(models.BPE(), trainers.BpeTrainer(vocab_size=600, initial_alphabet=sorted(
        pre_tokenizers.ByteLevel.alphabet()), special_tokens=["<s>"], **quiet), pre_tokenizers.ByteLevel(False))
    made["bytes_ignore"] = {**made["bytes"], "ignore_merges": True}
    legacy = json.loads(json.dumps(made["bytes"]))
    legacy["merges"] = ["#version: 0.2"] + [" ".join(merge) for merge in legacy["merges"]]
    made["bytes_legacy"] = legacy
    few = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(False)])
    made["bytes_holes"] = train(models.BPE(unk_token="<unk>"), trainers.BpeTrainer(
        vocab_size=300, limit_alphabet=60, special_tokens=["<unk>"], **quiet), few)
    made["fallback"] = train(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True), trainers.BpeTrainer(
        vocab_size=620, limit_alphabet=80, special_tokens=SPECIALS + byte_tokens(), **quiet),
        pre_tokenizers.Metaspace(), None)
    half = json.loads(json.dumps(made["fallback"]))
    for byte in range(0xE5, 0x100):
        half["vocab"][f"<gone {byte}>"] = half["vocab"].pop(f"<0x{byte:02X}>")
    made["fallback_half"] = half
    made["fused"] = train(models.BPE(unk_token="<unk>", fuse_unk=True), trainers.BpeTrainer(
        vocab_size=300, limit_alphabet=50, special_tokens=SPECIALS, **quiet), pre_tokenizers.Metaspace())
    made["unfused"] = {**made["fused"], "fuse_unk": False}
    made["dropping"] = {**made["fused"], "unk_token": None}
    made["suffix"] = train(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer(
        vocab_size=400, limit_alphabet=60, special_tokens=SPECIALS, end_of_word_suffix="</w>", **quiet),
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer())
    made["prefix"] = train(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"), trainers.BpeTrainer(
        vocab_size=400, limit_alphabet=60, special_tokens=SPECIALS, continuing_subword_prefix="##", **quiet),
        pre_tokenizers.Whitespace())
    made["unigram"] = train(models.Unigram(), trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIALS, unk_token="<unk>", **quiet), pre_tokenizers.Metaspace())
    made["unigram_bytes"] = train(models.Unigram(byte_fallback=True), trainers.UnigramTrainer(
        vocab_size=600, special_tokens=SPECIALS + byte_tokens(), unk_token="<unk>", **quiet),
        pre_tokenizers.Metaspace())
    made["unigram_bytes"]["byte_fallback"] = True
    made["unigram_small"] = {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [
        ["<unk>", 0.0], ["a", -1.5], ["b", -1.5], ["e", -2.0], ["t", -2.0], ["h", -2.0], ["the", -3.5], ["th", -4.0],
        ["he", -4.0], ["\u2581", -2.5], ["\u2581the", -4.0], ["aa", -3.0], ["aaa", -4.5], ["o", -2.0], ["\u00e9", -3.0]]}
    made["wordpiece"] = train(models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(
        vocab_size=420, limit_alphabet=60, special_tokens=SPECIALS, **quiet),
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer())
    made["wordpiece_short"] = {**made["wordpiece"], "max_input_chars_per_word": 5}
    made["wordlevel"] = train(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(
        vocab_size=300, special_tokens=SPECIALS, **quiet), pre_tokenizers.Whitespace())
    return made


def charsmap(rules):
    """A precompiled_charsmap with the given replacements; keys share no first byte, so that a chain of units does."""
    pool = b""
    units = {0: 0}
    used = {0}
    trie = {}
    for key, value in rules.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[None] = len(pool)
        pool += value.encode() + b"\0"

    def place(node, at):
        labels = [key for key in node if key is not None]
        base = 1
        while True:
            slots = [base ^ label for label in labels] + ([base] if None in node else [])
            if base != at and not any(slot in used for slot in slots) and (base ^ at) < 1 << 21:
                break
            base += 1
        used.update(slots)
        units[at] = units.get(at, 0) & 0xFF | ((base ^ at) << 10) | (0x100 if None in node else 0)
        if None in node:
            units[base] = 0x80000000 | node[None]
        for label in labels:
            units[base ^ label] = label
            place(node[label], base ^ label)

    place(trie, 0)
    size = (max(units) | 0xFF) + 1
    array = [units.get(i, 0x1FF) for i in range(size)]
    blob = struct.pack("<I", size * 4) + struct.pack(f"<{size}I", *array) + pool
    return base64.b64encode(blob).decode()


CHARSMAP = {"\ufb01": "fi", "\u2460": "1", "\uff21": "A", "e\u0301": "\u00e9", "\u00a0": " ", "\u3000": " ", "\t": " ",
            "\u00ad": "", "\u200b": " ", "A": "a", "\r\n": "\n", "\u3300": "\u30a2\u30d1\u30fc\u30c8", "\U0001f600": ":)"}


def component(item):
    return json.loads(item.__getstate__()) if item is not None else None


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [r"[\r\n]", r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u0370-\u03ff\u1e00-\u1eff]+", r"\s?[!-/:-~\uff01-\uff0f\u2018-\u201f\u3000-\u3002]+",
            r"\s+$", r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"]


def make_configurations():
    """(name, model, normalizer, pre-tokenizer, post-processor, decoder, added tokens)"""
    N, P, D = normalizers, pre_tokenizers, decoders
    made = []

    def add(name, model, norm=None, pre=None, post=None, decoder=None, added=()):
        made.append((name, model, component(norm) if not isinstance(norm, dict) else norm,
                     component(pre) if not isinstance(pre, dict) else pre,
                     component(post) if not isinstance(post, dict) else post,
                     component(decoder) if not isinstance(decoder, dict) else decoder, list(added)))

    # Byte-level BPE, as GPT-2, Llama 3, Qwen 2, GPT-4o and DeepSeek have it.
    split = lambda pattern, behavior="isolated", invert=False: P.Split(Regex(pattern), behavior, invert)  # noqa: E731
    byte_end = P.ByteLevel(add_prefix_space=False, use_regex=False)
    add("gpt2", "bytes", None, P.ByteLevel(False), processors.ByteLevel(), D.ByteLevel())
    add("gpt2 prefix space", "bytes_legacy", None, P.ByteLevel(True), processors.ByteLevel(), D.ByteLevel())
    llama3_post = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])])
    add("llama3", "bytes_ignore", None, P.Sequence([split(LLAMA3), byte_end]), llama3_post, D.ByteLevel())
    add("qwen2", "bytes", N.NFC(), P.Sequence([split(QWEN2), byte_end]), None, D.ByteLevel())
    add("o200k", "bytes", None, P.Sequence([split(O200K), byte_end]), None, D.ByteLevel())
    add("deepseek", "bytes", N.Sequence([]), P.Sequence([split(p) for p in DEEPSEEK] + [P.Digits(True), byte_end]),
        None, D.ByteLevel())
    add("removed inverted", "bytes", None, P.Sequence([split(GPT2, "removed", True), P.ByteLevel(False, use_regex=False)]))
    add("bytes with unknown", "bytes_holes", None, P.ByteLevel(True), None, D.ByteLevel())
    add("byte normalizer", "bytes", N.Sequence([N.NFKC(), N.ByteLevel()]), split(r"\u0120?\w+|\W"), None, D.ByteLevel(),
        [AddedToken("new_token"), AddedToken("<mask>", lstrip=True, normalized=False)])
    # SentencePiece-like BPE.
    llama2 = N.Sequence([N.Prepend("\u2581"), N.Replace(" ", "\u2581")])
    llama2_decoder = D.Sequence([D.Replace("\u2581", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    for model in ("fallback", "fallback_half", "fused", "unfused", "dropping"):
        add(f"llama2 {model}", model, llama2, None, None, llama2_decoder)
    for scheme in ("first", "always", "never"):
        for split_words in (True, False):
            pre = P.Metaspace("\u2581", scheme, split_words)
            add(f"metaspace {scheme} {split_words}", "fallback", None, pre, None, D.Metaspace("\u2581", scheme, split_words),
                [AddedToken("<s>", special=True), AddedToken("<mask>", rstrip=True), AddedToken("NEW_TOKEN", single_word=True)])
            add(f"metaspace {scheme} {split_words} after strip", "fallback",
                N.Sequence([N.Strip(), N.Replace(Regex(" {2,}"), "\u2581")]), pre)
    add("gemma", "fallback", N.Replace(" ", "\u2581"), P.Split(" ", "merged_with_previous"), processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)]),
        D.Sequence([D.Replace("\u2581", " "), D.ByteFallback(), D.Fuse()]))
    add("strip both ends", "fallback", llama2, None, None,
        D.Sequence([D.Fuse(), D.Replace(Regex("[\u2581e]+"), "-"), D.Strip("-", 2, 1)]))
    add("old metaspace", "unigram", None, {"type": "Metaspace", "replacement": "_", "add_prefix_space": True}, None,
        {"type": "Metaspace", "replacement": "_", "add_prefix_space": True})
    # Unigram.
    t5_post = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    for model in ("unigram", "unigram_bytes", "unigram_small"):
        add(f"t5 {model}", model, None, P.Sequence([P.WhitespaceSplit(), P.Metaspace()]), t5_post, D.Metaspace())
    add("charsmap", "unigram", {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": charsmap(CHARSMAP)}, component(N.Replace(Regex(" {2,}"), " "))]},
        P.Metaspace(), t5_post, D.Metaspace())
    add("unigram bytes", "unigram_bytes", N.Sequence([N.Nmt(), N.NFKC(), N.Replace(" ", "\u2581")]), None, None,
        D.Sequence([D.ByteFallback(), D.Metaspace()]))
    add("scripts", "unigram", None, P.Sequence([P.UnicodeScripts(), P.Metaspace("\u2581", "never")]), None, D.Fuse())
    # WordPiece and WordLevel.
    bert = processors.BertProcessing(("[SEP]", 5), ("[CLS]", 4))
    add("bert", "wordpiece", N.BertNormalizer(), P.BertPreTokenizer(), bert, D.WordPiece())
    add("bert cased", "wordpiece", N.BertNormalizer(lowercase=False, strip_accents=None), P.BertPreTokenizer(), bert,
        D.WordPiece(cleanup=False))
    add("bert accents", "wordpiece", N.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True,
                                                      lowercase=False), P.BertPreTokenizer(), bert, D.WordPiece("##", True))
    add("bert short", "wordpiece_short", N.Sequence([N.NFD(), N.Lowercase(), N.StripAccents()]), P.Whitespace(),
        processors.RobertaProcessing(("</s>", 2), ("<s>", 1)), D.WordPiece())
    add("word level", "wordlevel", N.NFKD(), P.Whitespace(), None, None)
    add("word level ctc", "wordlevel", N.Lowercase(), P.CharDelimiterSplit(" "), None, D.CTC("<pad>", "|", True),
        [AddedToken("hel"), AddedToken("world", normalized=True), AddedToken("  ", normalized=False)])
    add("word level ctc raw", "wordlevel", None, P.WhitespaceSplit(), None, D.CTC("e", "h", False))
    add("bpe suffix", "suffix", N.BertNormalizer(), P.BertPreTokenizer(), None, D.BPEDecoder("</w>"))
    add("bpe prefix", "prefix", N.NFC(), P.Whitespace(), None, D.WordPiece("##", False))
    # Every behavior of splitting.
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        add(f"split {behavior}", "fused", None, P.Split("-", behavior), None, D.Fuse())
        add(f"split regex {behavior}", "fused", None, P.Split(Regex(r"\s+|[[:punct:]]|\d"), behavior), None, D.Fuse())
        add(f"split inverted {behavior}", "unfused", None, P.Split(Regex(r"\w+"), behavior, True), None, D.Fuse())
        add(f"punctuation {behavior}", "unfused", None, P.Punctuation(behavior), None, D.Fuse())
    add("digits", "unfused", None, P.Sequence([P.Digits(False), P.FixedLength(4)]), None, D.Fuse())
    add("single digits", "unfused", None, P.Sequence([P.Digits(True), P.Whitespace()]), None, D.Fuse())
    # Dialect of regular expressions.
    for pattern in (r"\h+", r"\p{Han}+|\p{Hiragana}", r"(?<=[a-z])(?=[A-Z])", r"\b\w", r"[^\r\n\p{L}\p{N}]?+\p{L}++",
                    r"\p{N}{1,3}+", r"(?m:a.b)|(?i)THE", r"[\u4e00-\u9fff]", r"\p{^L}+", r"[[:alpha:]]+|[[:^space:]]", r"^\S+|\S+$",
                    r"\p{Letter}+|\p{Punctuation}", r"\S*", r"(\w)\1", r"[\w\-']+|[^\s\w]", r"\B-|a{,2}x"):
        add(f"regex {pattern}", "unfused", None, split(pattern), None, D.Fuse())
    # Added tokens with all flags, found before and after normalization.
    for norm in (None, N.Lowercase(), llama2, N.Sequence([N.Strip(True, False), N.NFKC()])):
        for flags in ({}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}):
            for normalized in (True, False):
                name = f"added {type(norm).__name__ if norm else ''} {' '.join(flags)} {normalized}"
                tokens = [AddedToken(text, normalized=normalized, **flags) for text in
                          ("new_token", "new", "<mask>", "[MASK]", "\u00e9", " over", "fox ", "\u4e16")]
                add(name, "fused", norm, P.Metaspace("\u2581", "first") if norm is not llama2 else None, None, D.Metaspace(),
                    tokens + [AddedToken("<s>", special=True, normalized=normalized, **flags), AddedToken("</s>", special=True)])
    return made


def build(model, configuration):
    name, _, norm, pre, post, decoder, added = configuration
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": norm,
                "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}
    tokenizer = Tokenizer.from_str(json.dumps(document))
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    document["added_tokens"] = json.loads(tokenizer.to_str())["added_tokens"]
    return Tokenizer.from_str(json.dumps(document)), document


def decode(tokenizer, ids, skip):
    try:
        return tokenizer.decode(ids, skip_special_tokens=skip)
    except BaseException:  # the library panics on some input (BPEDecoder and Strip on nothing)
        return None


def main():
    made = make_models()
    generator = random.Random(7)
    cases = []
    for configuration in make_configurations():
        tokenizer, document = build(made[configuration[1]], configuration)
        document["model"] = configuration[1]
        results = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            special = tokenizer.encode(text, add_special_tokens=True).ids
            item = {"ids": ids, "text": decode(tokenizer, ids, False)}
            if special != ids:
                item["special"] = special
            if decode(tokenizer, special, True) != item["text"]:
                item["skipped"] = decode(tokenizer, special, True)
            results.append(item)
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        decoded = []
        for _ in range(12):
            ids = [generator.randrange(size) for _ in range(generator.choice((1, 2, 5, 20)))]
            decoded.append({"ids": ids, "text": decode(tokenizer, ids, False), "skipped": decode(tokenizer, ids, True)})
        cases.append({"name": configuration[0], "file": document, "encoded": results, "decoded": decoded})
    data = {"texts": TEXTS, "models": made, "cases": cases}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder)
        output = pathlib.Path(folder) / "tokenizers" / "components.json"
        output.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            archive.add(output.parent, "tokenizers")
        print(f"{ARCHIVE.relative_to(ROOT)}: {len(cases)} tokenizers, {output.stat().st_size / 1e6:.2f} MB unpacked")


if __name__ == "__main__":
    main()
