"""Answers that keep to a form: JSON Schema, regular expressions, grammars and tool calls, through the API and files.

Usage: structured_test.py build/edgewise. Prints "N passed, N failed". The model of 16M parameters knows nothing of tools
and little of JSON, so that what is right here is right by constraint.
"""
import concurrent.futures
import json
import pathlib
import re
import sys

import jsonschema
import openai
import pydantic

from cli_support import MODEL, ROOT, Checks, run_parts
from server_support import Server

QUESTION = [{"role": "user", "content": "Tell me about Paris"}]
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "population": {"type": "integer", "minimum": 1000, "maximum": 99999}},
        "required": ["city", "population"], "additionalProperties": False}
DIGITS = {"type": "regex", "regex": "[1-9][0-9]{2} (cats|dogs)"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": {
    "type": "object", "properties": {"place": {"$ref": "#/$defs/Place"}}, "required": ["place"],
    "$defs": {"Place": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                        "required": ["city", "days"]}}}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "boolean"}}, "required": ["a", "b"]}}}


class City(pydantic.BaseModel):
    kind: str = pydantic.Field(pattern="^(big|small)$")
    people: int = pydantic.Field(ge=0, le=999)
    capital: bool


class StructuredTest:
    def __init__(self, program, work):
        self.checks, self.program, self.work = Checks(), program, work
        program("export", "--model_dir", MODEL, "--output_dir", work / "onnx")
        program("build", "--onnxDir", work / "onnx", "--engineDir", work / "engine", "--maxBatchSize", 4, "--maxInputLen", 512,
                "--maxKVCacheCapacity", 1024, "--kvCachePolicy", "paged", "--optLevel", 0)
        self.engine = work / "engine"
        self.server = Server(program, self.engine)
        self.client = self.server.client

    def chat(self, **fields):
        return self.client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 300, **fields})

    def answer(self, format, **fields):
        choice = self.chat(response_format=format, **fields).choices[0]
        return choice.message.content, choice.finish_reason

    def rejected(self, what, mentions, **fields):
        try:
            self.chat(**fields)
            self.checks.that(False, f"{what}: was answered")
        except openai.BadRequestError as error:
            self.checks.that(all(m in str(error) for m in mentions), f"{what}: {error}, expected {mentions}")

    def json_schema(self):
        for seed in range(6):
            text, reason = self.answer({"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}, temperature=1.5, seed=seed)
            self.checks.that(reason == "stop", f"{reason}: {text}")
            jsonschema.validate(json.loads(text), CITY)
        text, reason = self.answer({"type": "json_object"}, temperature=0.5, seed=1, max_tokens=600)
        self.checks.that(reason == "length" or isinstance(json.loads(text), dict), f"json_object: {text}")
        text, reason = self.answer({"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}, max_tokens=3)
        self.checks.that(reason == "length" and text.startswith("{"), f"cut off: {reason} {text}")
        parsed = self.client.beta.chat.completions.parse(model="tiny", messages=QUESTION, response_format=City, temperature=1, seed=3).choices[0].message.parsed
        self.checks.that(parsed.kind in ("big", "small") and 0 <= parsed.people <= 999, f"parse(): {parsed}")

    def many_schemas(self):
        """Schemas of the grammar's own tests: a finished answer satisfies its schema, as jsonschema says."""
        finished = 0
        for file in sorted((ROOT / "tests/data/grammar/schemas").glob("*.json")):
            for entry in json.loads(file.read_text())[::9]:
                format = {"type": "json_schema", "json_schema": {"name": "x", "schema": entry["schema"]}}
                text, reason = self.answer(format, temperature=0.8, seed=7, max_tokens=160)
                if reason != "stop":
                    continue
                finished += 1
                with self.checks.part(f"{file.name} {entry.get('name')}"):
                    jsonschema.validate(json.loads(text), entry["schema"])
        self.checks.that(finished >= 10, f"only {finished} answers ended")

    def text_forms(self):
        text, reason = self.answer(DIGITS, temperature=1, seed=1)
        self.checks.that(re.fullmatch("[1-9][0-9]{2} (cats|dogs)", text) and reason == "stop", f"regex: {text!r} {reason}")
        text, _ = self.answer({"type": "grammar", "grammar": 'root ::= "(" root ")" | [ab]{2}'}, temperature=1, seed=4, max_tokens=200)
        self.checks.that(re.fullmatch(r"(\(*)([ab]{2})(\)*)", text) and text.count("(") == text.count(")"), f"grammar: {text!r}")
        completion = self.client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=40, temperature=0, extra_body={"response_format": DIGITS})
        self.checks.that(re.fullmatch("[1-9][0-9]{2} (cats|dogs)", completion.choices[0].text), f"completions: {completion.choices[0].text!r}")
        pieces = list(self.chat(response_format=DIGITS, stream=True, logprobs=True, top_logprobs=3))
        text = "".join(p.choices[0].delta.content or "" for p in pieces)
        self.checks.that(text == self.answer(DIGITS)[0], f"streamed: {text!r}")

    def company(self):
        """A constrained answer does not depend on what runs beside it."""
        forms = [DIGITS, None, {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}, {"type": "json_object"}] * 2
        asks = [{"temperature": 1, "seed": i, "max_tokens": 60, **({"response_format": form} if form else {})} for i, form in enumerate(forms)]
        alone = [self.chat(**ask).choices[0].message.content for ask in asks]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda ask: self.chat(**ask).choices[0].message.content, asks))
        self.checks.that(alone == together, f"{alone} {together}")

    def refused_forms(self):
        def schema(value):
            return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
        self.rejected("keyword", ["/properties/a/not"], response_format=schema({"type": "object", "properties": {"a": {"not": {}}}}))
        self.rejected("type", ["/type"], response_format=schema({"type": "wing"}))
        self.rejected("no schema", ["schema"], response_format={"type": "json_schema", "json_schema": {"name": "x"}})
        self.rejected("impossible", ["no text"], response_format=schema({"type": "integer", "minimum": 5, "maximum": 4}))
        self.rejected("regex", ["position 0"], response_format={"type": "regex", "regex": "["})
        self.rejected("grammar", ["1:10"], response_format={"type": "grammar", "grammar": "root ::= wing"})
        self.rejected("unknown type", ["json_object"], response_format={"type": "xml"})
        self.rejected("type of type", ["json_object"], response_format={"type": 5})
        self.rejected("a string", ["response_format"], response_format="json")
        self.rejected("field", ["wings"], response_format={"type": "json_object", "wings": 2})

    def required_tools(self):
        for seed in range(4):
            choice = self.chat(tools=[WEATHER, ADD], tool_choice="required", temperature=1.5, seed=seed).choices[0]
            self.checks.that(choice.finish_reason == "tool_calls" and choice.message.content is None, f"{choice}")
            (call,) = choice.message.tool_calls
            tool = {"get_weather": WEATHER, "add": ADD}[call.function.name]
            jsonschema.validate(json.loads(call.function.arguments), tool["function"]["parameters"])
            self.checks.that(re.fullmatch("[a-zA-Z0-9]{9}", call.id) and call.type == "function", f"{call}")
        named = {"tools": [WEATHER, ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}, "temperature": 1, "seed": 9}
        whole = self.chat(**named).choices[0].message.tool_calls
        self.checks.that([c.function.name for c in whole] == ["add"], f"{whole}")
        pieces = [d for p in self.chat(stream=True, **named) for d in p.choices[0].delta.tool_calls or []]
        arguments = "".join(d.function.arguments for d in pieces)
        self.checks.that(pieces[0].function.name == "add" and arguments == whole[0].function.arguments and len(pieces) > 3, f"streamed: {pieces}")

    def optional_tools(self):
        told, without = self.chat(tools=[WEATHER], max_tokens=40), self.chat(max_tokens=40)
        choice, plain = told.choices[0], without.choices[0]
        self.checks.that(bool(choice.message.content) and choice.message.tool_calls is None, f"{choice}")
        self.checks.that(self.chat(tools=[WEATHER], tool_choice="none", max_tokens=40).choices[0].message.content == plain.message.content, "none")
        self.checks.that(told.usage.prompt_tokens > without.usage.prompt_tokens + 50, "tools are told to the model")
        strict = {"type": "function", "function": {**ADD["function"], "strict": True}}
        free = self.chat(tools=[strict], max_tokens=40).choices[0].message
        self.checks.that(free.content == self.chat(tools=[ADD], max_tokens=40).choices[0].message.content, f"strict leaves text alone: {free}")
        brace = self.server.post("/tokenize", {"prompt": "{", "add_special_tokens": False})[1]["tokens"][0]
        called = self.chat(tools=[strict, WEATHER], temperature=1.5, seed=2, logit_bias={str(brace): 100}).choices[0]
        (call,) = called.message.tool_calls
        self.checks.that(called.finish_reason == "tool_calls" and call.function.name in ("add", "get_weather"), f"{called}")
        if call.function.name == "add":
            jsonschema.validate(json.loads(call.function.arguments), ADD["function"]["parameters"])
        turn = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": "{\"place\": {\"city\": \"Rome\", \"days\": 2}}"}}]},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"}]
        self.checks.that(len(self.chat(messages=turn, tools=[WEATHER], max_tokens=8).choices[0].message.content) > 0, "a call's result")

    def refused_tools(self):
        def bad(function):
            return [{"type": "function", "function": function}]
        self.rejected("no tools", ["tools"], tool_choice="required")
        self.rejected("unknown choice", ["wing"], tools=[ADD], tool_choice={"type": "function", "function": {"name": "wing"}})
        self.rejected("odd choice", ["tool_choice"], tools=[ADD], tool_choice="maybe")
        self.rejected("no name", ["tools[0]"], tools=bad({}))
        self.rejected("another type", ["tools[0]"], tools=[{"type": "web_search"}])
        self.rejected("parameters", ["/anyOf/0/properties/arguments/type"], tools=bad({"name": "f", "parameters": {"type": "wing"}}), tool_choice="required")
        self.rejected("with response_format", ["response_format"], tools=[ADD], response_format={"type": "json_object"})
        broken = [*QUESTION, {"role": "assistant", "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{"}}]}]
        self.rejected("arguments", ["messages[1]"], messages=broken)

    def files(self):
        document = {"requests": [{"messages": QUESTION, "response_format": DIGITS}, {"messages": QUESTION, "response_format": {"type": "regex", "regex": "("}},
                                 {"messages": QUESTION}], "max_generate_length": 20, "temperature": 0}
        first, second, third = self.program.infer(self.engine, document, self.work)
        self.checks.that(re.fullmatch("[1-9][0-9]{2} (cats|dogs)", first["output_text"]), f"{first}")
        self.checks.that("position" in second["error"] and third["tokens_generated"] == 20, f"{second} {third}")
        (self.work / "schema.json").write_text(json.dumps(CITY))
        text = self.program("run", self.engine, "Tell me about Paris", "--json_schema", self.work / "schema.json", "--quiet")
        jsonschema.validate(json.loads(text), CITY)
        self.checks.that(re.fullmatch("4{3}\n", self.program("run", self.engine, "Hello", "--regex", "4{3}", "--quiet")), "run --regex")
        both = self.program.run("run", self.engine, "Hello", "--regex", "4", "--grammar", self.work / "schema.json")
        self.checks.that(both.returncode == 2, f"two forms: {both.stderr}")

    def parts(self):
        return [self.json_schema, self.many_schemas, self.text_forms, self.company, self.refused_forms, self.required_tools,
                self.optional_tools, self.refused_tools, self.files]

    def close(self):
        self.server.close()


if __name__ == "__main__":
    sys.exit(run_parts(StructuredTest))
