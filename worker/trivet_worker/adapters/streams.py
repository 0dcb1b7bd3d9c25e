"""Reading a streamed answer: bytes to events to a message."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from trivet_worker.adapters import bodies
from trivet_worker.adapters.answer_json import MAX_VALUES, NotJson, loads
from trivet_worker.adapters.assembly import Assembly
from trivet_worker.adapters.messages import is_error
from trivet_worker.adapters.stream_events import (
    AWS_TYPE,
    GARBLED,
    AwsEvents,
    BrokenFraming,
    EventReader,
    ServerSentEvents,
    StreamEvent,
    TooLarge,
)

_DRAIN_S = 1.0
"""Seconds after a stream's last event to wait for the end of the body, without which the connection cannot be reused."""
_MAX_VALUES = 2 * MAX_VALUES
"""Values in all events of a stream: most are gone once they are read."""
_DONE = b"[DONE]"
"""The last event of other vendors' streams, which gateways add."""


class Failed(Exception):
    """The provider said, in the body of a 200, that the call failed. `body` is the error, parsed or as text."""

    def __init__(self, body: object) -> None:
        super().__init__()
        self.body = body
        self.status = _status_in(body)


def reader_for(content_type: str, provider: str) -> EventReader:
    """Return the reader of a stream: by its content type, or, without one, by the provider."""
    aws = content_type.startswith(AWS_TYPE) or (provider == "bedrock" and not content_type.startswith("text/"))
    return AwsEvents() if aws else ServerSentEvents()


async def assemble(response: httpx2.Response, reader: EventReader, assembly: Assembly, encoding: str) -> None:
    """Feed a stream to `assembly`, to its last event; then read what follows, so that the connection can be used again.

    Raises:
        Failed: an event is an error.
        TooLarge
        httpx2.HTTPError: and what else the network raises. What `assembly` has by then may be whole.
    """
    values = 0
    async with contextlib.aclosing(bodies.pieces(response, bodies.MAX_ANSWER_BYTES, encoding)) as pieces:
        async for event in _events(pieces, reader, assembly):
            values += event.data.count(b",") + event.data.count(b"[") + event.data.count(b"{")
            if values > _MAX_VALUES:
                raise TooLarge(f"the stream holds more than {_MAX_VALUES:,} values")
            _take(event, assembly)
            if assembly.ended:
                break
        await _drain(pieces)
    await response.aclose()


async def _events(pieces: AsyncIterator[bytes], reader: EventReader, assembly: Assembly) -> AsyncIterator[StreamEvent]:
    try:
        async for piece in pieces:
            for event in reader.feed(piece):
                yield event
        if not assembly.is_whole:  # what was cut off behind a whole message is nothing of it
            for event in reader.rest():
                yield event
    except BrokenFraming as error:
        assembly.spoil(str(error))


def _take(event: StreamEvent, assembly: Assembly) -> None:
    if event is GARBLED:
        return assembly.spoil("an event of the stream is garbled")
    if not event.data or event.data == _DONE or event.name == "ping":
        return None
    try:
        document = loads(event.data)
    except NotJson:
        if event.name == "error":
            raise Failed(event.data[: bodies.MAX_ERROR_BYTES].decode("utf-8", "replace")) from None
        return assembly.spoil("an event of the stream is garbled")
    if event.name == "error" or is_error(document):
        raise Failed(document)
    assembly.take(document)
    return None


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read the rest. The message is complete, so no error here matters."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in pieces:
                pass


def _status_in(body: Any) -> int:
    """The HTTP status that a Google error object stands for; 200 of others, whose type says what they are."""
    document = body[0] if isinstance(body, list) and body else body
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("status"), str):
        return 200
    code = error.get("code")
    return code if isinstance(code, int) and 400 <= code <= 599 else 200
