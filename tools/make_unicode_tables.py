#!/usr/bin/env python3
"""Writes src/text/jinja/unicode_tables.h: what Python's str methods know beyond general categories."""
import pathlib
import sys
import unicodedata

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def ranges(predicate):
    found, start, last = [], None, None
    for c in CODE_POINTS:
        if predicate(chr(c)):
            start = c if start is None else start
            last = c
        elif start is not None:
            found.append((start, last))
            start = None
    return found


def category(c):
    return unicodedata.category(c)


def range_table(name, comment, predicate):
    rows = ", ".join("{0x%X, 0x%X}" % pair for pair in ranges(predicate))
    return f"// {comment}\ninline constexpr CodePointRange {name}[] = {{{rows}}};\n"


def mapping_table(name, comment, method):
    rows = []
    for c in CODE_POINTS:
        text = getattr(chr(c), method)()
        if len(text) > 1:
            padded = [ord(x) for x in text] + [0] * (3 - len(text))
            rows.append("{0x%X, {0x%X, 0x%X, 0x%X}}" % (c, *padded))
    return f"// {comment}\ninline constexpr CodePointMapping {name}[] = {{{', '.join(rows)}}};\n"


def main():
    parts = [
        "// Written by tools/make_unicode_tables.py from Python's str methods; do not edit.\n"
        "#pragma once\n\n#include <cstdint>\n\nnamespace edgewise::jinja {\n\n"
        "struct CodePointRange {\n  uint32_t first;\n  uint32_t last;\n};\n"
        "struct CodePointMapping {\n  uint32_t from;\n  uint32_t to[3];  // padded with zeros\n};\n\n"
        "// clang-format off\n",
        range_table("kDigitsBeyondNd", "isdigit() outside category Nd.",
                    lambda c: c.isdigit() and category(c) != "Nd"),
        range_table("kNumericBeyondN", "isnumeric() outside categories N*.",
                    lambda c: c.isnumeric() and category(c)[0] != "N"),
        range_table("kLowercaseBeyondLl", "islower() outside category Ll.",
                    lambda c: c.islower() and category(c) != "Ll"),
        range_table("kUppercaseBeyondLu", "isupper() outside category Lu.",
                    lambda c: c.isupper() and category(c) != "Lu"),
        range_table("kSpaces", "isspace().", str.isspace),
        mapping_table("kUpperToMany", "upper() with more than one code point.", "upper"),
        mapping_table("kTitleToMany", "title() with more than one code point.", "title"),
        mapping_table("kFoldToMany", "casefold() with more than one code point.", "casefold"),
        "// clang-format on\n\n}  // namespace edgewise::jinja\n",
    ]
    out = pathlib.Path(__file__).parent.parent / "src/text/jinja/unicode_tables.h"
    out.write_text("".join(parts))


if __name__ == "__main__":
    sys.exit(main())
