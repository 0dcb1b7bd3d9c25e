"""Each wire takes the versions of the API that its vendor documents, and refuses others, and fields, in its own words."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest

from trivet_simulator import Control, Endpoints

from .sdk import BODY, call, client, message, request

NEW = {"extra_headers": {"anthropic-version": "2026-10-21"}}
OLD = {"extra_headers": {"anthropic-version": "2023-06-01"}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
ASSISTANT_DOCUMENT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": [DOCUMENT]},
    {"role": "user", "content": "b"},
]
CITED: dict[str, Any] = {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}


def refused(endpoints: Endpoints, wire: str, **changes: Any) -> anthropic.APIStatusError:
    async def ask() -> None:
        async with client(endpoints, wire) as made:
            await made.messages.create(**{**request(wire), **changes})

    with pytest.raises(anthropic.BadRequestError) as caught:
        asyncio.run(ask())
    return caught.value


def test_bedrock_refuses_what_the_sdk_says_by_itself(control: Control, endpoints: Endpoints) -> None:
    error = refused(endpoints, "bedrock", extra_body={})
    assert error.response.headers["x-amzn-errortype"].startswith("ValidationException:")
    assert error.response.json() == {"message": "Invalid API version: 2026-10-21"}


def test_vertex_refuses_what_the_sdk_says_by_itself(control: Control, endpoints: Endpoints) -> None:
    (document,) = refused(endpoints, "vertex", extra_body={}).response.json()
    assert (document["error"]["code"], document["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "vertex-2023-10-16" in document["error"]["message"]


@pytest.mark.parametrize("wire", ["anthropic", "messages", "mantle", "platform"])
def test_a_version_that_there_is_not_is_an_invalid_request(control: Control, endpoints: Endpoints, wire: str) -> None:
    error = refused(endpoints, wire, extra_headers={"anthropic-version": "bedrock-2023-05-31"})
    document = error.response.json()
    assert document["error"]["type"] == "invalid_request_error"
    assert document["error"]["message"] == 'anthropic-version: "bedrock-2023-05-31" is not a valid version.'


ASKING = [
    ({"temperature": 1.0}, "temperature: Extra inputs are not permitted"),
    ({"top_p": 0.5}, "top_p: Extra inputs are not permitted"),
    ({"top_k": 5}, "top_k: Extra inputs are not permitted"),
    ({"messages": ASSISTANT_DOCUMENT}, "messages.1.content.0"),
    ({"messages": [{"role": "user", "content": [CITED]}]}, "messages.0.content.0.text.citations"),
    (
        {"messages": [{"role": "user", "content": [{"type": "search_result", "content": [CITED]}]}]},
        "messages.0.content.0",
    ),
]


@pytest.mark.parametrize(("asked", "says"), ASKING)
@pytest.mark.parametrize("wire", ["anthropic", "messages", "mantle", "platform"])
def test_the_newest_version_refuses_what_the_older_takes(
    control: Control, endpoints: Endpoints, wire: str, asked: dict[str, Any], says: str
) -> None:
    assert says in str(refused(endpoints, wire, extra_body=asked, **NEW))

    async def older() -> Any:
        async with client(endpoints, wire) as made:
            return await made.messages.create(**{**request(wire), "extra_body": asked, **OLD})

    assert asyncio.run(older()).stop_reason == "end_turn"


@pytest.mark.parametrize(("asked", "says"), ASKING)
@pytest.mark.parametrize("wire", ["bedrock", "vertex"])
def test_the_clouds_versions_take_them(
    control: Control, endpoints: Endpoints, wire: str, asked: dict[str, Any], says: str
) -> None:
    assert asyncio.run(message(endpoints, wire, extra_body=asked)).stop_reason == "end_turn", says


def test_what_both_take_is_taken(control: Control, endpoints: Endpoints) -> None:
    answered = [*BODY["messages"], {"role": "assistant", "content": [CITED]}, {"role": "user", "content": [DOCUMENT]}]
    assert asyncio.run(call(endpoints, "anthropic", messages=answered)).http_response.status_code == 200
