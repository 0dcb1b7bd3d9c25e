"""Readers of streamed answers: closed, cancelled and moved between event loops without a thread that waits or a job that runs on."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
import redis
from tests.store.world import World
from tests.timing import until

from trivet import AsyncClient, Client, ClientClosed, Job
from trivet.client import answer_streams
from trivet.client.answer_streams import AnswerStreams, Broken, Ended, StreamItem
from trivet_routing.answer_stream import EntryKind, StreamEntry, StreamSeal, stream_of
from trivet_routing.message_events import Event, message_events
from trivet_store.database.engine import Store
from trivet_store.reports import results
from trivet_store.steps import End
from trivet_tasks.config.settings import Settings
from trivet_tasks.states import JobState

REQUEST: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 10}
ENOUGH_S = 20.0


@pytest.fixture
def settings(client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A database of its own, and the shared state of the tests."""
    monkeypatch.setenv("STREAM_READERS_KEY", "k" * 64)
    url = f"unix://{client.connection_pool.connection_kwargs['path']}"
    return Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{tmp_path / 'trivet.db'}"},
            "redis": {"url": url},
            "broker": {"url": "redis://127.0.0.1:1/0"},
            "security": {"key": "env:STREAM_READERS_KEY"},
        }
    )


@pytest.fixture
def trivet(settings: Settings) -> Iterator[Client]:
    """A client whose jobs nobody takes."""
    with Client(settings=settings) as made:
        yield made


def listened_for(client: redis.Redis, job_id: str) -> bool:
    """Return whether somebody subscribed to the channel of a job."""
    counts: Any = client.pubsub_numsub(stream_of(job_id))
    return bool(counts[0][1])


def end_of(trivet: Client, job: Job) -> list[BaseException | None]:
    """Read a job's answer in a thread; returns a list to which the error is appended, or None."""
    ends: list[BaseException | None] = []

    def run() -> None:
        try:
            list(trivet.events(job))
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    threading.Thread(target=run, daemon=True).start()
    return ends


def test_closing_a_client_ends_the_threads_that_read(trivet: Client, client: redis.Redis) -> None:
    jobs = [trivet.submit_streamed("Hello", **REQUEST, latency="batch") for _ in range(4)]
    ends = [end_of(trivet, job) for job in jobs]
    until(lambda: all(listened_for(client, job.id) for job in jobs), "the readers", ENOUGH_S)
    trivet.close()
    until(lambda: all(ends), "the end of the readers", ENOUGH_S)
    assert {type(end[0]) for end in ends} == {ClientClosed}


def test_a_stream_of_a_closed_client_says_so_and_closes(trivet: Client) -> None:
    job = trivet.submit_streamed("Hello", **REQUEST, latency="batch")
    with trivet.stream("Hello", **REQUEST, latency="batch") as stream:
        assert stream.job.id != job.id
        trivet.close()
        with pytest.raises(ClientClosed):
            next(stream.text_stream)


def test_a_reader_that_comes_while_the_subscription_connects_is_heard(
    settings: Settings, trivet: Client, client: redis.Redis
) -> None:
    async def main() -> None:
        streams = trivet.answer_streams()
        jobs = [trivet.submit_streamed("Hello", **REQUEST, latency="batch").id for _ in range(9)]
        for job in jobs:  # each at another step of the connection
            await streams.open(job)
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(ENOUGH_S):
                while not all(listened_for(client, job) for job in jobs):  # noqa: ASYNC110 - Redis tells nobody
                    await asyncio.sleep(0.02)
        finally:
            await streams.close()

    asyncio.run(main())


