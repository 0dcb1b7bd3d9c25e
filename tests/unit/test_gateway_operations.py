"""Reading parameters of the HTTP resources, errors as JSON, and handing out events."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trivet.admin import Event, Happening
from trivet.gateway.errors import ApiError
from trivet.gateway.event_hub import MAX_PENDING, EventHub
from trivet.gateway.resources.batches import ResultsQuery
from trivet.gateway.resources.jobs import JobsQuery
from trivet.gateway.resources.operating import CostsQuery, RaiseBody
from trivet.gateway.resources.operation import BatchPath, JobPath, Parameters, read
from trivet.periods import period
from trivet_tasks.errors import InvalidRequest

EVENT = Event(1.0, "route open", "anthropic", "*", "a test")


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (JobsQuery, {"stat": "failed"}, "stat: there is no such parameter here. Known: state, batch,"),
        (JobsQuery, {"limit": "501"}, "limit: "),
        (JobsQuery, {"limit": "many"}, "limit: "),
        (JobsQuery, {"state": "late"}, "state: "),
        (JobsQuery, {"before": "A" * 32}, "before: "),
        (JobsQuery, {"key": "a\x00b"}, "key: "),
        (JobsQuery, {"key": "k" * 251}, "key: "),
        (ResultsQuery, {"state": "succeeded,running"}, "state: "),
        (CostsQuery, {"since": "9" * 41}, "since: "),
        (RaiseBody, {"usd": 5}, "usd: "),
        (RaiseBody, {"usd": "1e9"}, "usd: "),
        (RaiseBody, {}, "usd: "),
    ],
)
def test_a_wrong_parameter_is_named(model: type[Parameters], given: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(model, given)
    assert refused.value.status == 400
    assert refused.value.message.startswith(words)


@pytest.mark.parametrize(("model", "given"), [(JobPath, {"id": "x"}), (BatchPath, {"name": "a\x7f"})])
def test_what_cannot_be_a_name_is_not_found(model: type[Parameters], given: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        read(model, given, missing=404)
    assert refused.value.status == 404


def test_an_error_may_quote_half_of_a_pair() -> None:
    error = json.loads(ApiError(400, "model: '\ud800' is none.").body("req_1"))
    assert error["error"]["message"] == "model: '?' is none."


def test_a_span_counts_back_and_is_named_as_asked() -> None:
    assert period("1h", "30m", 7_200.0) == (3_600.0, 5_400.0)
    for since, until, name in (("soon", None, "since"), ("1h", "2h", "until"), ("30", None, "since")):
        with pytest.raises(InvalidRequest, match=f"^{name}: ") as refused:
            period(since, until, 7_200.0, options=("since", "until"))
        assert refused.value.field == name


class Feed:
    """Events that a test tells."""

    def __init__(self, *groups: list[Happening]) -> None:
        self.groups = groups
        self.ended = threading.Event()
        self.go = threading.Event()
        self.told = threading.Event()

    def follow(self, stop: threading.Event) -> Iterator[list[Happening]]:
        yield []
        self.go.wait(20)
        yield from self.groups
        self.told.set()
        stop.wait(20)
        self.ended.set()


async def _heard(hub: EventHub, feed: Feed, count: int, wanted: type) -> list[Happening | None]:
    async with hub.listening(lambda happening: isinstance(happening.what, wanted)) as listener:
        feed.go.set()
        async with asyncio.timeout(20):
            return [await listener.queue.get() for _ in range(count)]


def test_a_listener_hears_what_it_wants_and_the_last_one_ends_the_thread() -> None:
    feed = Feed([Happening(1, EVENT)], [Happening(2, EVENT)])
    hub = EventHub(lambda: feed)  # type: ignore[arg-type,return-value]
    assert asyncio.run(_heard(hub, feed, 2, Event)) == [Happening(1, EVENT), Happening(2, EVENT)]
    assert feed.ended.wait(20)


def test_a_listener_that_is_too_slow_is_dropped() -> None:
    feed = Feed([Happening(number, EVENT) for number in range(MAX_PENDING + 5)])
    hub = EventHub(lambda: feed)  # type: ignore[arg-type,return-value]

    async def slow() -> tuple[int, Happening | None]:
        async with hub.listening(lambda _: True) as listener:
            feed.go.set()
            assert await asyncio.to_thread(feed.told.wait, 20)
            await asyncio.sleep(0)  # what the thread told is handed out
            held = [listener.queue.get_nowait() for _ in range(listener.queue.qsize())]
            return len(held), held[-1]

    assert asyncio.run(slow()) == (MAX_PENDING, None)
    assert feed.ended.wait(20)


def test_closing_ends_all_who_listen() -> None:
    feed = Feed()
    hub = EventHub(lambda: feed)  # type: ignore[arg-type,return-value]

    async def close() -> Happening | None:
        async with hub.listening(lambda _: True) as listener:
            feed.go.set()
            hub.close()
            async with asyncio.timeout(20):
                return await listener.queue.get()

    assert asyncio.run(close()) is None
    assert feed.ended.wait(20)


def test_an_unexpected_fault_ends_the_connections_and_the_next_listener_starts_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(Feed):
        def follow(self, stop: threading.Event) -> Iterator[list[Happening]]:
            yield []
            raise KeyError("a secret")

    feeds: list[Feed] = [Faulty(), Feed([Happening(7, EVENT)])]
    hub = EventHub(lambda: feeds.pop(0))  # type: ignore[arg-type,return-value]
    last = feeds[-1]

    async def listen() -> list[Happening | None]:
        heard: list[Happening | None] = []
        for _ in range(2):
            async with asyncio.timeout(20), hub.listening(lambda _: True) as listener:
                last.go.set()
                heard.append(await listener.queue.get())
        return heard

    assert asyncio.run(listen()) == [None, Happening(7, EVENT)]
    assert "KeyError at " in caplog.text
    assert "a secret" not in caplog.text
