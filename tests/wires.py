"""The three wires as tests of callers see them, and providers on loopback that note requests or answer byte by byte."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import orjson

from trivet_simulator.eventstream import chunk_event
from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters import build_caller
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, Failure

KEY_VARIABLE, KEY = "TRIVET_TEST_KEY", "sk-test-0123456789"
WIRES = ("anthropic", "bedrock", "vertex")
MODELS = {
    "anthropic": "claude-haiku-4-5",
    "bedrock": "global.anthropic.claude-haiku-4-5-20251001-v1:0",
    "vertex": "claude-haiku-4-5@20251001",
}
Result = TypeVar("Result")
REQUEST: dict[str, Any] = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
BODY = orjson.dumps(REQUEST)


def response(body: bytes, status: int = 200, /, **headers: str) -> bytes:
    """A whole HTTP response; `content_type` is the header `content-type`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"content-length": str(len(body)), "content-type": "application/json", **given}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1") + body


def in_chunks(pieces: Iterable[bytes], *, last: bool = True, **headers: str) -> bytes:
    """A response whose body comes in chunks, each of these pieces one; without the last chunk it stays open."""
    named = {"transfer-encoding": "chunked", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1") + chunks + (b"0\r\n\r\n" if last else b"")


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


async def worked(settings: RouteSettings, work: Callable[[Caller], Awaitable[Result]]) -> Result:
    """Return what `work` makes of a caller with these settings, which is closed afterwards."""
    caller = build_caller(settings)
    try:
        return await work(caller)
    finally:
        await caller.close()


def with_caller(settings: RouteSettings, work: Callable[[Caller], Awaitable[Result]]) -> Result:
    """Return the same, in an event loop of its own."""
    return asyncio.run(worked(settings, work))


class Listener:
    """A server that notes the requests it gets, and answers each with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((head[0].split(" ")[1], headers, body))
                writer.write(self._answer)
        except asyncio.IncompleteReadError:
            writer.close()


def listened(settings: Mapping[str, Any], work: Callable[[Caller], Awaitable[Any]], status: str = "200 OK") -> Listener:
    """Let a caller with these settings work against a listener."""
    message = {"type": "message", "content": [], "stop_reason": "end_turn",
               "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
    body = orjson.dumps(message)
    listener = Listener(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body))

    async def run() -> None:
        server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await worked(RouteSettings(base_url=f"http://127.0.0.1:{port}", **settings), work)
        server.close()
        await server.wait_closed()

    asyncio.run(run())
    return listener


class FedWire:
    """Answers every request with `reply`: the bytes of a response, or pieces of it."""

    def __init__(self) -> None:
        self.reply: bytes | Iterable[bytes] = b""
        self.sent = 0
        """Bytes of the last reply that the caller took."""
        self.url = ""
        self.connections = 0
        self.pause_s = 0.0
        """Seconds before each further piece."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: every request on it, until it is closed."""
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                self.sent = 0
                for piece in (self.reply,) if isinstance(self.reply, bytes) else self.reply:
                    if self.sent and self.pause_s:
                        await asyncio.sleep(self.pause_s)
                    writer.write(piece)
                    await writer.drain()
                    self.sent += len(piece)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
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


def settings_of(wire: str, url: str, **more: Any) -> RouteSettings:
    """A route on one wire whose provider is at this URL, and whose key is in the environment."""
    region = {"bedrock": "us-east-1", "vertex": "us-east5"}.get(wire)
    own = {
        "provider": wire,
        "base_url": url,
        "api_key": f"env:{KEY_VARIABLE}",
        "region": region,
        "project": "a-project",
    }
    return RouteSettings.model_validate({**own, **more})


def answered_with(wire: str, reply: bytes | Iterable[bytes], *, streams: bool, calls: int = 1) -> Answer | Failure:
    """Return the result of a call with this answer; of several calls, the last: later ones are sent without the SDK."""

    async def run() -> Answer | Failure:
        async with fed_wire() as fed:
            fed.reply = reply

            async def each(caller: Caller) -> Answer | Failure:
                for _ in range(calls):
                    result = await caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(30))
                return result

            return await worked(settings_of(wire, fed.url, stream=streams), each)

    return asyncio.run(run())