def test_a_reader_that_is_cancelled_while_it_opens_is_forgotten(
    trivet: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    found = results.jobs_by_id

    def jobs_by_id(connection: Any, ids: Sequence[str]) -> Any:
        asked.update(ids)
        return found(connection, ids)

    monkeypatch.setattr(results, "jobs_by_id", jobs_by_id)

    async def main() -> None:
        streams: AnswerStreams = trivet.answer_streams()
        first = await streams.open("first")
        assert isinstance((await first.next())[0], Broken)
        reached = asyncio.Event()

        async def subscribe(*_: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as held:
            held.setattr("redis.asyncio.client.PubSub.subscribe", subscribe)
            opening = asyncio.ensure_future(streams.open("cancelled"))
            await reached.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        last = await streams.open("last")
        assert isinstance((await last.next())[0], Broken)
        await streams.close()

    asyncio.run(main())
    assert asked == {"first", "last"}


def test_one_client_reads_in_one_event_loop_after_another(settings: Settings) -> None:
    client = AsyncClient(settings=settings)

    async def read() -> Broken:
        async with asyncio.timeout(ENOUGH_S):
            stream = await client.answer_streams().open("nobody's")
            (item,) = await stream.next()
        assert isinstance(item, Broken)
        return item

    assert [asyncio.run(read()).outcome for _ in range(3)] == ["not_found"] * 3
    asyncio.run(client.close())

    async def later() -> None:
        with pytest.raises(ClientClosed):
            client.answer_streams()

    asyncio.run(later())


@pytest.mark.parametrize("latency", ["interactive", "batch"])
def test_a_stream_that_is_interrupted_while_it_opens_cancels_its_job(
    trivet: Client, monkeypatch: pytest.MonkeyPatch, latency: Literal["interactive", "batch"]
) -> None:
    async def interrupted(*_: object) -> None:
        raise OverflowError("as an interrupt would")

    monkeypatch.setattr(AnswerStreams, "open", interrupted)
    with pytest.raises(OverflowError), trivet.stream("Hello", **REQUEST, latency=latency):
        pytest.fail("the block began")
    (job,) = trivet.jobs()
    assert job.state == ("cancelled" if latency == "interactive" else "waiting")


@pytest.mark.parametrize("at", ["submit", "open"])
def test_a_task_that_is_cancelled_while_its_stream_begins_cancels_its_job(
    settings: Settings, trivet: Client, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    loop_of: list[asyncio.AbstractEventLoop] = []
    reached, go_on = asyncio.Event(), threading.Event()
    begin = Client.begin_stream

    def begin_stream(*args: Any) -> Any:
        begun = begin(*args)
        loop_of[0].call_soon_threadsafe(reached.set)
        assert go_on.wait(ENOUGH_S)
        return begun

    async def opening(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    if at == "submit":
        monkeypatch.setattr(Client, "begin_stream", begin_stream)
    else:
        monkeypatch.setattr(AnswerStreams, "open", opening)

    async def main() -> None:
        loop_of.append(asyncio.get_running_loop())
        async with AsyncClient(settings=settings) as client:

            async def ask() -> None:
                async with client.stream("Hello", **REQUEST):
                    pytest.fail("the block began")

            asking = asyncio.ensure_future(ask())
            await reached.wait()
            asking.cancel()
            asyncio.get_running_loop().call_soon(go_on.set)
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(main())
    (job,) = trivet.jobs()
    assert job.state == "cancelled"


def test_a_slow_reader_gets_the_rest_that_waits_in_redis(
    settings: Settings, trivet: Client, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_streams, "LATE_S", 0.05)
    text = "x" * 2**14
    whole = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": text * 120}],
             "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 9}}  # fmt: skip
    start, begin, delta, *rest = (event.data for event in message_events(whole))
    piece = orjson.loads(delta) | {"delta": {"type": "text_delta", "text": text}}
    data = [start, begin, *[orjson.dumps(piece)] * 120, *rest]
    seal = StreamSeal(b"k" * 64)

    async def main() -> str:
        with contextlib.closing(Store.of(settings)) as store:
            world = World(store)
            lease, (job,) = world.running()
            for number, one in enumerate(data):
                entry = StreamEntry(job.attempt_id, number, EntryKind.EVENTS, one)
                fields: Any = seal.fields(job.id, entry)
                client.xadd(stream_of(job.id), fields)
            world.end(lease, [job], End(JobState.SUCCEEDED, orjson.dumps(whole)))
            streams = trivet.answer_streams()
            stream = await streams.open(job.id)
            await asyncio.sleep(answer_streams.FIRST_LOOK_S + 0.5)  # longer than late events are waited for
            items: list[StreamItem] = []
            async with asyncio.timeout(ENOUGH_S):
                while new := await stream.next():
                    items += new
            await streams.close()
        assert isinstance(items[-1], Ended), items[-1]
        return "".join(
            orjson.loads(item.data)["delta"]["text"]
            for item in items
            if isinstance(item, Event) and item.type == "content_block_delta"
        )

    trivet.now()
    assert asyncio.run(main()) == text * 120
