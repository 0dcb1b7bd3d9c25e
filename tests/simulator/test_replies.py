"""Answers of the simulated model: by what the request asks for, and by what a script says; whole and streamed alike."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet_simulator import Control, ControlError, Endpoints, SimulatorProcess
from trivet_simulator.schema import instance_of

from .sdk import WIRES, call, client, message, request, streamed

ASKS = [pytest.param(message, id="plain"), pytest.param(streamed, id="streamed")]
BOOK = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "year": {"type": "integer"},
        "price": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "genre": {"enum": ["novel", "essay"]},
        "kind": {"const": "book"},
        "authors": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1},
        "printed": {"type": "string", "format": "date"},
        "lent": {"type": "boolean"},
    },
    "required": ["title", "year", "price", "genre", "kind", "authors", "printed", "lent"],
    "additionalProperties": False,
    "$defs": {
        "person": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "teacher": {"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]},
            },
            "required": ["name", "teacher"],
            "additionalProperties": False,
        }
    },
}
TOOLS: list[dict[str, Any]] = [
    {"name": "lookup", "input_schema": BOOK},
    {
        "name": "count",
        "input_schema": {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 3, "maximum": 5},
                "unit": {"type": "string", "minLength": 40},
            },
            "required": ["n", "unit"],
        },
    },
]


def dumped(answer: Any) -> Any:
    """Without what differs from call to call, and between a call that streams and one that does not."""
    found = json.loads(answer.to_json())
    found.pop("id")
    return {name: value for name, value in found.items() if value is not None}


async def both(endpoints: Endpoints, wire: str, **changes: Any) -> tuple[Any, Any]:
    return await message(endpoints, wire, **changes), await streamed(endpoints, wire, **changes)


async def last_usage(endpoints: Endpoints, wire: str) -> Any:
    async with client(endpoints, wire) as made:
        stream = await made.messages.create(**request(wire), stream=True)
        (usage,) = [event.usage.to_dict() async for event in stream if event.type == "message_delta"]
        return usage


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("ask", ASKS)
class TestWhatTheRequestAsksFor:
    def test_json_of_a_schema(self, control: Control, endpoints: Endpoints, wire: str, ask: Any) -> None:
        form = {"type": "json_schema", "schema": BOOK}
        answer = asyncio.run(ask(endpoints, wire, output_config={"format": form}))
        (block,) = answer.content
        jsonschema.validate(json.loads(block.text), BOOK)
        assert answer.stop_reason == "end_turn"
        assert [c.complete for c in control.calls()] == [True]

    @pytest.mark.parametrize(
        "choice",
        [
            {"type": "tool", "name": "count"},
            {"type": "any", "disable_parallel_tool_use": True},
            {"type": "any"},
        ],
    )
    def test_a_forced_tool(
        self, control: Control, endpoints: Endpoints, wire: str, ask: Any, choice: dict[str, Any]
    ) -> None:
        answer = asyncio.run(ask(endpoints, wire, tools=TOOLS, tool_choice=choice))
        assert answer.stop_reason == "tool_use"
        schemas = {tool["name"]: tool["input_schema"] for tool in TOOLS}
        assert {block.type for block in answer.content} == {"tool_use"}
        for block in answer.content:
            jsonschema.validate(block.input, schemas[block.name])
        if choice["type"] == "tool":
            assert [block.name for block in answer.content] == ["count"]
        if choice.get("disable_parallel_tool_use"):
            assert len(answer.content) == 1
        assert len({block.id for block in answer.content}) == len(answer.content)

    @pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}])
    def test_thinking(self, control: Control, endpoints: Endpoints, wire: str, ask: Any, thinking: Any) -> None:
        answer = asyncio.run(ask(endpoints, wire, thinking=thinking))
        thought, said = answer.content
        assert (thought.type, said.type) == ("thinking", "text")
        assert thought.thinking
        assert thought.signature
        assert 0 < answer.usage.output_tokens_details.thinking_tokens < answer.usage.output_tokens

    def test_thinking_that_is_not_shown(self, control: Control, endpoints: Endpoints, wire: str, ask: Any) -> None:
        answer = asyncio.run(ask(endpoints, wire, thinking={"type": "adaptive", "display": "omitted"}))
        assert (answer.content[0].thinking, bool(answer.content[0].signature)) == ("", True)

    def test_a_web_search(self, control: Control, endpoints: Endpoints, wire: str, ask: Any) -> None:
        tool = {"type": "web_search_20250305", "name": "web_search"}
        answer = asyncio.run(ask(endpoints, wire, tools=[tool]))
        assert [block.type for block in answer.content] == ["server_tool_use", "web_search_tool_result", "text"]
        assert answer.content[1].tool_use_id == answer.content[0].id
        assert answer.content[0].input["query"]
        assert answer.usage.server_tool_use.web_search_requests == 1


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"output_config": {"format": {"type": "json_schema", "schema": BOOK}}},
        {"output_config": {"format": {"type": "json_schema", "schema": BOOK}}, "max_tokens": 9},
        {"tools": TOOLS, "tool_choice": {"type": "any"}},
        {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "lookup"}, "max_tokens": 5},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}], "thinking": {"type": "adaptive"}},
    ],
)
def test_streams_say_what_whole_answers_say(
    control: Control, endpoints: Endpoints, wire: str, asked: dict[str, Any]
) -> None:
    # `stream` stands in the body of one wire, and lengths are drawn by the body: the script fixes what is said
    plain = asyncio.run(message(endpoints, wire, **asked))
    control.reply(
        {"content": [json.loads(block.to_json()) for block in plain.content], "stop_reason": plain.stop_reason}
    )
    whole, stream = asyncio.run(both(endpoints, wire, **asked))
    assert dumped(whole)["content"] == dumped(stream)["content"] == dumped(plain)["content"]
    assert whole.stop_reason == stream.stop_reason
    assert (whole.usage.output_tokens, stream.usage.output_tokens) == (whole.usage.output_tokens,) * 2
    if asked.get("max_tokens", 999) < 10:
        assert plain.stop_reason == "max_tokens"
        assert plain.usage.output_tokens == asked["max_tokens"]


SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "string", "format": "uuid"},
            {"type": "string", "minLength": 30, "maxLength": 33},
            {"type": "integer", "exclusiveMinimum": 3, "maximum": 4},
            {"type": "integer", "multipleOf": 7, "minimum": 1},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {"type": "number", "maximum": -2.5},
            {"type": ["null", "boolean"]},
            {"enum": [1, "two", None]},
            {"const": {"a": []}},
            {"$ref": "#/$defs/tree"},
            {},
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"allOf": [part]}),
        st.tuples(inner, st.integers(0, 3)).map(lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1]}),
        st.dictionaries(st.sampled_from("abc"), inner).map(
            lambda parts: {
                "type": "object",
                "properties": parts,
                "required": list(parts)[:2],
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=8,
)
TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
    "required": ["right"],
}


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.integers(0, 10**6))
def test_what_is_made_for_a_schema_is_valid(schema: dict[str, Any], seed: int) -> None:
    schema = {**schema, "$defs": {"tree": TREE}}
    made = instance_of(schema, random.Random(seed), ["stone", "bridge", "river", "mill"])
    jsonschema.validate(made, schema)
    json.dumps(made)


@pytest.mark.parametrize(
    "schema", [True, {"$ref": "#"}, {"allOf": [{"$ref": "#/nowhere"}]}, {"type": "fish"}, {"anyOf": []}]
)
def test_an_odd_schema_breaks_nothing(schema: Any) -> None:
    json.dumps(instance_of(schema, random.Random(1), ["stone"]))


CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    {"type": "text", "text": " "},
    {
        "type": "text",
        "text": "Paris \U0001f5fc",
        "citations": [
            {
                "type": "char_location",
                "cited_text": "Paris",
                "document_index": 0,
                "document_title": None,
                "start_char_index": 0,
                "end_char_index": 5,
            }
        ],
    },
    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"z": [1, {"a": "ü"}]}},
    {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}},
]


@pytest.mark.parametrize("wire", WIRES)
class TestScripts:
    def test_a_text(self, control: Control, endpoints: Endpoints, wire: str) -> None:
        control.reply("Twelve.", contains="stone")
        whole, stream = asyncio.run(both(endpoints, wire))
        assert [block.text for block in (*whole.content, *stream.content)] == ["Twelve."] * 2
        assert whole.stop_reason == "end_turn"
        other = [{"role": "user", "content": "Of wood?"}]
        assert asyncio.run(message(endpoints, wire, messages=other)).content[0].text != "Twelve."
        assert [rule["hits"] for rule in control.replies()] == [2]

    def test_blocks(self, control: Control, endpoints: Endpoints, wire: str) -> None:
        control.reply(CONTENT, provider=wire)
        whole, stream = asyncio.run(both(endpoints, wire))
        assert json.loads(json.dumps([b.to_dict() for b in whole.content])) == CONTENT
        assert [b.to_dict(exclude_none=True) for b in stream.content] == [
            b.to_dict(exclude_none=True) for b in whole.content
        ]
        assert (whole.stop_reason, stream.stop_reason) == ("tool_use", "tool_use")

    def test_fields_of_the_message(self, control: Control, endpoints: Endpoints, wire: str) -> None:
        iterations = [
            {"type": "message", "model": "claude-sonnet-5-5", "input_tokens": 5, "output_tokens": 1},
            {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 412, "output_tokens": 264},
        ]
        control.reply(
            {
                "model": "claude-opus-4-8",
                "stop_reason": "refusal",
                "stop_details": {"type": "refusal", "category": "bio", "explanation": None},
                "usage": {"input_tokens": 412, "output_tokens": 264, "iterations": iterations},
            }
        )
        for answer in asyncio.run(both(endpoints, wire)):
            found = answer.to_dict()
            assert (found["model"], found["stop_reason"]) == ("claude-opus-4-8", "refusal")
            assert found["stop_details"]["category"] == "bio"
            assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (412, 264)
            assert found["content"][0]["text"]
        assert [c.usage["output_tokens"] for c in control.calls() if c.usage] == [264, 264]
        # the SDK's helper for streams drops what the stable API does not have; the last event carries it
        assert asyncio.run(message(endpoints, wire)).to_dict()["usage"]["iterations"] == iterations
        assert asyncio.run(last_usage(endpoints, wire))["iterations"] == iterations

    def test_an_error(self, control: Control, endpoints: Endpoints, wire: str) -> None:
        control.reply({"error": "overloaded", "retry_after_s": 7}, times=1)
        control.limits(wire, concurrency=1)
        with pytest.raises(anthropic.APIStatusError) as caught:
            asyncio.run(call(endpoints, wire))
        assert caught.value.status_code in (529, 503)
        assert asyncio.run(message(endpoints, wire)).stop_reason == "end_turn"
        assert [c.fault for c in control.calls()] == ["overloaded", None]

    @pytest.mark.parametrize("category", ["cyber", "bio", "frontier_llm", "reasoning_extraction"])
    def test_a_refusal_of_a_category(self, control: Control, endpoints: Endpoints, wire: str, category: str) -> None:
        control.reply({"error": "refusal", "category": category})
        for answer in asyncio.run(both(endpoints, wire)):
            assert (answer.stop_reason, answer.stop_details.category, answer.content) == ("refusal", category, [])

    def test_a_page(self, control: Control, endpoints: Endpoints, wire: str) -> None:
        control.reply({"error": "proxy_page_413"})
        with pytest.raises(anthropic.APIStatusError) as caught:
            asyncio.run(call(endpoints, wire))
        assert caught.value.status_code == 413


def test_the_last_rule_set_decides_and_can_be_taken_back(control: Control, endpoints: Endpoints) -> None:
    control.reply("first")
    second = control.reply("second")

    def said() -> str:
        return str(asyncio.run(message(endpoints, "anthropic")).content[0].text)

    assert said() == "second"
    control.clear_replies(second)
    assert said() == "first"
    control.reset()
    assert said() != "first"
    assert control.replies() == []


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({}, "reply"),
        ({"reply": "x", "callback": "http://127.0.0.1:1/"}, "reply"),
        ({"callback": "http://example.org/"}, "callback"),
        ({"callback": "file:///etc/passwd"}, "callback"),
        ({"reply": 5}, "reply"),
        ({"reply": ["x"]}, "reply.content[0]"),
        ({"reply": {"content": {}}}, "reply.content"),
        ({"reply": {"usage": 5}}, "reply.usage"),
        ({"reply": {"error": "no such fault"}}, "kind"),
        ({"reply": "x", "provider": "azure"}, "provider"),
        ({"reply": "x", "matches": "("}, "matches"),
        ({"reply": "x", "timeout_s": 0}, "timeout_s"),
    ],
)
def test_rules_that_cannot_be(control: Control, rule: dict[str, Any], field: str) -> None:
    with pytest.raises(ControlError) as caught:
        control.reply(**rule)
    assert caught.value.field == field


def test_a_callback_that_is_not_there(control: Control, endpoints: Endpoints) -> None:
    control.reply(callback="http://127.0.0.1:9/")
    with pytest.raises(anthropic.BadRequestError, match="the reply function cannot be asked: ConnectionRefusedError"):
        asyncio.run(call(endpoints, "anthropic"))
    (logged,) = control.calls()
    assert (logged.fault, logged.status, logged.complete) == ("reply_failed", 400, False)


def test_replies_from_a_file_outlast_a_reset(tmp_path: Path) -> None:
    path = tmp_path / "replies.json"
    path.write_text(
        json.dumps([{"contains": "stone", "reply": "of granite"}, {"reply": {"error": 529}, "provider": "anthropic"}])
    )
    with SimulatorProcess("--replies", str(path)) as simulator:
        simulator.control.reset()
        assert asyncio.run(message(simulator.endpoints, "bedrock")).content[0].text == "of granite"
    path.write_text("[5]")
    with pytest.raises(RuntimeError, match="must hold one reply rule"), SimulatorProcess("--replies", str(path)):
        pass
