"""Reading of a request, bounded in size and time: its body as JSON, and the headers that say how to serve it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from trivet.gateway.context import MIB, Gateway
from trivet.gateway.errors import ApiError
from trivet_tasks.latency import Latency
from trivet_tasks.requests.reading import OWN_FIELDS
from trivet_tasks.requests.request_body import BODY_FIELDS, REFUSED_FIELDS

LARGE_BYTES = 256 * 1024
"""Size of a body from which on it is parsed in a thread: the event loop would stand still meanwhile."""
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_TEXTS = {"latency": "x-trivet-latency", "deadline": "x-trivet-deadline", "tenant": "x-trivet-tenant"}
_LISTS = {"residency": "x-trivet-residency", "compliance": "x-trivet-compliance"}
_BY_HEADER = {
    **_TEXTS,
    **_LISTS,
    "tags": "x-trivet-tags",
    "cache": "x-trivet-cache",
    "key": "idempotency-key",
}
"""Headers for Trivet's own fields of a request, by field."""
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_KNOWN = BODY_FIELDS.keys() | REFUSED_FIELDS.keys() | {"model"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the Messages API: `fields` as `Client.submit` takes them."""

    fields: dict[str, Any]
    stream: bool
    at_once: bool
    """True if the answer is to be the job, not its result."""
    keyed: bool
    """True if it has an idempotency key."""


async def read_json(request: Request, most: int | None = None) -> dict[str, Any]:
    """Return the body, a JSON object. Raises as `body_of` does, whose block it does not need."""
    async with body_of(request, most) as (body, _):
        return body


@contextlib.asynccontextmanager
async def body_of(request: Request, most: int | None = None) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """Read the body, a JSON object, and return it with its size in bytes. Its memory counts until the block ends.

    Args:
        most: maximum size in bytes; None: `[gateway] max_body_mb`.

    Raises:
        ApiError: 400 for one that is no JSON object or is broken off, 408 for one that comes too slowly, 413 for a larger one, 529 when
            too many bodies are being read.
    """
    gateway: Gateway = request.app.state.gateway
    largest = int(gateway.bounds.max_body_mb * MIB) if most is None else most
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > largest:
        raise _too_large(largest)
    held = 0
    pieces: list[bytes] = []
    try:
        try:
            async with asyncio.timeout(gateway.bounds.body_timeout_s):
                async for piece in request.stream():
                    gateway.bodies.take(len(piece))
                    held += len(piece)
                    if held > largest:
                        raise _too_large(largest)
                    pieces.append(piece)
        except TimeoutError:
            limit = f"{gateway.bounds.body_timeout_s:g} s"
            raise ApiError(408, f"The body did not come within {limit}.", {"connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(400, "The body was broken off.") from None
        raw = b"".join(pieces)
        pieces.clear()
        yield (await gateway.run(_parse, raw) if held > LARGE_BYTES else _parse(raw)), held
    finally:
        gateway.bodies.give_back(held)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return body


def _too_large(largest: int) -> ApiError:
    message = f"The request is larger than {largest:,} bytes, the maximum here (`[gateway] max_body_mb`)."
    return ApiError(413, message, {"connection": "close", "x-should-retry": "false"})


def read_asked(headers: Headers, body: Mapping[str, Any]) -> Asked:
    """Return what a request of the Messages API asks for.

    Raises:
        ApiError: 400; names the field or header.
    """
    if not _VERSION.fullmatch(headers.get("anthropic-version", "2023-06-01")):  # each route has its own
        raise ApiError(400, "anthropic-version: must be a date such as 2023-06-01.")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise ApiError(400, "stream: must be true or false.")
    for name in OWN_FIELDS.difference({"model"}).intersection(body):
        instead = f"Give the header {_BY_HEADER[name]}." if name in _BY_HEADER else "Leave it out."
        raise ApiError(400, f"{name}: is not a field of the Messages API. {instead}")
    fields = {name: value for name, value in body.items() if name in _KNOWN and name != "stream"}
    if unknown := {name: value for name, value in body.items() if name not in _KNOWN}:
        fields["extra_body"] = unknown
    if betas := ",".join(headers.getlist("anthropic-beta")):
        fields["extra_headers"] = {"anthropic-beta": betas}
    fields |= _own_fields(headers)
    latency = fields.setdefault("latency", Latency.INTERACTIVE.value)
    preferred = [one.strip().lower() for one in headers.get("prefer", "").split(",")]
    at_once = "respond-async" in preferred or latency in (Latency.BATCH, Latency.ASYNC, Latency.DEFERRED)
    if stream and at_once:
        raise ApiError(
            400,
            "stream: the answer to this request is its job, which cannot be streamed. Leave out `stream`, or ask for the "
            "class interactive or realtime, without `Prefer: respond-async`.",
        )
    return Asked(fields, bool(stream), at_once, "key" in fields)


def _own_fields(headers: Headers) -> dict[str, Any]:
    """Return Trivet's own fields, from their headers."""
    fields: dict[str, Any] = {}
    for name, header in _TEXTS.items():
        if (text := headers.get(header)) is not None:
            fields[name] = text.strip()
    for name, header in _LISTS.items():
        if (text := headers.get(header)) is not None:
            fields[name] = [part.strip() for part in text.split(",")]
    if (text := headers.get("x-trivet-tags")) is not None:
        fields["tags"] = _tags(text.strip())
    if (text := headers.get("x-trivet-cache")) is not None:
        if text.strip().lower() not in _FLAGS:
            raise ApiError(400, "x-trivet-cache: must be true or false.")
        fields["cache"] = _FLAGS[text.strip().lower()]
    if (text := headers.get("idempotency-key")) is not None:
        fields["key"] = text
    if _SECONDS.fullmatch(fields.get("deadline", "")):  # else it is a span or a moment, which the reader checks
        fields["deadline"] = float(fields["deadline"])
    return fields


def _tags(text: str) -> dict[str, Any]:
    if text.startswith("{"):
        try:
            tags = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ApiError(400, "x-trivet-tags: is not JSON.") from None
        return dict(tags)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(name.strip() and found for name, found, _ in pairs):
        raise ApiError(400, "x-trivet-tags: must be name=value pairs separated by commas, or a JSON object.")
    return {name.strip(): value.strip() for name, _, value in pairs}
