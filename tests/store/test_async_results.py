"""Waiting for many jobs where one of them cannot be read: it alone gets an error."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.store.world import World
from tests.timing import until

from trivet import Client, Result
from trivet.client.answer_streams import Broken, StreamItem
from trivet.client.async_results import AsyncResults
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import TrivetError

NOWHERE = "redis://127.0.0.1:1/0"
WORDS = "cannot be read by a fault of Trivet's own"


REQUEST: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 20}


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    """A client of the world's database, without a broker."""
    with client_of(world) as made:
        yield made


def client_of(world: World) -> Client:
    """Return a client that hears no notices."""
    terms = {"store": {"url": world.store.url}, "redis": {"url": NOWHERE}, "broker": {"url": NOWHERE}}
    return Client(settings=Settings.model_validate(terms))


@pytest.fixture
def ended(world: World, client: Client) -> list[str]:
    """Three jobs that were cancelled; the row of the second has been spoiled."""
    jobs = [client.submit("Hello", **REQUEST) for _ in range(3)]
    assert all(job.cancel() for job in jobs)
    world.sql("UPDATE jobs SET tags = '{spoiled' WHERE id = :id", id=jobs[1].id)
    return [job.id for job in jobs]


def test_one_result_that_cannot_be_read_is_an_error_of_its_own(client: Client, ended: list[str]) -> None:
    async def wait_for_all() -> list[Result | BaseException]:
        with ThreadPoolExecutor(2) as threads:
            waiting = AsyncResults(client, threads)
            await waiting.start()
            found = asyncio.gather(*(waiting.result(one, existed=True) for one in ended), return_exceptions=True)
            results = await asyncio.wait_for(found, 15)
            await waiting.close()
            return results

    first, second, third = asyncio.run(wait_for_all())
    assert isinstance(second, TrivetError)
    assert WORDS in second.message
    assert [one.id for one in (first, third) if isinstance(one, Result)] == [ended[0], ended[2]]


def test_one_stream_whose_job_cannot_be_read_breaks_alone(client: Client, ended: list[str]) -> None:
    async def last_of(streams: Any, job_id: str) -> StreamItem:
        stream = await streams.open(job_id)
        items: list[StreamItem] = await stream.next()
        await stream.close()
        return items[-1]

    async def read_all() -> list[StreamItem]:
        streams = client.answer_streams()
        found = await asyncio.wait_for(asyncio.gather(*(last_of(streams, one) for one in ended)), 15)
        await streams.close()
        return found

    first, second, third = asyncio.run(read_all())
    assert isinstance(second, Broken)
    assert WORDS in second.message
    assert [one.outcome for one in (first, third) if isinstance(one, Broken)] == ["cancelled", "cancelled"]


def test_jobs_are_looked_at_again_after_a_fault_of_the_look(
    postgres_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_through(client: Client) -> Result:
        first, second = (client.submit("Hello", **REQUEST) for _ in range(2))
        first.cancel()
        with ThreadPoolExecutor(2) as threads:
            waiting = AsyncResults(client, threads)
            await waiting.start()
            result = asyncio.create_task(waiting.result(second.id))
            await waiting.result(first.id)  # both were looked at by now
            postgres_world.sql("ALTER TABLE jobs RENAME TO good")
            postgres_world.sql("CREATE TABLE jobs (id integer, state integer)")
            await asyncio.to_thread(until, lambda: "results are late" in caplog.text, "the fault to be logged", 10)
            postgres_world.sql("DROP TABLE jobs")
            postgres_world.sql("ALTER TABLE good RENAME TO jobs")
            second.cancel()
            found = await asyncio.wait_for(result, 10)
            await waiting.close()
            return found

    with client_of(postgres_world) as client:
        assert asyncio.run(wait_through(client)).status == "cancelled"
