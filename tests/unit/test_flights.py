"""Calls on the event loop: each one launched lands exactly once, whatever happens to it."""

import queue
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import cast

import pytest
from tests.gates import MODEL

from trivet_routing.permits import Quota, Want
from trivet_store.jobs.taking import Prompt, Taken, Worksite
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import Outcome
from trivet_worker.adapters.calls import Answer, Credentials, Failure
from trivet_worker.run import flights as module
from trivet_worker.run.flights import Countdown, Flight, Flights, Landing

ROUTE = RouteSettings(provider="anthropic")
LAND_S = 60


class OwnFault:
    """A caller that breaks; a real one never should, so the SDK cannot show this."""

    async def call(
        self, body: object, model: str, attempt_id: str, timeout_s: float, purpose: object
    ) -> Answer | Failure:
        raise KeyError("the prompt stands in this text")

    async def credentials(self) -> Credentials:
        return Credentials()

    async def reach(self, timeout_s: float) -> str:
        return ""

    async def close(self) -> None:
        """Nothing to close."""


def flight(number: int) -> Flight:
    job = Taken(
        id=f"job{number}", take_up=1, batch_id=None, created_at=0, deadline_at=None, round=0, round_spent_s=0, tried="",
        doubted_by=None, proxy_errors="", input_estimate=1, max_tokens=1, suspect=0, tenant=None, attempt_id=f"attempt{number}", prompt=Prompt(b"{}"),
        residency=(), compliance=(), features=(), probe=False,
    )  # fmt: skip
    site = Worksite("lease", "anthropic", "anthropic", MODEL, MODEL, "batch")
    return Flight(
        job, site, ROUTE, Quota.of(ROUTE, MODEL), Want(f"p{number}", 1, 1), "1", 5.0, full_time=True,
        countdown=Countdown(),
    )  # fmt: skip


@pytest.fixture
def landed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Flights, "queue.SimpleQueue[Landing]"]]:
    monkeypatch.setattr(module, "build_caller", lambda route: OwnFault())
    landings: queue.SimpleQueue[Landing] = queue.SimpleQueue()
    flights = Flights({"anthropic": ROUTE}, landings.put)
    flights.start()
    yield flights, landings
    flights.close()


def test_a_fault_in_one_routes_credentials_stops_no_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(OwnFault):
        async def credentials(self) -> Credentials:
            raise ValueError("a secret stands in this text")

        async def reach(self, timeout_s: float) -> str:
            raise ValueError("a secret stands in this text")

    callers = iter([Broken(), OwnFault()])
    monkeypatch.setattr(module, "build_caller", lambda route: next(callers))
    flights = Flights({"broken": ROUTE, "well": ROUTE}, lambda landing: None)
    flights.start()
    found, reached = flights.credentials(), flights.reach(["broken", "well"])
    flights.close()
    assert found["well"] == Credentials()
    assert "ValueError" in found["broken"].missing
    assert "secret" not in found["broken"].missing
    assert (reached["well"], "ValueError" in reached["broken"]) == ("", True)


def test_a_call_cancelled_before_its_first_step_lands(landed: tuple[Flights, "queue.SimpleQueue[Landing]"]) -> None:
    flights, landings = landed
    group = [flight(number) for number in range(5)]

    def at_once() -> None:  # launched and cancelled in one turn of the loop
        flights._launch(group)
        flights._cancel({one.job.id for one in group})

    flights._loop.call_soon_threadsafe(at_once)
    found = [landings.get(timeout=LAND_S) for _ in group]
    assert {cast(Failure, landing.result).outcome for landing in found} == {Outcome.CANCELLED}
    assert {landing.flight.job.id for landing in found} == {one.job.id for one in group}


def test_a_fault_of_ours_lands_and_quotes_nothing(
    landed: tuple[Flights, "queue.SimpleQueue[Landing]"], caplog: pytest.LogCaptureFixture
) -> None:
    flights, landings = landed
    flights.launch([flight(1)])
    landing = landings.get(timeout=LAND_S)
    assert isinstance(landing.result, Failure)
    assert "KeyError" in landing.result.message
    assert "prompt" not in landing.result.message
    assert "prompt" not in caplog.text


def test_a_prompt_is_kept_only_where_a_rival_may_want_it(
    landed: tuple[Flights, "queue.SimpleQueue[Landing]"],
) -> None:
    flights, landings = landed
    alone, hedged = flight(1), replace(flight(2), hedge_after_s=1.0)
    flights.launch([alone, hedged])
    for _ in range(2):
        landings.get(timeout=LAND_S)
    assert (alone.job.prompt.body, hedged.job.prompt.body) == (b"", b"{}")
    assert alone.job.prompt.most(Decimal(1)) == 1
