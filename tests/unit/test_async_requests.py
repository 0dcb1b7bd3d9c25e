"""Requests of an async generator, taken in by a thread."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from trivet.client.async_requests import GROUP_REQUESTS, AsyncRequests


async def numbered(count: int, closed: asyncio.Event | None = None) -> AsyncIterator[dict[str, Any]]:
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield {"key": str(number)}
    finally:
        if closed is not None:
            closed.set()


@pytest.mark.parametrize("count", [0, 1, GROUP_REQUESTS - 1, GROUP_REQUESTS, GROUP_REQUESTS + 1, 3 * GROUP_REQUESTS])
def test_a_thread_gets_every_request_in_order(count: int) -> None:
    async def main() -> list[Any]:
        async with AsyncRequests(numbered(count)) as pulled:
            return await asyncio.to_thread(list, pulled)

    assert asyncio.run(main()) == [{"key": str(number)} for number in range(count)]


def test_an_iterator_that_is_no_generator_will_do() -> None:
    class Three:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> "Three":
            return self

        async def __anext__(self) -> dict[str, Any]:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return {"left": self.left}

    async def main() -> list[Any]:
        async with AsyncRequests(Three()) as pulled:
            return await asyncio.to_thread(list, pulled)

    assert asyncio.run(main()) == [{"left": 2}, {"left": 1}, {"left": 0}]


def test_an_error_comes_after_the_requests_before_it() -> None:
    async def broken() -> AsyncIterator[dict[str, Any]]:
        yield {"key": "a"}
        raise OSError("the document is gone")

    def take(requests: AsyncRequests, taken: list[Any]) -> None:
        for request in requests:
            taken.append(request)

    async def main() -> None:
        taken: list[Any] = []
        async with AsyncRequests(broken()) as pulled:
            with pytest.raises(OSError, match="the document is gone"):
                await asyncio.to_thread(take, pulled, taken)
        assert taken == [{"key": "a"}]

    asyncio.run(main())


def test_a_generator_is_closed_when_its_taker_stops() -> None:
    async def main() -> None:
        closed = asyncio.Event()
        async with AsyncRequests(numbered(10**9, closed)) as pulled:
            assert await asyncio.to_thread(lambda: next(iter(pulled))) == {"key": "0"}
            assert not closed.is_set()
        assert closed.is_set()

    asyncio.run(main())


def test_a_cancelled_task_leaves_no_thread_waiting_and_no_end_of_the_requests() -> None:
    ends: list[BaseException | None] = []
    ended = threading.Event()

    def take(requests: AsyncRequests) -> None:
        try:
            for _ in requests:
                pass
        except CancelledError as error:
            ends.append(error)
        else:
            ends.append(None)
        ended.set()

    async def main() -> None:
        begun, cleaned = asyncio.Event(), asyncio.Event()

        async def stalled() -> AsyncIterator[dict[str, Any]]:
            try:
                yield {"key": "a"}
                begun.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # its own cleaning up may take a while
                cleaned.set()

        async def submit() -> None:
            async with AsyncRequests(stalled()) as pulled:
                await asyncio.to_thread(take, pulled)

        task = asyncio.create_task(submit())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned.is_set()

    asyncio.run(main())
    assert ended.wait(30)
    assert [type(end) for end in ends] == [CancelledError]
