"""A server that notes what a caller sends it, in place of a provider."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters import build_caller
from trivet_worker.adapters.protocol import Caller


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


def listened(settings: dict[str, Any], work: Callable[[Caller], Awaitable[Any]], status: str = "200 OK") -> Listener:
    message = {"type": "message", "content": [], "stop_reason": "end_turn",
               "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
    body = orjson.dumps(message)
    listener = Listener(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body))

    async def run() -> None:
        server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        caller = build_caller(RouteSettings(base_url=f"http://127.0.0.1:{port}", **settings))
        try:
            await work(caller)
        finally:
            await caller.close()
            server.close()
            await server.wait_closed()

    asyncio.run(run())
    return listener
