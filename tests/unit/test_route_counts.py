"""Counters of routes: one a route, closed once the file was read again and nobody uses them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trivet.gateway.errors import ApiError
from trivet.gateway.route_counts import Choice, ChosenRoute, CountTerms, TokenCounting, take_over_routes
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_worker.adapters import counting

MODEL = "claude-haiku-4-5"
TERMS = CountTerms(MODEL)


class Counter:
    """A counter that answers once it may; notes all that were made."""

    made: list["Counter"]
    asked: asyncio.Queue["Counter"]
    may_answer: asyncio.Event

    def __init__(self, route: RouteSettings) -> None:
        self.route = route
        self.closed = 0
        self.made.append(self)

    async def count(self, body: Mapping[str, Any], model: str, named: str, timeout_s: float) -> int:
        self.asked.put_nowait(self)
        await self.may_answer.wait()
        assert not self.closed
        return 7

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> list[Counter]:
    monkeypatch.setattr(counting, "TokenCounter", Counter)
    Counter.made = []
    Counter.asked = asyncio.Queue()
    Counter.may_answer = asyncio.Event()
    return Counter.made


def route() -> RouteSettings:
    return RouteSettings.model_validate({"provider": "anthropic"})


def choice(**routes: RouteSettings) -> Choice:
    return Choice(tuple(ChosenRoute(name, settings, MODEL) for name, settings in routes.items()), {}, unserved=False)


async def run(work: Callable[..., Any], *args: Any) -> Any:
    await asyncio.sleep(0)  # another count may come here
    return work(*args)


def test_counts_at_once_share_one_counter(counters: list[Counter]) -> None:
    async def work() -> None:
        made, settings = TokenCounting(), route()
        Counter.may_answer.set()
        found = await asyncio.gather(*(made.count({}, TERMS, choice(a=settings), run) for _ in range(5)))
        assert {one.tokens for one in found} == {7}
        assert len(counters) == 1
        await made.close()
        assert counters[0].closed == 1

    asyncio.run(work())


def test_a_replaced_counter_is_closed_after_its_last_count(counters: list[Counter]) -> None:
    async def work() -> None:
        made = TokenCounting()
        first = asyncio.create_task(made.count({}, TERMS, choice(a=route(), gone=route()), run))
        assert await Counter.asked.get() is counters[0]
        old, gone = counters
        second = asyncio.create_task(made.count({}, TERMS, choice(a=route()), run))
        assert await Counter.asked.get() is counters[2]
        assert (old.closed, gone.closed) == (0, 0)  # the first count is under way
        Counter.may_answer.set()
        assert [(await first).tokens, (await second).tokens] == [7, 7]
        assert [one.closed for one in counters] == [1, 1, 0]
        with pytest.raises(ApiError):
            await made.count({}, TERMS, choice(), run)  # no route is left
        assert [one.closed for one in counters] == [1, 1, 1]

    asyncio.run(work())


def test_a_route_that_was_deleted_is_not_asked_any_more() -> None:
    before = Settings.model_validate({"routes": {"a": {"provider": "anthropic"}, "b": {"provider": "anthropic"}}})
    again = Settings.model_validate({"routes": {"b": {"provider": "anthropic"}, "c": {"provider": "anthropic"}}})
    take_over_routes(before, again)
    assert dict(before.routes) == dict(again.routes)
