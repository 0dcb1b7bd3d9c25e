"""Requests that `submit` takes like the SDK and the API: objects, answers sent back, iterators, sentinels."""

import base64
import io
import json
from collections import UserDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

import anthropic
import pytest
from anthropic import NOT_GIVEN, beta_tool, omit, transform_schema
from anthropic.types import Message, MessageParam, ParsedMessage, TextBlock, TextBlockParam, ToolUseBlock, Usage
from anthropic.types.parsed_message import ParsedTextBlock
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.requests.reading import RequestReader, parse_request
from trivet_tasks.requests.request_objects import narrowed

SETTINGS = Settings()
USER = {"role": "user", "content": "Go on."}
ANSWER: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [
        {"type": "thinking", "thinking": "", "signature": "c2ln"},
        {"type": "text", "text": "\n\n", "citations": None},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"z": 1, "a": {"y": 2, "b": 3}}, "caller": None},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 5},
}


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [USER], **fields}


def parse(value: Any) -> JobSpec:
    return parse_request(value, settings=SETTINGS, now=1.0)


def sent(**fields: Any) -> Any:
    return json.loads(parse(request(**fields)).body)


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(request(**fields))
    return caught.value


class TestAnswersSentBack:
    def test_a_message_of_the_sdk_is_a_turn(self) -> None:
        message = Message.model_validate(ANSWER)
        assert sent(messages=[USER, message, USER])["messages"][1] == {
            "role": "assistant",
            "content": ANSWER["content"],
        }

    def test_so_is_the_whole_answer_as_a_dict(self) -> None:
        """`result.message` is one."""
        assert sent(messages=[USER, ANSWER, USER])["messages"][1] == {"role": "assistant", "content": ANSWER["content"]}

    @pytest.mark.parametrize("dump", [Message.to_dict, Message.model_dump, Message.to_param])
    def test_and_the_answer_as_the_sdk_dumps_it(self, dump: Any) -> None:
        turn = sent(messages=[USER, dump(Message.model_validate(ANSWER)), USER])["messages"][1]
        assert set(turn) == {"role", "content"}
        assert turn["content"][1]["text"] == "\n\n"

    def test_blocks_of_the_sdk_anywhere(self) -> None:
        blocks = [
            TextBlock(type="text", text=" "),
            ToolUseBlock(type="tool_use", id="t", name="look", input={"q": 1}),
        ]
        result = {"type": "tool_result", "tool_use_id": "t", "content": [TextBlock(type="text", text="found")]}
        found = sent(messages=[USER, {"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}])
        assert found["messages"][1]["content"] == [
            {"type": "text", "text": " "},
            {"type": "tool_use", "id": "t", "name": "look", "input": {"q": 1}},
        ]
        assert found["messages"][2]["content"][0]["content"] == [{"type": "text", "text": "found"}]

    def test_a_parsed_answer_goes_back_without_what_was_parsed(self) -> None:
        block = ParsedTextBlock[dict[str, int]](type="text", text='{"a":1}', parsed_output={"a": 1})
        message = ParsedMessage[dict[str, int]](
            id="m",
            type="message",
            role="assistant",
            model="claude-sonnet-5-5",
            content=[block],
            usage=Usage(input_tokens=1, output_tokens=1),
        )
        assert sent(messages=[USER, message, USER])["messages"][1]["content"] == [{"type": "text", "text": '{"a":1}'}]

    def test_the_input_of_a_tool_call_keeps_its_order(self) -> None:
        body = parse(request(messages=[USER, ANSWER, USER])).body
        assert b'"input":{"z":1,"a":{"y":2,"b":3}}' in body

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "text", "text": " \n"},
            {"type": "thinking", "thinking": "", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
            {
                "type": "server_tool_use",
                "id": "srvtoolu_1",
                "name": "web_search",
                "input": {"query": "x"},
                "caller": None,
            },
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {
                "type": "web_fetch_tool_result",
                "tool_use_id": "s",
                "content": {
                    "type": "web_fetch_result",
                    "url": "https://example.org",
                    "retrieved_at": None,
                    "content": {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": ""}},
                },
            },
            {"type": "text", "text": "x", "citations": [{"type": "char_location", "cited_text": "", "file_id": None}]},
            {
                "type": "tool_use",
                "id": "t",
                "name": "n",
                "input": {},
                "caller": {"type": "direct"},
                "toolset_name": None,
            },
            {"type": "compaction", "content": None},
            {"type": "a_type_of_next_year", "anything": [None, {"a": -0.5}]},
        ],
        ids=lambda block: block["type"],
    )
    def test_every_block_beside_another(self, block: dict[str, Any]) -> None:
        content = [block, {"type": "text", "text": "Then."}]
        assert (
            sent(messages=[USER, {"role": "assistant", "content": content}, USER])["messages"][1]["content"] == content
        )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CITATION = st.fixed_dictionaries(
    {"type": st.just("char_location"), "cited_text": TEXT, "document_title": st.none() | TEXT}
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
CALLER = st.none() | st.fixed_dictionaries({"type": st.sampled_from(["direct", "code_execution_20260120"])})
BLOCK = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("text"),
            "text": TEXT.filter(bool),
            "citations": st.none() | st.lists(CITATION, max_size=2),
        }
    ),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": TEXT, "signature": TEXT}),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": TEXT}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["tool_use", "server_tool_use", "mcp_tool_use"]),
            "id": TEXT,
            "name": TEXT,
            "input": OBJECT,
            "caller": CALLER,
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["web_search_tool_result", "code_execution_tool_result", "next_years_tool_result"]),
            "tool_use_id": TEXT,
            "content": JSON,
        }
    ),
)
CONTENT = st.lists(BLOCK, min_size=1, max_size=5).filter(
    lambda blocks: any(block["type"] != "text" or block["text"].strip() for block in blocks)
)


