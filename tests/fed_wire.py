"""A provider whose every answer is given byte by byte: an HTTP server on loopback in the loop of the calls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson

from trivet_simulator.eventstream import chunk_event
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.secret_refs import SecretRef
from trivet_worker.adapters import build_caller
from trivet_worker.adapters.protocol import Answer, Caller, Failure

KEY_VARIABLE = "TRIVET_TEST_KEY"
WIRES = ("anthropic", "bedrock", "vertex")
MODELS = {
    "anthropic": "claude-haiku-4-5",
    "bedrock": "global.anthropic.claude-haiku-4-5-20251001-v1:0",
    "vertex": "claude-haiku-4-5@20251001",
}
BODY = b'{"max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}'


def response(body: bytes, status: int = 200, /, **headers: str) -> bytes:
    """A whole HTTP response; `content_type` is the header `content-type`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"content-length": str(len(body)), "content-type": "application/json", **given}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1") + body


def stream_type(wire: str) -> str:
    """Return the content type of a stream of this wire."""
    return "application/vnd.amazon.eventstream" if wire == "bedrock" else "text/event-stream"


def framed(wire: str, data: bytes, name: str | None = None) -> bytes:
    """One event as this wire sends it."""
    if wire == "bedrock":
        return chunk_event(data)
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: %b\n\n" % data


def stream(wire: str, events: Iterable[Any]) -> bytes:
    """The body of a streamed answer. Events are objects, or bytes of JSON as they are to be sent."""
    return b"".join(
        framed(wire, event if isinstance(event, bytes) else orjson.dumps(event), _name(event)) for event in events
    )


def _name(event: Any) -> str | None:
    kind = event.get("type") if isinstance(event, dict) else None
    return kind if isinstance(kind, str) and kind.isascii() and kind.isprintable() else None


class FedWire:
    """Answers every request with `reply`: the bytes of a response, or pieces of it."""

    def __init__(self) -> None:
        self.reply: bytes | Iterable[bytes] = b""
        self.sent = 0
        """Bytes of the last reply that the caller took."""
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: every request on it, until it is closed."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                self.sent = 0
                for piece in (self.reply,) if isinstance(self.reply, bytes) else self.reply:
                    writer.write(piece)
                    await writer.drain()
                    self.sent += len(piece)
        writer.close()


@contextlib.asynccontextmanager
async def fed_wire() -> AsyncIterator[FedWire]:
    """A running `FedWire`."""
    fed = FedWire()
    server = await asyncio.start_server(fed.answer, "127.0.0.1", 0)
    fed.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fed
    finally:
        server.close()


def caller_of(fed: FedWire, wire: str, *, streams: bool) -> Caller:
    """A caller of one wire. The key stands in the environment under `KEY_VARIABLE`."""
    return build_caller(
        RouteSettings(
            provider=wire,  # type: ignore[arg-type]
            base_url=fed.url,
            api_key=SecretRef("env", KEY_VARIABLE),
            region={"bedrock": "us-east-1", "vertex": "us-east5"}.get(wire),
            project="a-project",
            stream=streams,
        )
    )


def answered_with(wire: str, reply: bytes | Iterable[bytes], *, streams: bool, calls: int = 1) -> Answer | Failure:
    """Return the result of a call with this answer; of several calls, the last: later ones are sent without the SDK."""

    async def run() -> Answer | Failure:
        async with fed_wire() as fed:
            fed.reply = reply
            caller = caller_of(fed, wire, streams=streams)
            try:
                for _ in range(calls):
                    result = await caller.call(BODY, MODELS[wire], "attempt-1", 30)
            finally:
                await caller.close()
            return result

    return asyncio.run(run())
