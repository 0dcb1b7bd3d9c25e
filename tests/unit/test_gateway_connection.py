"""The bounds of one connection to the gateway, over real sockets and an application of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from trivet.gateway.connection import BoundedConnection
from trivet_tasks.config.gateway import GatewaySettings

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
HALF = b"GET / HTTP/1.1\r\nx-half: "
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


class Peer(NamedTuple):
    """The client's end of a connection, and the state of the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: ServerState

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def refused(self, timeout_s: float) -> bool:
        """Return whether the connection is refused within this time."""
        connections = list(self.state.connections)
        for _ in range(round(timeout_s / 0.005)):
            if all(isinstance(one, BoundedConnection) and one.refused for one in connections):
                return True
            await asyncio.sleep(0.005)
        return False


class Served:
    """An application that answers in two parts: the second once `go` is set. It reads a body only where it is told to."""

    def __init__(self, *, reads: bool = False) -> None:
        self.go = asyncio.Event()
        self.reads = reads
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        while self.reads and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.go.wait()
        await send({"type": "http.response.body", "body": b"final"})


@asynccontextmanager
async def connected(app: Served) -> AsyncIterator[Peer]:
    """Serve the application to one connection within the block."""
    config = uvicorn.Config(app, http=BoundedConnection, log_config=None, access_log=False, timeout_keep_alive=1)
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedConnection(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(15):
            yield Peer(reader, writer, state)
    finally:
        writer.close()
        server.close()
        app.go.set()


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the bounds of connections."""

    def set_bounds(**given: float) -> None:
        monkeypatch.setattr(BoundedConnection, "bounds", GatewaySettings.model_validate(given))

    return set_bounds


def run(test: Awaitable[None]) -> None:
    asyncio.run(test)  # type: ignore[arg-type]  # a coroutine


@pytest.mark.parametrize("stray", [b"\r\n", b"a"], ids=["an empty line", "a byte of a body that nobody reads"])
def test_bytes_that_begin_no_request_keep_no_connection_open(bounds: Callable[..., None], stray: bytes) -> None:
    bounds(head_timeout_s=600)
    request = GET if stray == b"\r\n" else b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"

    async def test() -> None:
        app = Served()
        app.go.set()
        async with connected(app) as peer:
            await peer.send(request)
            assert (await peer.reader.readuntil(b"final")).startswith(b"HTTP/1.1 200")
            await peer.send(stray)
            assert await peer.reader.read() == b""

    run(test())


def test_requests_without_a_body_add_up_to_nothing(bounds: Callable[..., None]) -> None:
    bounds(max_header_kb=1)

    async def test() -> None:
        app = Served()
        app.go.set()
        async with connected(app) as peer:
            for _ in range(60):
                await peer.send(GET)
                assert (await peer.reader.readuntil(b"final")).startswith(b"HTTP/1.1 200")

    run(test())


def test_trailers_are_bounded(bounds: Callable[..., None]) -> None:
    bounds(max_header_kb=1, head_timeout_s=600)

    async def test() -> None:
        app = Served(reads=True)
        async with connected(app) as peer:
            await peer.send(CHUNKED + b"1\r\na\r\n0\r\n")
            while not await peer.refused(0.02):
                await peer.send(b"x-trailer: " + b"a" * 100 + b"\r\n")
            assert (await peer.reader.read()).startswith(b"HTTP/1.1 431")

    run(test())


def test_a_trailer_is_no_header(bounds: Callable[..., None]) -> None:
    bounds()

    async def test() -> None:
        app = Served(reads=True)
        app.go.set()
        async with connected(app) as peer:
            await peer.send(CHUNKED + b"1\r\na\r\n0\r\nx-api-key: late\r\n\r\n")
            assert (await peer.reader.readuntil(b"final")).startswith(b"HTTP/1.1 200")
        assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]

    run(test())


@pytest.mark.parametrize(
    "second", [HALF, HALF + b"a" * 2_000, b"\x00\x00\r\n\r\n"], ids=["late", "too large", "not HTTP"]
)
def test_an_answer_that_is_under_way_is_not_written_into(bounds: Callable[..., None], second: bytes) -> None:
    bounds(max_header_kb=1, head_timeout_s=0.2)

    async def test() -> None:
        app = Served()
        async with connected(app) as peer:
            await peer.send(GET)
            begun = await peer.reader.readuntil(b"first")
            await peer.send(second)
            assert await peer.refused(10)
            app.go.set()
            rest = await peer.reader.read()  # to the end of the connection
        assert begun.startswith(b"HTTP/1.1 200")
        assert rest == b"final"

    run(test())


def test_a_body_that_is_not_chunked_as_it_says_is_answered_at_once(bounds: Callable[..., None]) -> None:
    bounds()

    async def test() -> None:
        async with connected(Served(reads=True)) as peer:
            await peer.send(CHUNKED + b"zz\r\n")
            assert (await peer.reader.read()).startswith(b"HTTP/1.1 400")

    run(test())
