"""A client's connections: what a forked child keeps of its parent's, and what is left after `close`."""

import asyncio
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from trivet import AsyncClient, Client, ClientClosed
from trivet.admin import Admin
from trivet.client.async_client import MAX_WAITERS
from trivet.client.connections import Connections
from trivet.client.waiting import Notices
from trivet_tasks.config.settings import Settings

REQUEST: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 10}
NOWHERE = "redis://127.0.0.1:1/0"


def settings_in(folder: Path) -> Settings:
    return Settings.model_validate(
        {"store": {"url": f"sqlite:///{folder / 'trivet.db'}"}, "redis": {"url": NOWHERE}, "broker": {"url": NOWHERE}}
    )


def test_a_forked_child_opens_everything_anew(tmp_path: Path) -> None:
    settings = Settings.model_validate({"store": {"url": f"sqlite:///{tmp_path / 'trivet.db'}"}})
    connections = Connections(settings)
    opened = [name for name, value in vars(Connections).items() if isinstance(value, cached_property)]
    before = {name: getattr(connections, name) for name in opened}
    assert {"redis", "directory", "dispatcher"} <= before.keys()
    connections.reset_after_fork()
    assert all(getattr(connections, name) is not before[name] for name in opened)
    connections.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.submit("Hello", **REQUEST),
        lambda client: client.submit("Hello", latency="realtime", **REQUEST),
        lambda client: client.submit_many([{"prompt": "Hello"}], **REQUEST),
        lambda client: client.jobs(),
        lambda client: client.batches(),
        lambda client: client.now(),
    ],
)
def test_a_closed_client_says_so(tmp_path: Path, use: Callable[[Client], object]) -> None:
    client = Client(settings=settings_in(tmp_path))
    job = client.submit("Hello", **REQUEST)
    batch = client.submit_many([{"prompt": "Hello"}], name="a", **REQUEST)
    client.close()
    client.close()
    with pytest.raises(ClientClosed, match=r"The client was closed. Make a new Client; jobs go on without one."):
        use(client)
    for later in (lambda: job.state, job.result, job.cancel, batch.progress, batch.wait, lambda: next(batch.results())):
        with pytest.raises(ClientClosed, match="The client was closed"):
            later()
    with Client(settings=settings_in(tmp_path)) as another:
        assert another.job(job.id).state == "waiting"


def test_a_closed_operations_api_says_so(tmp_path: Path) -> None:
    with Admin(settings=settings_in(tmp_path)) as admin:
        assert admin.jobs.list() == ()
    for use in (admin.jobs.list, admin.cache.stats):
        with pytest.raises(ClientClosed, match="The client was closed"):
            use()


def test_closing_wakes_those_that_wait() -> None:
    notices = Notices(NOWHERE)
    looked, said = threading.Event(), []

    def look() -> None:
        looked.set()

    def wait() -> None:
        try:
            notices.wait_for("job a", look, None, "The job a")
        except ClientClosed as error:
            said.append(error.message)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert looked.wait(30)
    notices.close()
    waiting.join(30)
    assert said == ["The client was closed: the job a is not waited for."]


def test_a_closed_async_client_says_so_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with AsyncClient(settings=settings_in(tmp_path)) as client:
            job = await client.submit("Hello", **REQUEST)
            waiting = asyncio.ensure_future(job.result())
            assert await job.state() == "waiting"
        with pytest.raises(ClientClosed):
            await waiting
        await client.close()
        with pytest.raises(ClientClosed, match="Make a new Client"):
            await client.submit("Hello", **REQUEST)
        with pytest.raises(ClientClosed):
            await job

    asyncio.run(main())
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


def test_waits_that_were_given_up_keep_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, wait_for = threading.Semaphore(0), Notices.wait_for

    def told(*args: Any) -> Any:
        begun.release()
        return wait_for(*args)

    monkeypatch.setattr(Notices, "wait_for", told)

    async def main() -> None:
        async with AsyncClient(settings=settings_in(tmp_path)) as client:
            job = await client.submit("Hello", **REQUEST)
            waiting = [asyncio.ensure_future(job.result()) for _ in range(MAX_WAITERS)]
            for _ in waiting:
                await asyncio.to_thread(begun.acquire)
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert all(one.cancelled() for one in waiting)
            other = await client.submit("Hello", **REQUEST)
            await other.cancel()
            async with asyncio.timeout(60):
                assert (await other).status == "cancelled"

    asyncio.run(main())
