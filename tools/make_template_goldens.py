#!/usr/bin/env python3
"""Writes tests/data/template_cases.json: small templates and what jinja2, set up as transformers does it, makes of them.

Each case is [template, rendered], or [template, null, exception] where jinja2 raises. Needs jinja2.
"""
import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment


class GenerationTag(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime(2026, 7, 26).strftime(form)
    return env


DATA = {
    "n": 7, "z": 0, "neg": -3, "f": 2.5, "t": True, "no": False, "none_value": None, "s": "Hello World",
    "empty": "", "uni": "Straße Ελλάς ǆ 你好 😀", "html": "<a href=\"x\">&'</a>", "lines": "one\ntwo\r\nthree\n\nfour",
    "spaces": "  \t pad \n", "csv": "a,b,,c", "nums": [3, 1, 2], "words": ["banana", "Apple", "cherry", "apple"],
    "mixed": [1, "a", None, 2.0, True, [1], {"k": 1}], "nested": [[1, 2], [3, [4, 5]]], "e_list": [], "e_dict": {},
    "d": {"b": 1, "a": 2, "C": 3}, "deep": {"x": {"y": [{"z": "found"}]}, "items": "shadow", "key with space": 1},
    "users": [{"name": "Bob", "age": 30, "addr": {"city": "Rome"}}, {"name": "alice", "age": 25, "addr": {"city": "Oslo"}},
              {"name": "Carl", "age": 30}, {"name": "dora", "age": None, "addr": {"city": "rome"}}],
    "floats": [0.1, 1e16, 1e-5, 123456789.123, -0.0, 1e300, 3.0, 1e15, 0.0001, 2.675],
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "},
                 {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"q": "é\"\\\n"}}]}],
}


# One expression a line; '|' stays usable.
EXPRESSIONS = pathlib.Path(__file__).with_name("template_expressions.txt")
TEMPLATES = pathlib.Path(__file__).with_name("template_snippets.txt")


def cases():
    for line in EXPRESSIONS.read_text().splitlines():
        if line.strip() and not line.startswith("##"):
            yield "{{ " + line + " }}"
    for block in TEMPLATES.read_text().split("\n=====\n"):
        # Escapes for what an editor would not keep: \r and trailing spaces.
        yield block.replace("␍", "\r").replace("␠", " ").replace("␉", "\t")


def main():
    env = environment()
    rows = []
    for template in cases():
        try:
            rendered = env.from_string(template).render(**DATA)
            rendered.encode()  # lone surrogates can't leave Python either
            if " at 0x" not in rendered:  # addresses differ from run to run
                rows.append([template, rendered])
        except Exception as error:  # every kind counts: the test asks only that ours fails too
            rows.append([template, None, type(error).__name__])
    out = pathlib.Path(__file__).parent.parent / "tests/data/template_cases.json"
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    out.write_text('{"inputs":' + json.dumps(DATA, ensure_ascii=False, separators=(",", ":")) + ',\n"cases":[\n' + lines + "\n]}\n")
    print(len(rows), "cases,", sum(len(row) == 3 for row in rows), "of them errors")


if __name__ == "__main__":
    main()
