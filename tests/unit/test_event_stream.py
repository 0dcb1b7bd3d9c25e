"""The stream of events of one client: what was missed is told once, and a key that is revoked hears no more."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from trivet.admin import Event, Happening
from trivet.gateway.event_hub import EventHub
from trivet.gateway.principal import Principal, Unauthenticated
from trivet.gateway.resources.events import EventsQuery, stream_events
from trivet.gateway.resources.operation import Call
from trivet_tasks.errors import StoreUnavailable

EVENT = Event(1.0, "route open", "anthropic", "*", "a test")
KEY = Principal("k", "tests", admin=True)


class Feed:
    """Events that a test tells, and what was missed before."""

    def __init__(self, missed: Sequence[int], told: Sequence[int]) -> None:
        self.missed = missed
        self.told = told

    def past(self, after: int) -> list[Happening]:
        return [Happening(number, EVENT) for number in self.missed if number > after]

    def follow(self, stop: threading.Event) -> Iterator[list[Happening]]:
        yield []
        for number in self.told:
            yield [Happening(number, EVENT)]
        stop.wait(20)


class Access:
    """Knows the key, until it raises or returns what a test says."""

    def __init__(self, *answers: Principal | Exception) -> None:
        self.answers = list(answers)

    async def principal_of(self, headers: Mapping[str, str]) -> Principal:
        answer = self.answers.pop(0) if self.answers else KEY
        if isinstance(answer, Exception):
            raise answer
        return answer


def heard(feed: Feed, access: Access, *, last_id: int, until: Callable[[str], bool] = lambda _: False) -> list[int]:
    """Return the ids that a client hears, until the stream ends or it has heard enough."""

    async def run(work: Callable[[], Any]) -> Any:
        return work()

    async def listen() -> list[int]:
        hub = EventHub(lambda: feed)  # type: ignore[arg-type,return-value]
        gateway = SimpleNamespace(events=hub, access=access, run=run, admin=SimpleNamespace(events=feed))
        headers = [(b"last-event-id", str(last_id).encode())]
        request = Request({"type": "http", "method": "GET", "path": "/", "headers": headers})
        answer = await stream_events(Call(request, gateway, KEY, None, EventsQuery(), None))  # type: ignore[arg-type]
        assert isinstance(answer, StreamingResponse)
        text = ""
        async with asyncio.timeout(15):
            body = answer.body_iterator
            assert isinstance(body, AsyncIterator)
            async for piece in body:
                assert isinstance(piece, bytes)
                text += piece.decode()
                if until(text):
                    break
        hub.close()
        return [int(line.removeprefix("id: ")) for line in text.splitlines() if line.startswith("id: ")]

    return asyncio.run(listen())


def test_an_event_with_a_smaller_id_that_is_committed_later_is_told() -> None:
    feed = Feed(missed=[11, 13], told=[11, 13, 12, 14])
    assert heard(feed, Access(), last_id=10, until=lambda text: "id: 14" in text) == [11, 13, 12, 14]


@pytest.mark.parametrize("answer", [Unauthenticated("The key is not valid."), Principal("k", "tests", tenant="acme")])
def test_a_key_that_was_revoked_or_changed_hears_no_more(answer: Principal | Exception) -> None:
    assert heard(Feed([], [1, 2, 3]), Access(KEY, answer), last_id=0) == [1]


def test_a_key_that_cannot_be_looked_up_now_goes_on_hearing() -> None:
    access = Access(KEY, StoreUnavailable("The database is away."))
    assert heard(Feed([], [1, 2, 3]), access, last_id=0, until=lambda text: "id: 3" in text) == [1, 2, 3]
