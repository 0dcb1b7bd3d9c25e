"""Reports of finished calls to the breakers: each once, whatever becomes of the shared state meanwhile."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.builders import ANSWER, LIMITED, call, call_results, route
from tests.directories import FixedDirectory
from tests.store.world import OTHER_ROUTE
from tests.unit.breakers_world import HEALTH, MODEL, NEIGHBOUR, ROUTE, Breaker, World, quota, states

from trivet.local.embedded import EmbeddedValkey
from trivet_routing.limits import EPOCH, Limits
from trivet_routing.liveness.process_impairments import ProcessImpairments
from trivet_routing.permits import Change
from trivet_routing.retry_policy import with_proxy_error
from trivet_tasks.config.server_urls import redis_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.outcomes import Outcome, Scope
from trivet_tasks.shared_state import PREFIX, connect
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.calls import CallResult
from trivet_worker.run.local_faults import Witness
from trivet_worker.run.permit_release import PermitReleaser
from trivet_worker.run.process_state import RouteImpairments

SETTINGS = Settings(health=HEALTH)
DOWN = Failure(Outcome.SERVER_ERROR, "down")
UNUSABLE = Failure(Outcome.UNUSABLE, "no credit", scope=Scope.ROUTE)


def routes_of(limits: Limits) -> FixedDirectory:
    """Two routes without a worker."""
    routes = [route(ROUTE), route(OTHER_ROUTE, provider="vertex")]
    return FixedDirectory(routes, limits=limits, leases=())


def releasing(routes: FixedDirectory) -> PermitReleaser:
    return PermitReleaser(
        routes,
        SETTINGS,
        ProcessImpairments(logging.getLogger("test"), "no work is taken"),
        Witness(routes, "", RouteImpairments(logging.getLogger("test"))),
    )


def waits(releaser: PermitReleaser) -> bool:
    return releaser.waits


class Server:
    """A shared state that can be stopped, and a client as every process has it."""

    def __init__(self, folder: Path) -> None:
        self._valkey = EmbeddedValkey(folder)
        self._valkey.start()
        self.client = connect(redis_url(folder))
        self.client.set(EPOCH, "1")
        self.limits = Limits(self.client, HEALTH)

    def breaker(self, model: str = MODEL) -> Breaker:
        return Breaker(self.client, self.limits, model, replace(quota(), group=model))

    def stop(self) -> None:
        self._valkey.stop()

    def start(self) -> None:
        self._valkey.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / ".trivet")
    yield server
    server.client.close()
    server.stop()


def test_what_a_stopped_shared_state_could_not_hear_it_is_told_when_it_is_back(server: Server) -> None:
    breaker, releaser = server.breaker(), releasing(routes_of(server.limits))
    group = call_results(breaker, DOWN, DOWN, DOWN)
    server.stop()
    assert releaser.release(group) == []
    assert waits(releaser)
    assert releaser.release([]) == []
    assert waits(releaser), "nothing is thrown away while it is gone"
    server.start()
    assert breaker.in_flight() == 3
    assert states(releaser.release([])) == [(MODEL, "open")]
    assert not waits(releaser)
    assert (breaker.in_flight(), breaker.state) == (0, "open")
    assert releaser.release([]) == []


def test_what_waited_is_told_first_and_with_it_what_came_meanwhile(server: Server) -> None:
    breaker, neighbour, releaser = (
        server.breaker(),
        server.breaker(NEIGHBOUR),
        releasing(routes_of(server.limits)),
    )
    early, late = call_results(breaker, DOWN, DOWN), call_results(breaker, ANSWER)
    others = call_results(neighbour, ANSWER, DOWN)
    server.stop()
    releaser.release(early)
    releaser.release(others)
    server.start()
    assert releaser.release(late) == []
    assert not waits(releaser)
    assert (breaker.in_flight(), neighbour.in_flight()) == (0, 0)
    assert (breaker.view().calls, breaker.view().failed) == (3, 2)
    assert (neighbour.view().calls, neighbour.view().failed) == (2, 1)
    assert releaser.release(call_results(breaker, DOWN)) == [], (
        "the good one came after the two bad ones: three in a row it is not"
    )
    assert breaker.state == "healthy"


def test_what_is_refused_does_not_keep_the_others_waiting(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    broken, breaker, releaser = server.breaker(NEIGHBOUR), server.breaker(), releasing(routes_of(server.limits))
    group = [*call_results(broken, DOWN), *call_results(breaker, DOWN, DOWN, DOWN)]
    limiter = f"{PREFIX}limiter:{ROUTE}:{NEIGHBOUR}"
    server.client.rename(limiter, "kept")
    server.client.set(limiter, "no hash")
    with pytest.raises(redis.ResponseError):
        broken.view()
    assert states(releaser.release(group)) == [(MODEL, "open")]
    assert not waits(releaser)
    assert breaker.in_flight() == 0
    assert f"1 permits of {ROUTE} expire by themselves" in caplog.text
    server.client.rename("kept", limiter)
    releaser.release([])
    assert broken.in_flight() == 1, "it is not told again"


class AnswersLost:
    """The shared state gets every report, but each first answer is lost on its way back."""

    def __init__(self, world: World) -> None:
        self._client = world.client
        self.release_well = world.limits.release
        self._lost = False
        self.after: list[dict[bytes, dict[Any, Any]]] = []

    def release(self, *asked: Any) -> list[Change]:
        changes = self.release_well(*asked)
        self.after.append(self.state())
        self._lost = not self._lost
        if self._lost:
            raise redis.ConnectionError("reset")
        return changes

    def state(self) -> dict[bytes, dict[Any, Any]]:
        keys = sorted(self._client.scan_iter(match=f"{PREFIX}breaker:*"))
        keys += sorted(self._client.scan_iter(match=f"{PREFIX}limiter:*"))
        return {key: self._client.hgetall(key) for key in keys}


@pytest.fixture
def lossy(world: World, monkeypatch: pytest.MonkeyPatch) -> AnswersLost:
    lossy = AnswersLost(world)
    monkeypatch.setattr(world.limits, "release", lossy.release)
    return lossy


def told_twice(releaser: PermitReleaser, group: Sequence[CallResult]) -> list[Change]:
    assert releaser.release(group) == []
    assert waits(releaser)
    changes = releaser.release([])
    assert not waits(releaser)
    return changes


@pytest.mark.parametrize(
    "results",
    [(DOWN, DOWN), (ANSWER,), (ANSWER, DOWN), (LIMITED,), (UNUSABLE,), (DOWN, DOWN, DOWN), (LIMITED, LIMITED)],
)
def test_nothing_told_twice_changes_anything_again(
    world: World, lossy: AnswersLost, results: tuple[Answer | Failure, ...]
) -> None:
    breaker = world.breaker(limits=quota(requests=600, tokens_in=60_000))
    group = call_results(breaker, *results)
    before = lossy.state()
    told_twice(releasing(routes_of(world.limits)), group)
    first, second = lossy.after
    assert before != first
    assert first == second
    assert breaker.in_flight() == 0


def test_two_failures_told_twice_are_two(world: World, lossy: AnswersLost) -> None:
    breaker, releaser = world.breaker(), releasing(routes_of(world.limits))
    told_twice(releaser, call_results(breaker, DOWN, DOWN))
    view = breaker.view()
    assert (view.state, view.calls, view.failed) == ("healthy", 2, 2)
    told_twice(releaser, call_results(breaker, DOWN))
    assert breaker.state == "open"


def test_good_probes_told_twice_count_once_each(
    world: World, monkeypatch: pytest.MonkeyPatch, lossy: AnswersLost
) -> None:
    breaker, releaser = world.breaker(), releasing(routes_of(world.limits))
    monkeypatch.setattr(world.limits, "release", lossy.release_well)
    world.open(breaker)
    monkeypatch.setattr(world.limits, "release", lossy.release)
    found = []
    for _ in range(HEALTH.close_after_successes):
        world.pass_time(HEALTH.probe_interval_s)
        token = breaker.claim()
        assert token
        assert breaker.take(probe=token).granted == 1
        probe = call(permit=breaker.held.pop(), route=ROUTE, probe=True)
        told_twice(releaser, [CallResult(replace(probe, route=breaker.settings), ANSWER, 0.1)])
        found.append(breaker.state)
    assert found == ["probing", "probing", "recovering"]


def test_a_permit_that_was_written_off_is_not_judged(world: World) -> None:
    """The cause of its failure is not known, and its slot is another call's now."""
    breaker, releaser = world.breaker(), releasing(routes_of(world.limits))
    group = call_results(breaker, DOWN, DOWN, DOWN)
    world.limits.release_all("lease")
    assert releaser.release(group) == []
    view = breaker.view()
    assert (view.state, view.calls, view.failed) == ("healthy", 0, 0)


