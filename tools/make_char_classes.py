#!/usr/bin/env python3
"""Writes src/text/char_classes_table.inc: the class of every character as Hugging Face's library sees it.

    pip install tokenizers==0.23.* && python tools/make_char_classes.py

Its parts follow different versions of Unicode (8 for punctuation, 9 for marks, 16 for letters and numbers), so the
library itself is asked. The bits are those of CharFlag in src/text/char_class.h.
"""

import pathlib

from tokenizers import Regex, normalizers, pre_tokenizers

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "src" / "text" / "char_classes_table.inc"
OFF = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)


def removes(normalizer):
    return lambda c: normalizer.normalize_str(c) == ""


def drops(pre_tokenizer):
    return lambda c: not pre_tokenizer.pre_tokenize_str(c)


def cuts(pre_tokenizer):
    return lambda c: len(pre_tokenizer.pre_tokenize_str("a" + c + "b")) > 1


def split(pattern):
    return drops(pre_tokenizers.Split(Regex(pattern), "removed"))


CLASSES = {
    1: split(r"\p{L}"),
    2: split(r"\p{N}"),
    4: drops(pre_tokenizers.WhitespaceSplit()),
    8: cuts(pre_tokenizers.Punctuation()),
    16: lambda c: not word_cuts(c),
    32: removes(normalizers.StripAccents()),
    64: removes(normalizers.BertNormalizer(**{**OFF, "strip_accents": True})),
    128: removes(normalizers.BertNormalizer(**{**OFF, "clean_text": True})),
}
word_cuts = cuts(pre_tokenizers.Whitespace())


def main():
    ranges = []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        flags = sum(bit for bit, test in CLASSES.items() if test(chr(code)))
        if flags == 0:
            continue
        if ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == flags:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, flags])
    lines = ["// Written by tools/make_char_classes.py: first character, last character, flags."]
    line = ""
    for first, last, flags in ranges:
        item = f"{{0x{first:X}, 0x{last:X}, {flags}}},"
        if len(line) + len(item) + 1 > 110:
            lines.append(line)
            line = ""
        line += (" " if line else "") + item
    OUTPUT.write_text("\n".join(lines + [line]) + "\n")
    print(f"{len(ranges)} ranges")


if __name__ == "__main__":
    main()
