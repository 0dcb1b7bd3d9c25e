"""Publishing of streamed answers: bounded, for readers that are there, and no reason for a call to fail."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from tests.timing import moved_clock, until

from trivet_routing import answer_publishing
from trivet_routing.answer_publishing import (
    MAX_ENTRIES,
    PAUSE_S,
    TOO_MANY,
    TOO_MUCH,
    UNHEARD_S,
    AnswerPublisher,
    AttemptStream,
    pause_s,
)
from trivet_routing.answer_stream import AttemptEnd, EntryKind, StreamEntry, StreamSeal, stream_of
from trivet_tasks.outcomes import Outcome

SEAL = StreamSeal(b"k" * 32)
EVENT = b'{"type":"ping"}'


def publish(url: str, work: Callable[[AnswerPublisher], Awaitable[None]]) -> None:
    """Let some work publish, and write all of it."""

    async def run() -> None:
        publisher = AnswerPublisher(url, SEAL)
        await work(publisher)
        await publisher.close()

    asyncio.run(run())


def entries(client: redis.Redis, job_id: str) -> list[StreamEntry | None]:
    found: Any = client.xrange(stream_of(job_id))
    return [SEAL.open(job_id, fields) for _, fields in found]


def url_of(client: redis.Redis) -> str:
    return f"unix://{client.connection_pool.connection_kwargs['path']}"


def test_events_and_the_end_are_written_in_order_and_expire(client: redis.Redis) -> None:
    async def work(publisher: AnswerPublisher) -> None:
        stream = publisher.open("job", "attempt")
        stream.put(EVENT)
        stream.put(EVENT)
        stream.end(Outcome.SUCCEEDED)
        stream.put(b"too late")

    publish(url_of(client), work)
    assert entries(client, "job") == [
        StreamEntry("attempt", 0, EntryKind.EVENTS, EVENT + b"\n" + EVENT),
        StreamEntry("attempt", 1, EntryKind.END, AttemptEnd("succeeded", "").data()),
    ]
    assert 0 < client.ttl(stream_of("job")) <= 60


def test_an_answer_that_is_too_large_ends_with_the_reason(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_publishing, "MAX_BYTES", 2 * len(EVENT))

    async def work(publisher: AnswerPublisher) -> None:
        stream = publisher.open("large", "attempt")
        for _ in range(3):
            stream.put(EVENT)

    publish(url_of(client), work)
    last = entries(client, "large")[-1]
    assert last is not None
    assert AttemptEnd.of(last.data) == AttemptEnd("incomplete", TOO_MUCH)


async def written(stream: AttemptStream, number: int) -> None:
    """Wait until a stream was written so many times."""
    await asyncio.to_thread(until, lambda: stream.writes >= number)


def test_where_nobody_listens_for_a_while_the_stream_is_dropped(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = moved_clock(monkeypatch, answer_publishing)

    async def work(publisher: AnswerPublisher) -> None:
        stream = publisher.open("unheard", "attempt")
        clock.now += UNHEARD_S + 1  # a provider that is slow to begin: nobody could have listened to anything
        stream.put(EVENT)
        await written(stream, 1)
        assert client.exists(stream_of("unheard"))
        clock.now += UNHEARD_S + 1
        stream.put(EVENT)
        await written(stream, 2)

    publish(url_of(client), work)
    assert not client.exists(stream_of("unheard"))


def test_events_of_a_long_answer_go_together(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = moved_clock(monkeypatch, answer_publishing)
    reader: Any = client.pubsub()  # type: ignore[no-untyped-call]
    reader.subscribe(stream_of("long"))

    async def work(publisher: AnswerPublisher) -> None:
        stream = publisher.open("long", "attempt")
        for number in range(1, 11):
            stream.put(EVENT)
            await written(stream, number)
            clock.now += 10
        stream.put(EVENT)
        await written(stream, 11)
        stream.put(EVENT)
        clock.now += 0.1
        another = publisher.open("another", "attempt")
        another.put(EVENT)
        await written(another, 1)
        assert stream.writes == 11, "more may come"
        stream.put(EVENT)
        clock.now += 0.2
        await written(stream, 12)
        stream.put(EVENT)
        stream.end(Outcome.SUCCEEDED)
        await written(stream, 13)

    publish(url_of(client), work)
    reader.close()
    found = [entry.data for entry in entries(client, "long") if entry is not None and entry.kind is EntryKind.EVENTS]
    assert found == [*[EVENT] * 11, EVENT + b"\n" + EVENT, EVENT]


def test_hours_of_events_fit_into_a_stream_and_minutes_come_smoothly() -> None:
    age_s, entries_written = 0.0, 0
    while age_s < 10 * 3600:
        age_s += max(PAUSE_S, pause_s(age_s))
        entries_written += 1
    assert entries_written < MAX_ENTRIES
    assert max(map(pause_s, range(600))) <= 0.25


def test_an_answer_of_too_many_pieces_says_so(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_publishing, "MAX_ENTRIES", 4)

    async def work(publisher: AnswerPublisher) -> None:
        stream = publisher.open("pieces", "attempt")
        for number in range(1, 4):
            stream.put(EVENT)
            await written(stream, number)

    publish(url_of(client), work)
    last = entries(client, "pieces")[-1]
    assert last is not None
    assert AttemptEnd.of(last.data) == AttemptEnd("incomplete", TOO_MANY)


def test_a_redis_that_is_away_drops_the_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def work(publisher: AnswerPublisher) -> None:
        stream = publisher.open("away", "attempt")
        stream.put(EVENT)

    publish("redis://127.0.0.1:1/0", work)
    assert "1 streamed answers cannot be passed on" in caplog.text
