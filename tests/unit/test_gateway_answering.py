"""Answers about a job that was accepted: none of them makes a client submit, and pay, once more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from trivet import Job
from trivet.gateway.answering import accepted, row_of_accepted, stopping
from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet.gateway.requests import Asked
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import Settings

NOWHERE = "redis://127.0.0.1:1/0"
PLAIN = Asked({}, stream=False, at_once=False, keyed=False)
KEYED = Asked({}, stream=False, at_once=False, keyed=True)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Gateway]:
    url = f"sqlite:///{folder / 'trivet.db'}"
    terms = {"store": {"url": url}, "redis": {"url": NOWHERE}, "broker": {"url": NOWHERE}}
    gateway = Gateway(Settings.model_validate(terms))
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


def with_job(folder: Path, work: Callable[[Gateway, Job], Awaitable[None]]) -> None:
    """Do the work with a gateway and a job that waits."""

    async def run() -> None:
        async with opened(folder) as gateway:
            request = {"model": "claude-haiku-4-5", "max_tokens": 20}
            await work(gateway, await gateway.run(lambda: gateway.client.submit("Hello", **request)))  # type: ignore[arg-type]

    asyncio.run(run())


def break_database(folder: Path) -> None:
    store = Store(f"sqlite:///{folder / 'trivet.db'}")
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO lost")
    store.close()


def test_a_job_is_answered_with_its_id_if_the_database_fails_after_it_was_accepted(tmp_path: Path) -> None:
    async def work(gateway: Gateway, job: Job) -> None:
        before = await accepted(gateway, job)
        assert orjson.loads(before.body)["state"] == "waiting"
        break_database(tmp_path)
        answer = await accepted(gateway, job)
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/trivet/v1/jobs/{job.id}"
        assert orjson.loads(answer.body).keys() == {"id", "url", "warnings"}
        assert await row_of_accepted(gateway, job) is None

    with_job(tmp_path, work)


def test_a_request_that_waits_while_the_gateway_stops_is_cancelled_before_it_is_repeated(tmp_path: Path) -> None:
    async def work(gateway: Gateway, job: Job) -> None:
        kept = await stopping(gateway, job, KEYED)
        assert (kept.status, kept.headers["x-should-retry"]) == (503, "true")
        assert await gateway.run(lambda: job.state) == "waiting"
        cancelled = await stopping(gateway, job, PLAIN)
        assert (cancelled.status, cancelled.headers["x-should-retry"]) == (503, "true")
        assert await gateway.run(lambda: job.state) == "cancelled"
        ended = await stopping(gateway, job, PLAIN)
        assert (ended.status, ended.headers["x-should-retry"]) == (503, "false")
        break_database(tmp_path)
        unknown = await stopping(gateway, job, PLAIN)
        assert (unknown.status, unknown.headers["x-should-retry"]) == (503, "false")

    with_job(tmp_path, work)


def test_a_request_that_comes_once_waiting_has_ended_is_refused_before_it_is_submitted(tmp_path: Path) -> None:
    async def work(gateway: Gateway, _: Job) -> None:
        gateway.check_waiting()
        await gateway.end_waiting()
        with pytest.raises(ApiError, match="Nothing was submitted") as refused:
            gateway.check_waiting()
        assert (refused.value.status, refused.value.headers["x-should-retry"]) == (503, "true")

    with_job(tmp_path, work)
