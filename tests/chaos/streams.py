"""Many streamed requests through a gateway at a time, and what each of them saw."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson

AT_ONCE = 24
"""Streams that are open at a time."""


@dataclass
class Seen:
    """One request, as its client saw it."""

    job: str | None = None
    """None: no answer came, not even its head."""
    status: int | None = None
    events: list[str] = field(default_factory=list)
    text: str = ""
    closed: bool = False
    """True if the connection broke."""

    @property
    def complete(self) -> bool:
        """True if it is a whole answer."""
        return self.events[-1:] == ["message_stop"]

    @property
    def honest(self) -> bool:
        """True if it is one whole answer, or says that it is none: an error, or a broken connection."""
        starts = [event for event in self.events if event == "message_start"]
        told = self.closed or self.events[-1:] == ["error"] or (self.status or 0) >= 400
        return len(starts) <= 1 and (self.complete != told)


async def stream_all(url: str, key: str, count: int, request: dict[str, Any], headers: dict[str, str]) -> list[Seen]:
    """Send so many streamed requests, `AT_ONCE` at a time, and read all of their answers."""
    limits = httpx2.Limits(max_connections=AT_ONCE)
    places = asyncio.Semaphore(AT_ONCE)
    async with httpx2.AsyncClient(
        base_url=url, headers={"x-api-key": key, **headers}, timeout=90, limits=limits
    ) as client:

        async def one(number: int) -> Seen:
            async with places:
                words = [{"role": "user", "content": f"Number {number}."}]
                return await _stream(client, {**request, "messages": words, "stream": True})

        return await asyncio.gather(*(one(number) for number in range(count)))


async def _stream(client: httpx2.AsyncClient, request: dict[str, Any]) -> Seen:
    seen = Seen()
    try:
        async with client.stream("POST", "/v1/messages", json=request) as answer:
            seen.status, seen.job = answer.status_code, answer.headers.get("x-trivet-job")
            if answer.status_code >= 400:
                await answer.aread()
                return seen
            async for line in answer.aiter_lines():
                _take(seen, line)
    except httpx2.TransportError:
        seen.closed = True
    if not seen.complete and seen.events[-1:] != ["error"]:
        seen.closed = True
    return seen


def _take(seen: Seen, line: str) -> None:
    if line.startswith("event: "):
        if (event := line.removeprefix("event: ")) != "ping":
            seen.events.append(event)
    elif line.startswith("data: "):
        with contextlib.suppress(orjson.JSONDecodeError):  # cut in the middle: what follows tells
            delta = orjson.loads(line.removeprefix("data: ")).get("delta", {})
            seen.text += delta.get("text", "")
