"""Faults of one worker: when it stops taking a route's work, what it says, and when it goes on."""

import logging
import queue
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.builders import call
from tests.directories import FixedDirectory
from tests.timing import MovedClock, moved_clock

from trivet_routing.permits import Change
from trivet_store.cluster.leases import Lease
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.outcomes import HealthSignal, Outcome, Scope
from trivet_tasks.states import RouteState
from trivet_worker.adapters.protocol import Answer, Credentials, Failure, LocalCause
from trivet_worker.run import local_faults as module
from trivet_worker.run.calls import CallResult
from trivet_worker.run.local_faults import LocalFaults, Witness
from trivet_worker.run.permit_release import release_of
from trivet_worker.run.process_state import RouteImpairments

HERE, ELSEWHERE = "here", "elsewhere"
ROUTES = {
    "anthropic": RouteSettings.model_validate({"provider": "anthropic", "api_key": "file:/keys/anthropic"}),
    "vertex": RouteSettings.model_validate({"provider": "vertex", "region": "global", "project": "p"}),
}
ANSWER = Answer(b"{}", "end_turn", None, None)
NO_KEY = Failure(
    Outcome.UNUSABLE, "the file is gone", scope=Scope.ROUTE, local_cause=LocalCause.NO_CREDENTIALS
)  # fmt: skip
REFUSED = Failure(
    Outcome.UNUSABLE, "invalid x-api-key", status=401, scope=Scope.ROUTE, local_cause=LocalCause.KEY_REFUSED
)
UNREACHED = Failure(Outcome.CONNECTION, "no answer: refused", local_cause=LocalCause.UNREACHED)
BUSY = Failure(Outcome.OVERLOADED, "busy", status=529)
HEALTH = HealthSettings()
TOLD_S = 30


def workers_at(*origins: str, lane: str = "bulk", impaired: Mapping[str, str] | None = None) -> FixedDirectory:
    """Routes that workers of these origins serve."""
    leases = [Lease(origin, origin, lane, tuple(ROUTES), 8, 0, None, 0.0, impaired or {}, origin) for origin in origins]
    return FixedDirectory([], leases=leases)


class Looks:
    """Result of a look at routes and credentials."""

    def __init__(self) -> None:
        self.states: dict[str, Credentials] = {}
        self.unreached: dict[str, str] = {}
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def credentials(self) -> dict[str, Credentials]:
        return {name: self.states.get(name, Credentials()) for name in ROUTES}

    def reach(self, routes: Any) -> dict[str, str]:
        for route in routes:
            self.asked.put(route)
        return {route: self.unreached.get(route, "") for route in routes}


