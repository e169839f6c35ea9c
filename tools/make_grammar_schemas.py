#!/usr/bin/env python3
"""Writes tests/data/grammar/schemas/*.json: JSON schemas as tools, APIs and configurations have them, with instances, of the table in
grammar_schema_table.py.
"""
import json
import random
import re
import sys

from grammar_schema_table import CONFIGS, OBJECTS, TOOLS, WHOLE

WORDS = ("The quick brown fox jumps over the lazy dog while Maria Schmidt reviews quarterly results for Acme GmbH in "
         "Z\u00fcrich; please check https://example.com/path?x=1 before Monday, 9:30 \"sharp\" \u2014 \u6771\u4eac "
         "caf\u00e9 \\ path/to/file.txt\nsecond line").split(" ")


class Reader:
    def __init__(self, text):
        self.text, self.pos = text, 0

    def take(self, what):
        if self.text.startswith(what, self.pos):
            self.pos += len(what)
            return True
        return False

    def until(self, stop):
        end = self.text.index(stop, self.pos)
        out, self.pos = self.text[self.pos:end], end + len(stop)
        return out

    def fields(self):
        properties, required = {}, []
        while self.pos < len(self.text) and self.text[self.pos] != "}":
            name = self.until(":")
            if name.endswith("?"):
                name = name[:-1]
            else:
                required.append(name)
            properties[name] = self.type()
            self.take(" ")
        out = {"type": "object", "properties": properties}
        if required:
            out["required"] = required
        out["additionalProperties"] = False
        return out

    def pair(self, open_, close, convert):
        if not self.take(open_):
            return None
        low, high = self.until(close).split(",")
        return convert(low), convert(high)

    def type(self):
        out = self.plain()
        if self.take("!"):
            if isinstance(out.get("type"), str) and "enum" not in out:
                out["type"] = [out["type"], "null"]
            else:
                out = {"anyOf": [out, {"type": "null"}]}
        return out

    def plain(self):
        if self.take("("):
            return {"type": "string", "enum": self.until(")").split("|")}
        if self.take("["):
            out = {"type": "array", "items": self.type()}
            assert self.take("]"), self.text[self.pos:]
            if bounds := self.pair("{", "}", int):
                out["minItems"], out["maxItems"] = bounds
            return out
        if self.take("{"):
            out = self.fields()
            assert self.take("}"), self.text[self.pos:]
            return out
        if self.take("@"):
            name = re.compile("[a-z0-9-]+").match(self.text, self.pos).group()
            self.pos += len(name)
            return {"type": "string", "format": name}
        if self.take("~"):
            return {"type": "string", "pattern": self.until("~")}
        if self.take("%"):
            return {"type": "object", "additionalProperties": self.type()}
        if self.take("s"):
            out = {"type": "string"}
            if bounds := self.pair("{", "}", int):
                out["minLength"], out["maxLength"] = bounds
            return out
        if self.take("i"):
            out = {"type": "integer"}
            if bounds := self.pair("[", "]", int):
                out["minimum"], out["maximum"] = bounds
            return out
        if self.take("n"):
            number = lambda text: float(text) if "." in text else int(text)
            out = {"type": "number"}
            if bounds := self.pair("[", "]", number):
                out["minimum"], out["maximum"] = bounds
            return out
        assert self.take("b"), self.text[self.pos:]
        return {"type": "boolean"}


FORMATS = {"date": "2024-02-29", "time": "23:59:59Z", "date-time": "2025-03-14T15:09:26.535+01:00",
           "uuid": "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "email": "maria.schmidt@example.com", "ipv4": "192.168.0.17",
           "ipv6": "2001:db8::ff00:42:8329", "uri": "https://example.com/a/b?c=d#e", "hostname": "api.example.com",
           "duration": "P3DT4H"}


def sample_pattern(pattern, rng):
    """A text for the few kinds of patterns used here."""
    import re._parser as sre_parse
    def gen(items):
        out = ""
        for op, arg in items:
            name = str(op)
            if name == "LITERAL":
                out += chr(arg)
            elif name == "IN":
                choices = []
                for kind, value in arg:
                    if str(kind) == "LITERAL":
                        choices.append(chr(value))
                    elif str(kind) == "RANGE":
                        choices += [chr(c) for c in range(value[0], value[1] + 1)]
                    elif str(kind) == "CATEGORY":
                        choices += list("0123456789")
                out += rng.choice(choices)
            elif name == "MAX_REPEAT":
                low, high, sub = arg
                for _ in range(rng.randint(low, min(int(high), low + 3))):
                    out += gen(sub)
            elif name == "SUBPATTERN":
                out += gen(arg[3])
            elif name == "BRANCH":
                out += gen(rng.choice(arg[1]))
            else:
                assert name == "AT", name
        return out
    return gen(sre_parse.parse(pattern))