@hypothesis_settings(deadline=None)
@given(CONTENT)
def test_whatever_an_answer_contains_goes_back_as_it_came(content: list[dict[str, Any]]) -> None:
    turns = [USER, {"role": "assistant", "content": content}, USER]
    job = parse(request(messages=turns))
    found = json.loads(job.body)["messages"][1]["content"]
    assert found == content
    # equal is not enough for Python: 1 == 1.0 == True
    assert json.dumps(found, sort_keys=True) == json.dumps(content, sort_keys=True)
    calls = [
        (json.dumps(one["input"]), json.dumps(other["input"]))
        for one, other in zip(found, content, strict=True)
        if "input" in one
    ]
    assert all(one == other for one, other in calls)


class TestConversations:
    @pytest.mark.parametrize(
        "messages",
        [
            [{"role": "assistant", "content": "Hello, how can I help?"}, USER],
            [USER, USER],
            [USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, USER],
            [USER, {"role": "system", "content": "Be brief."}],
            [USER, {"role": "system", "content": [], "output_config": {"effort": "low"}}],
            [{"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "x"}]}],
        ],
    )
    def test_are_sent_as_they_came(self, messages: list[dict[str, Any]]) -> None:
        assert sent(messages=messages)["messages"] == messages

    def test_the_last_turn_of_the_assistant_may_be_empty_where_it_may_be_at_all(self) -> None:
        empty: tuple[str | list[object], ...] = ("", [])
        for content in empty:
            job = parse(request(model="claude-haiku-4-5", messages=[USER, {"role": "assistant", "content": content}]))
            assert json.loads(job.body)["messages"][1]["content"] == content

    @pytest.mark.parametrize("system", ["", " ", [], [{"type": "text", "text": " "}, {"type": "text", "text": "x"}]])
    def test_a_system_prompt_that_says_little(self, system: Any) -> None:
        assert sent(system=system)["system"] == system


class TestObjects:
    @pytest.mark.parametrize("nothing", [NOT_GIVEN, omit, anthropic.not_given])
    def test_what_is_not_given_is_left_out(self, nothing: Any) -> None:
        plain = parse(request(metadata={"user_id": "u"}))
        given_nothing = parse(
            request(
                system=nothing, temperature=nothing, key=nothing, cache=nothing, metadata={"user_id": "u", "x": nothing}
            )
        )
        assert given_nothing == plain

    def test_iterables_of_the_sdk(self) -> None:
        def turns() -> Iterator[MessageParam]:
            yield {"role": "user", "content": (TextBlockParam(type="text", text=text) for text in ["x"])}

        expected = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        assert sent(messages=turns())["messages"] == expected
        assert sent(messages=tuple(expected))["messages"] == expected
        assert sent(messages=deque(expected))["messages"] == expected
        assert sent(messages=dict(enumerate(expected)).values())["messages"] == expected

    def test_an_iterator_without_end_is_refused(self) -> None:
        def turns() -> Iterator[dict[str, str]]:
            while True:
                yield USER

        assert "100,000" in str(refused(messages=turns()))

    def test_other_mappings(self) -> None:
        turn: Any = MappingProxyType({"role": "user", "content": "x"})
        assert parse(UserDict(request(messages=[turn]))) == parse(request(messages=[{"role": "user", "content": "x"}]))

    def test_a_tool_of_the_sdk(self) -> None:
        @beta_tool
        def weather(place: str) -> str:
            """Tell the weather.

            Args:
                place: where
            """
            return place

        (tool,) = sent(tools=[weather])["tools"]
        assert (tool["name"], tool["input_schema"]["required"]) == ("weather", ["place"])

    def test_a_file_as_data(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"\x89PNG")
        encoded = base64.b64encode(b"\x89PNG").decode()
        for data in (tmp_path / "a.png", io.BytesIO(b"\x89PNG")):
            block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
            found = sent(messages=[{"role": "user", "content": [block]}])
            assert found["messages"][0]["content"][0]["source"]["data"] == encoded

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": tmp_path / "a"}}
        error = refused(messages=[{"role": "user", "content": [block]}])
        assert error.field == "messages[0].content[0].source.data"
        assert "No such file" in str(error)

    def test_objects_among_the_defaults(self) -> None:
        reader = RequestReader(
            SETTINGS, {"model": "claude-sonnet-5-5", "max_tokens": 9, "system": (TextBlock(type="text", text="x"),)}
        )
        assert json.loads(reader.read({"messages": [USER]}, 1.0).body)["system"] == [{"type": "text", "text": "x"}]

    def test_what_is_none_of_these_is_refused_by_its_path(self) -> None:
        @dataclass
        class Note:
            text: str = "SECRET"

        error = refused(metadata={"a": [Note()]})
        assert error.field == "metadata.a[0]"
        assert "SECRET" not in str(error)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    number: int = Field(ge=1, le=9, description="its number")
    name: str = Field(min_length=1)
    parent: "Part | None" = None


class Car(BaseModel):
    colour: Colour
    parts: list[Part] = Field(min_length=2)
    built: date
    id: UUID
    kind: Literal["car"] = "car"
    weight: float | int | None = None
    seats: tuple[int, int] = (1, 2)


class Shape(TypedDict):
    corners: int
    name: str


@dataclass
class Point:
    x: float
    y: float


class Numbers(RootModel[list[int]]):
    pass


class TestOutputFormats:
    @pytest.mark.parametrize("form", [Part, Car, Shape, Point, Numbers, list[Part], Colour])
    def test_a_type_is_the_schema_of_the_sdk(self, form: Any) -> None:
        from anthropic.lib._parse._transform import to_json_output_format

        expected = json.loads(json.dumps(to_json_output_format(form)))
        assert sent(output_config={"format": form, "effort": "low"})["output_config"] == {
            "format": expected,
            "effort": "low",
        }
        assert sent(output_format=form)["output_config"] == {"format": expected}

    def test_a_schema_is_sent_as_it_is(self) -> None:
        form = {"type": "json_schema", "schema": {"type": "object", "minProperties": 3}}
        assert sent(output_config={"format": form})["output_config"]["format"] == form
        assert sent(output_format=form)["output_config"]["format"] == form

    def test_both_names_at_once(self) -> None:
        assert refused(output_format=Part, output_config={"format": Part}).field == "output_format"

    def test_a_type_without_a_schema(self) -> None:
        assert refused(output_config={"format": type("Engine", (), {})}).field == "output_config.format"

    @hypothesis_settings(deadline=None)
    @given(
        st.recursive(
            st.sampled_from(
                [
                    {"type": "string", "format": "email"},
                    {"type": "string", "format": "binary", "minLength": 2},
                    {"type": "integer", "minimum": 3, "description": "a number"},
                    {"type": "number", "title": "N"},
                    {"type": "boolean"},
                    {"type": "null"},
                    {"const": 4},
                    {"enum": ["a", 1, None], "type": "string"},
                    {"$ref": "#/$defs/x", "description": "dropped"},
                ]
            ),
            lambda inner: st.one_of(
                st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts, "description": "either"}),
                st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"oneOf": parts}),
                st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"allOf": parts, "title": "T"}),
                st.tuples(inner, st.sampled_from([0, 1, 2])).map(
                    lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1], "uniqueItems": True}
                ),
                st.dictionaries(st.sampled_from("abc"), inner).map(
                    lambda parts: {
                        "type": "object",
                        "properties": parts,
                        "required": list(parts),
                        "$defs": {"x": {"type": "null"}},
                    }
                ),
            ),
            max_leaves=6,
        )
    )
    def test_schemas_are_narrowed_as_the_sdk_does(self, schema: dict[str, Any]) -> None:
        assert narrowed(schema) == transform_schema(schema)