class Worker:
    """One worker's faults; `changes` gets a copy of its impairments whenever they changed."""

    def __init__(self, workers: FixedDirectory, routes: Mapping[str, RouteSettings] = ROUTES) -> None:
        self.looks = Looks()
        self.impairments = RouteImpairments(logging.getLogger("test"))
        self.witness = Witness(workers, HERE, self.impairments)
        self.changes: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self.faults = LocalFaults(
            routes, self.looks, self.impairments, self.witness, HEALTH,
            on_change=lambda: self.changes.put(self.impairments.current()),
        )  # fmt: skip

    def ends(self, *results: Answer | Failure, route: str = "anthropic", opened: bool = False, **job: Any) -> None:
        """Calls on a route came back with these results, one group."""
        changes = [Change(route, "*", RouteState.OPEN, "down", 15, 0)] if opened else []
        self.faults.observe([call_result(result, route, **job) for result in results], changes)

    def wait_for(self, fits: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Wait until its impairments are as said."""
        while not fits(current := self.changes.get(timeout=TOLD_S)):
            pass
        return current


def call_result(result: Answer | Failure, route: str = "anthropic", **job: Any) -> CallResult:
    begun = replace(call(route=route, **job), born_at=cast(Any, module).time.monotonic())
    return CallResult(begun, result, 0.1)


@pytest.fixture
def worker() -> Worker:
    """A worker with another one elsewhere."""
    return Worker(workers_at(HERE, ELSEWHERE))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    return moved_clock(monkeypatch, module)


def seconds_until(clock: MovedClock, true: Callable[[], object], look: Callable[[], None]) -> int:
    """Look once a second; how many seconds it took until something else is so."""
    before = true()
    for seconds in range(1, 1_000):
        clock.now += 1
        look()
        if true() != before:
            return seconds
    raise AssertionError("it did not come about")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY_S", "CREDENTIALS_EVERY_S", "WAY_OUT_FIRST_S", "WAY_OUT_MOST_S"):
        monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def looking(worker: Worker, at_once: None) -> Iterator[Worker]:
    """The same, while it looks at its routes."""
    worker.faults.start()
    yield worker
    worker.faults.close()


# whose failure it is


@pytest.mark.parametrize(
    ("result", "signal", "by_itself"),
    [
        (NO_KEY, HealthSignal.UNUSED, HealthSignal.UNUSED),
        (REFUSED, HealthSignal.LOCAL_REFUSED, HealthSignal.UNUSABLE_ROUTE),
        (UNREACHED, HealthSignal.LOCAL_FAILED, HealthSignal.FAILED),
        (BUSY, HealthSignal.FAILED, HealthSignal.FAILED),
        (ANSWER, HealthSignal.GOOD, HealthSignal.GOOD),
    ],
)
def test_what_a_failure_says_of_the_route_depends_on_whether_others_serve_it(
    result: Answer | Failure, signal: HealthSignal, by_itself: HealthSignal
) -> None:
    crowd = (HERE, ELSEWHERE), (ELSEWHERE,), (HERE, HERE, "third")
    for origins in crowd:
        assert signal_with(workers_at(*origins), result) is signal
    assert signal_with(workers_at(HERE, ELSEWHERE, lane="realtime"), result) is signal, "a breaker is of all lanes"
    alone = workers_at(HERE, HERE), workers_at()
    away = workers_at(HERE, ELSEWHERE, impaired={"anthropic": "No key."})
    for workers in (*alone, away):
        assert signal_with(workers, result) is by_itself
    unknown = workers_at(HERE, ELSEWHERE)
    unknown.database_error = StoreUnavailable("the database does not answer")
    assert signal_with(unknown, result) is by_itself


def signal_with(workers: FixedDirectory, result: Answer | Failure) -> HealthSignal:
    one = call_result(result)
    local = Witness(workers, HERE, RouteImpairments(logging.getLogger("test"))).local(one)
    return release_of(one, local=local).signal


def test_a_job_goes_back_to_its_route_only_where_another_worker_of_its_lane_takes_it() -> None:
    impairments = RouteImpairments(logging.getLogger("test"))
    impairments.begin("anthropic", "key", "Refused.")
    for lane, hands_over in (("bulk", True), ("realtime", False)):
        witness = Witness(workers_at(HERE, ELSEWHERE, lane=lane), HERE, impairments)
        assert witness.hands_over(call_result(REFUSED)) is hands_over


# the way out


def test_a_worker_that_gets_nothing_out_takes_no_more_of_the_route(worker: Worker) -> None:
    worker.ends(UNREACHED, UNREACHED)
    assert worker.impairments.current() == {}
    worker.ends(UNREACHED)
    said = worker.impairments.of("anthropic")
    assert said is not None
    assert "does not reach api.anthropic.com (no answer: refused), though other workers may" in said
    assert "directly" in said
    assert worker.impairments.of("vertex") is None
    assert worker.changes.get(timeout=TOLD_S) == {"anthropic": said}


@pytest.mark.parametrize("between", [ANSWER, BUSY])
def test_a_call_that_reached_the_provider_starts_the_count_anew(worker: Worker, between: Answer | Failure) -> None:
    worker.ends(UNREACHED, UNREACHED, between, UNREACHED, UNREACHED)
    assert worker.impairments.current() == {}


def test_a_share_of_calls_that_get_nothing_out_is_enough_while_kept_connections_work(worker: Worker) -> None:
    for _ in range(4):
        worker.ends(UNREACHED, ANSWER)
    assert worker.impairments.current() == {}, "they are few yet"
    worker.ends(UNREACHED, ANSWER, UNREACHED)
    assert worker.impairments.of("anthropic")


def test_few_such_calls_among_many_that_are_answered_are_not(worker: Worker) -> None:
    for _ in range(50):
        worker.ends(UNREACHED, *[ANSWER] * 4)
    assert worker.impairments.current() == {}


@pytest.mark.parametrize("result", [UNREACHED, REFUSED])
def test_an_answer_to_a_call_that_was_under_way_ends_nothing(worker: Worker, result: Failure) -> None:
    early = call_result(ANSWER)
    worker.ends(*[result] * 3)
    worker.faults.observe([early], [])
    assert worker.impairments.of("anthropic")
    worker.ends(ANSWER)
    assert worker.impairments.current() == {}


def test_a_failed_probe_is_enough(worker: Worker) -> None:
    worker.ends(UNREACHED, probe=True)
    assert worker.impairments.of("anthropic")


@pytest.mark.parametrize("result", [UNREACHED, REFUSED])
def test_the_only_worker_of_a_route_is_not_impaired(result: Failure) -> None:
    worker = Worker(workers_at(HERE))
    worker.ends(*[result] * 20)
    assert worker.impairments.current() == {}


@pytest.mark.parametrize("result", [UNREACHED, REFUSED])
def test_where_the_breaker_opened_the_fault_is_the_routes(worker: Worker, result: Failure) -> None:
    worker.ends(*[result] * 3)
    assert worker.impairments.of("anthropic")
    worker.ends(*[result] * 3, opened=True)
    assert worker.impairments.current() == {}


def test_the_proxy_is_named_without_its_password(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy.example:3128")
    worker.ends(*[UNREACHED] * 3)
    said = worker.impairments.of("anthropic") or ""
    assert "through the proxy http://proxy.example:3128 (HTTPS_PROXY). Check that proxy" in said
    assert "s3cret" not in said


def test_where_all_routes_fail_so_it_says_the_same_of_all(worker: Worker) -> None:
    worker.ends(*[UNREACHED] * 3)
    worker.ends(*[UNREACHED] * 3, route="vertex")
    said = worker.impairments.current()
    assert said.keys() == ROUTES.keys()
    assert len(set(said.values())) == 1
    assert "It reaches none of its routes" in said["vertex"]


def test_the_way_is_tested_until_something_answers(looking: Worker) -> None:
    looking.looks.unreached = {"anthropic": "still refused"}
    looking.ends(*[UNREACHED] * 3)
    said = looking.wait_for(lambda current: "still refused" in current.get("anthropic", ""))
    assert said.keys() == {"anthropic"}
    assert looking.looks.asked.get(timeout=TOLD_S) == "anthropic"
    looking.looks.unreached = {}
    assert looking.wait_for(lambda current: not current) == {}


def test_the_way_is_tested_ever_more_seldom(worker: Worker, clock: MovedClock) -> None:
    worker.looks.unreached = {"anthropic": "still refused"}
    worker.ends(*[UNREACHED] * 3)
    assert [seconds_until(clock, worker.looks.asked.qsize, worker.faults.look) for _ in range(7)] == [
        1,
        2,
        4,
        8,
        15,
        15,
        15,
    ]
    assert "still refused" in (worker.impairments.of("anthropic") or "")


def test_a_way_that_is_free_for_the_test_and_for_no_call_likewise(worker: Worker, clock: MovedClock) -> None:
    def pause() -> int:
        worker.ends(*[UNREACHED] * 3)
        return seconds_until(clock, lambda: not worker.impairments.current(), worker.faults.look)

    assert [pause() for _ in range(4)] == [1, 2, 4, 8]
    worker.ends(ANSWER)
    assert pause() == 1


# credentials


def test_missing_credentials_impair_before_any_call(worker: Worker) -> None:
    worker.looks.states = {"anthropic": Credentials("the file /keys/anthropic cannot be read: gone.")}
    worker.faults.start()
    said = worker.impairments.of("anthropic")
    assert said == (
        "No credentials on this machine: the file /keys/anthropic cannot be read: gone. It looks again every 3 s."
    )
    worker.faults.close()


def test_a_look_at_credentials_that_fails_stops_no_other_look(
    worker: Worker, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(100))

    def broken() -> dict[str, Credentials]:
        next(looks)
        raise ValueError

    monkeypatch.setattr(worker.looks, "credentials", broken)
    worker.ends(*[UNREACHED] * 3)
    worker.faults.look()
    assert seconds_until(clock, lambda: not worker.impairments.current(), worker.faults.look) == 1
    assert next(looks) == 1, "and it is not repeated before its time"


def test_they_are_looked_for_until_they_are_there_and_seen_to_be_gone(looking: Worker) -> None:
    looking.looks.states = {"vertex": Credentials("no Google credentials")}
    looking.wait_for(lambda current: "vertex" in current)
    looking.looks.states = {}
    looking.wait_for(lambda current: not current)


def test_a_call_that_found_none_impairs_at_once_even_the_only_worker() -> None:
    worker = Worker(workers_at(HERE))
    worker.ends(NO_KEY)
    assert "the file is gone" in (worker.impairments.of("anthropic") or "")


def test_a_variable_needs_a_restart() -> None:
    by_variable = RouteSettings.model_validate({"provider": "anthropic", "api_key": "env:THE_KEY"})
    worker = Worker(workers_at(HERE, ELSEWHERE), {"anthropic": by_variable})
    worker.ends(NO_KEY)
    assert (worker.impairments.of("anthropic") or "").endswith("Set it, and restart the worker.")


def test_a_refused_key_is_tried_again_ever_more_seldom(worker: Worker, clock: MovedClock) -> None:
    def pause() -> tuple[str, int]:
        worker.ends(REFUSED)
        said = worker.impairments.of("anthropic") or ""
        return said, seconds_until(clock, lambda: not worker.impairments.current(), worker.faults.look)

    (said, first), (_, second), (_, third) = pause(), pause(), pause()
    assert "refused (invalid x-api-key), while other workers serve the route: check file:/keys/anthropic" in said
    assert said.endswith("It tries again in 15 s.")
    assert (first, second, third) == (15, 30, 60)


def test_asked_to_look_now_it_waits_for_nothing(worker: Worker, clock: MovedClock) -> None:
    worker.ends(REFUSED)
    worker.ends(*[UNREACHED] * 3, route="vertex")
    assert worker.impairments.current().keys() == ROUTES.keys()
    worker.faults.look_now()
    worker.faults.look()
    assert worker.impairments.current() == {}


def test_a_refused_key_that_was_replaced_is_tried_at_once(looking: Worker) -> None:
    looking.ends(REFUSED)
    looking.wait_for(lambda current: "anthropic" in current)
    looking.looks.states = {"anthropic": Credentials(renewed=True)}
    looking.wait_for(lambda current: not current)
    looking.ends(REFUSED, route="vertex")
    looking.looks.states = {"vertex": Credentials(renewed=True)}
    looking.looks.asked = queue.SimpleQueue()
    looking.ends(*[UNREACHED] * 3)
    looking.wait_for(lambda current: "anthropic" not in current and "vertex" in current)
    assert looking.impairments.of("vertex"), "a token that is fetched anew all the time is no new key"