def sample(schema, root, rng, depth=0):
    if schema is True:
        return rng.choice(["x", 1, None])
    if "$ref" in schema:
        target = root
        for key in schema["$ref"].split("/")[1:]:
            target = target[key]
        return sample(target, root, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "allOf" in schema:
        out = {}
        for part in schema["allOf"]:
            out.update(sample(part, root, rng, depth + 1))
        return out
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            options = schema[choice]
            base = {k: v for k, v in schema.items() if k != choice}
            if "properties" in base:
                return sample({**base, "required": list(base["properties"])}, root, rng, depth + 1)
            if depth > 6:
                simple = [o for o in options if o.get("type") not in (None, "object", "array")]
                options = simple or options[-1:]
            return sample(rng.choice(options), root, rng, depth + 1)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    if kind == "object":
        out = {}
        for name, value in schema.get("properties", {}).items():
            if name in schema.get("required", []) or (rng.random() < 0.6 and depth < 6):
                out[name] = sample(value, root, rng, depth + 1)
        others = schema.get("additionalProperties", "properties" not in schema)
        if others is not False:
            for name in rng.sample(["alpha", "Beta_2", "x-y", "gr\u00fc\u00df"], rng.randint(0, 3)):
                out[name] = sample(others, root, rng, depth + 1)
        return out
    if kind == "array":
        prefix = schema.get("prefixItems", [])
        low = schema.get("minItems", 0)
        high = min(schema.get("maxItems", 99), low + (0 if depth > 6 else 3))
        count = len(prefix) if schema.get("items") is False else rng.randint(low, max(low, high))
        return [sample(prefix[i] if i < len(prefix) else schema["items"], root, rng, depth + 1) for i in range(count)]
    if kind == "string":
        if "pattern" in schema:
            return sample_pattern(schema["pattern"], rng)
        if "format" in schema:
            return FORMATS[schema["format"]]
        start = rng.randrange(len(WORDS))
        text = " ".join(WORDS[start:start + rng.randint(1, 9)])
        low, high = schema.get("minLength", 0), schema.get("maxLength", 10000)
        while len(text) < low:
            text += " " + rng.choice(WORDS)
        return text[:high]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", None))
        high = schema.get("maximum", schema.get("exclusiveMaximum", None))
        low = low if low is not None else (high - 100 if high is not None else -1000)
        high = high if high is not None else low + 2000
        step = schema.get("multipleOf", 1)
        if kind == "integer" or "multipleOf" in schema and step >= 1:
            first = -(-(int(low) + ("exclusiveMinimum" in schema)) // step) * step
            last = int(high) - ("exclusiveMaximum" in schema)
            return rng.choice(range(first, last + 1, step))
        if step < 1:
            return rng.choice([0, 12, 60])
        return rng.choice([round(rng.uniform(low, high), 3), int(low) + 1 if low + 1 <= high else low])
    return {"boolean": rng.random() < 0.5, "null": None}[kind]


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/data/grammar/schemas"
    rng = random.Random(7)
    groups = {"tools": TOOLS, "objects": OBJECTS, "configs": CONFIGS}
    total = 0
    for group, table in groups.items():
        cases = []
        for line in table.strip().splitlines():
            name, _, rest = line.partition(" ")
            schema = Reader(rest.replace("\\\\", "\\")).fields()
            cases.append({"name": name, "schema": schema})
        groups[group] = cases
    groups["whole"] = [{"name": name, "schema": schema} for name, schema in WHOLE.items()]
    for group, cases in groups.items():
        for case in cases:
            case["instances"] = [sample(case["schema"], case["schema"], rng) for _ in range(3)]
        total += len(cases)
        with open(f"{folder}/{group}.json", "w", encoding="utf-8") as out:
            out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
    print(total, "schemas")


if __name__ == "__main__":
    main()
