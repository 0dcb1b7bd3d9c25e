"""Interface of a wire, and the parts that Anthropic's message form shares on all of them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from trivet_simulator.answers import Answer, Usage
from trivet_simulator.catalogue import Reply
from trivet_simulator.http import Request, response
from trivet_simulator.limits import Refusal

MAX_TOKENS_CEILING = 2_000_000
REFUSED_SINCE = "2026-10-21"
"""From this version of the API on some fields are refused."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path that means a call. `model` and `stream` are None where the body says it."""

    model: str | None = None
    stream: bool | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A reply as this wire sends it, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def raw(self) -> bytes:
        """The bytes of the response."""
        return response(self.status, self.headers, self.body)


class Counting(Protocol):
    """The way in which a wire counts the tokens of a request."""

    def route(self, request: Request) -> Route | None:
        """Return the model in the path of a request for a count, if it is one."""

    def asked(self, document: dict[str, Any], model: str) -> dict[str, Any] | str:
        """Return the request whose tokens are counted, with `max_tokens`; or the objection to it."""

    def answer(self, tokens: int) -> bytes:
        """Return the body of the answer."""


class Wire(Protocol):
    """One provider's side of the conversation. Stateless; built without arguments."""

    name: str
    forms: str
    """Whose forms its errors have: the wire that the catalogue of faults names."""
    max_body: int
    id_prefix: str
    request_id_header: str
    json_type: str
    stream_type: str
    counting: Counting

    def route(self, request: Request) -> Route | None:
        """Return the call that this request makes, if it is one."""

    def page(self, request: Request) -> Failure:
        """The answer to a request that is not a call."""

    def request_id(self, token: bytes) -> str:
        """A request id in the provider's form, made of 16 bytes."""

    def no_credentials(self, request: Request) -> Reply | None:
        """The reply when the request carries no credentials this wire takes, else None."""

    def invalid(self, message: str) -> Reply:
        """The reply to a body the model's API refuses."""

    def unknown_model(self, model: str) -> Reply | None:
        """The reply to a model's id in another wire's form, else None."""

    def version(self, request: Request, document: dict[str, Any]) -> str | Reply:
        """The version of the API that a call names, or the refusal of one that the wire does not speak."""

    def limited(self, refusal: Refusal, model: str) -> Reply:
        """The reply when a limit is used up."""

    def failure(self, reply: Reply, model: str, request_id: str, headers: dict[str, str]) -> Failure:
        """Put a reply on the wire."""

    def limit_headers(self, left: dict[str, tuple[float, float, float]]) -> dict[str, str]:
        """Headers that tell what is left of the limits."""

    def usage_headers(self, usage: Usage, latency_s: float) -> dict[str, str]:
        """Headers that tell what a call that did not stream used."""

    def dress(self, answer: Answer) -> None:
        """Add the fields of the message that only this wire has."""

    def frame(self, event: dict[str, Any]) -> bytes:
        """One event of a stream."""

    def broken_frame(self) -> bytes:
        """An event whose JSON is broken."""

    def error_frame(self) -> bytes:
        """An error inside a stream."""


def problem_with(document: dict[str, Any], version: str) -> str | None:
    """Return the objection of this version of the Messages API to a body, or None. Wording after the live API's."""
    max_tokens = document.get("max_tokens")
    if max_tokens is None:
        return "max_tokens: Field required"
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        return "max_tokens: Input should be a valid integer"
    if max_tokens < 1:
        return "max_tokens: must be greater than or equal to 1"
    if max_tokens > MAX_TOKENS_CEILING:
        return f"max_tokens: {max_tokens} > {MAX_TOKENS_CEILING}, which is the maximum allowed number of output tokens"
    messages = document.get("messages")
    if messages is None:
        return "messages: Field required"
    if not isinstance(messages, list):
        return "messages: Input should be a valid list"
    if not messages:
        return "messages: at least one message is required"
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"messages.{i}: Input should be a valid dictionary"
        if message.get("role") not in ("user", "assistant", "system"):
            return f"messages.{i}.role: Input should be 'user' or 'assistant'"
        content = message.get("content")
        if content is None:
            return f"messages.{i}.content: Field required"
        if not content and message["role"] == "user":
            return f"messages.{i}: user messages must have non-empty content"
    return None if dated(version) < REFUSED_SINCE else _refused_by_version(document)


def _refused_by_version(document: dict[str, Any]) -> str | None:
    """Fields that version 2026-10-21 no longer takes (platform.claude.com, migration-2026-10-21)."""
    for name in ("temperature", "top_p", "top_k"):
        if name in document:
            return f"{name}: Extra inputs are not permitted"
    for i, message in enumerate(document["messages"]):
        content = message["content"]
        for j, block in enumerate(content if isinstance(content, list) else ()):
            if message["role"] == "assistant" and block.get("type") == "document":
                return f"messages.{i}.content.{j}: document blocks are not permitted in assistant messages"
            if message["role"] == "user" and _cites(block):
                return f"messages.{i}.content.{j}.text.citations: Extra inputs are not permitted"
    return None


def _cites(block: dict[str, Any]) -> bool:
    if block.get("type") == "search_result":
        return any(_cites(inner) for inner in block.get("content") or ())
    return block.get("type") == "text" and bool(block.get("citations"))


def dated(version: str) -> str:
    """The date of a version, on the clouds behind a name and a dash."""
    return version[-10:]


def anthropic_error(reply: Reply, message: str, request_id: str) -> bytes:
    """A first-party error body."""
    error: dict[str, Any] = {"type": reply.kind, "message": message}
    if reply.code is not None:
        error["details"] = {"error_code": reply.code}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id})


def sse(event: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


BROKEN_SSE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":\n\n'


def bearer(request: Request) -> str | None:
    """The token of `Authorization: Bearer`, or None."""
    scheme, _, token = (request.header(b"authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def letters(token: bytes) -> str:
    """Bytes as the letters and digits of an id."""
    return base64.b32encode(token).decode().rstrip("=")