# what one provider refused and another served


def served_elsewhere(world: World, result: Answer | Failure) -> list[CallResult]:
    """A call of a job that the first route refused for an unknown reason, so that the other was asked."""
    elsewhere = Breaker(world.client, world.limits, MODEL, replace(quota(), group=MODEL), OTHER_ROUTE)
    return call_results(elsewhere, result, tried=(ROUTE,), doubted_by="bedrock")


def test_a_route_that_refuses_what_others_serve_time_and_again_is_for_a_probe_to_judge(world: World) -> None:
    releaser, breaker = releasing(routes_of(world.limits)), world.breaker()
    for _ in range(4):
        assert releaser.release(served_elsewhere(world, ANSWER)) == []
    assert breaker.view().doubt == ""
    assert releaser.release(served_elsewhere(world, ANSWER)) == []
    assert "refused what anthropic served" in breaker.view().doubt, "as the site of the call says"
    assert (breaker.state, breaker.claim() is not None) == ("healthy", True)


# pages of proxies


PAGE = Failure(Outcome.PROXY_ERROR, "HTTP 403")


def test_a_job_that_meets_a_second_page_has_both_routes_checked(world: World) -> None:
    releaser, first = releasing(routes_of(world.limits)), world.breaker()
    second = Breaker(world.client, world.limits, MODEL, replace(quota(), group=MODEL), OTHER_ROUTE)
    met = with_proxy_error((), ROUTE, "HTTP 403", now=0.0, generation="0.0", breakers={})
    assert releaser.release(call_results(first, PAGE)) == []
    assert first.claim() is None, "one page says nothing"
    assert releaser.release(call_results(second, PAGE, proxy_errors=met)) == []
    assert first.claim()
    assert second.claim()


def test_a_failure_elsewhere_contradicts_nobody(world: World) -> None:
    releaser = releasing(routes_of(world.limits))
    busy = Failure(Outcome.AMBIGUOUS, "what?")
    for _ in range(10):
        assert releaser.release(served_elsewhere(world, busy)) == []
    assert world.breaker().state == "healthy"


def test_without_the_database_the_permit_goes_back_all_the_same(world: World) -> None:
    routes = routes_of(world.limits)
    routes.database_error = StoreUnavailable("the database does not answer")
    releaser = releasing(routes)
    for _ in range(6):
        assert releaser.release(served_elsewhere(world, ANSWER)) == []
    assert not waits(releaser)
    assert world.client.zcard(f"{PREFIX}calls:{OTHER_ROUTE}:{MODEL}") == 0
    assert world.breaker().state == "healthy"


def test_how_long_a_call_took_counts_once(world: World, lossy: AnswersLost) -> None:
    breaker = world.breaker()
    told_twice(releasing(routes_of(world.limits)), call_results(breaker, ANSWER, took_s=0.5))
    (pace,) = breaker.view().paces.values()
    assert (pace.p50_s, pace.calls) == (0.5, 1)
