"""Two calls of one job: exactly one decides, and a hedge is made only where all that it needs is free."""

import asyncio
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.builders import ANTHROPIC, FakeCaller, call, worker_context
from tests.store.world import InThread, spec
from tests.store.world import World as StoreWorld
from tests.unit.breakers_world import MODEL, World

from trivet_routing.permits import Quota
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster import registry
from trivet_store.database.engine import Store
from trivet_tasks.call_times import CallTime
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import HealthSignal, Outcome, Usage
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run import calls as calls_module
from trivet_worker.run import hedging as hedging_module
from trivet_worker.run.calls import LEAST_S, Call, CallResult, Calls
from trivet_worker.run.hedging import MAX_SAVED, Hedger
from trivet_worker.run.permit_release import release_of
from trivet_worker.run.process_state import Slots

WAIT_S = 60
FIRST, SECOND, THIRD = "anthropic", "bedrock-us-east-1", "vertex-us-east5"
ANSWER = Answer(b"{}", "end_turn", Usage(input_tokens=1, output_tokens=1), None)
BUSY = Failure(Outcome.OVERLOADED, "busy")
BAD = Failure(Outcome.INVALID, "no such field")


class Script(FakeCaller):
    """Callers whose calls end when the test says so, and not before."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.dropped: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ends: dict[str, asyncio.Future[Answer | Failure]] = {}

    async def call(
        self, body: object, model: str, attempt_id: str, limits: object, purpose: object = None, sink: object = None
    ) -> Answer | Failure:
        end: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        self._ends[attempt_id] = end
        self.begun.put(attempt_id)
        try:
            return await end
        except asyncio.CancelledError:
            self.dropped.put(attempt_id)
            raise

    def end(self, **results: Answer | Failure) -> None:
        """These calls come back, in one turn of the loop."""

        def at_once() -> None:
            for attempt_id, result in results.items():
                self._ends[attempt_id].set_result(result)

        self._ends[next(iter(results))].get_loop().call_soon_threadsafe(at_once)


class Air:
    """Calls under way, and results of ended ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script = Script()
        monkeypatch.setattr(calls_module, "build_caller", lambda route: self.script)
        self._results: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
        self.slow: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self.calls = Calls({FIRST: ANTHROPIC, SECOND: ANTHROPIC}, self._results.put, self.slow.put)
        self.calls.start()

    def launch(self, one: Call) -> Call:
        self.calls.launch([one])
        assert self.script.begun.get(timeout=WAIT_S) == one.job.attempt_id
        return one

    def pair(self, number: int = 1) -> tuple[Call, Call]:
        """A job's first call `attemptN`, and its second `hedgeN`, both under way."""
        first = self.launch(call(number))
        second = second_call(first)
        self.calls.join(second)
        assert self.script.begun.get(timeout=WAIT_S) == second.job.attempt_id
        return first, second

    def next_result(self) -> CallResult:
        return self._results.get(timeout=WAIT_S)

    def all_landed(self) -> bool:
        """Return whether nothing else has ended, after a whole turn of the loop."""
        self.calls.credentials()  # takes turns of the loop
        return self._results.empty()


def second_call(first: Call) -> Call:
    attempt = first.job.attempt_id.replace("attempt", "hedge")
    target, permit = replace(first.target, route=SECOND, provider="bedrock"), first.job.permit._replace(id=attempt)
    return replace(first, job=first.job._replace(attempt_id=attempt, target=target, permit=permit))


@pytest.fixture
def air(monkeypatch: pytest.MonkeyPatch) -> Iterator[Air]:
    air = Air(monkeypatch)
    yield air
    air.calls.cancel_all()
    air.calls.close()


def said(result: CallResult) -> tuple[str, Outcome, bool]:
    """Return which call ended, with what, and whether it decides."""
    outcome = result.response.outcome if isinstance(result.response, Failure) else Outcome.SUCCEEDED
    return result.call.job.attempt_id, outcome, result.decides


@pytest.mark.parametrize(("winner", "loser"), [("attempt1", "hedge1"), ("hedge1", "attempt1")])
@pytest.mark.parametrize(("word", "outcome"), [(ANSWER, Outcome.SUCCEEDED), (BAD, Outcome.INVALID)])
def test_the_first_final_word_decides_and_the_other_call_is_dropped(
    air: Air, winner: str, loser: str, word: Answer | Failure, outcome: Outcome
) -> None:
    """An answer, or that the request is at fault: no other route would say anything else."""
    first, _ = air.pair()
    air.script.end(**{winner: word})
    assert said(air.next_result()) == (winner, outcome, True)
    assert said(air.next_result()) == (loser, Outcome.CANCELLED, False)
    assert air.script.dropped.get(timeout=WAIT_S) == loser
    assert first.race.decided
    assert first.race.failed == []
    assert air.all_landed()


@pytest.mark.parametrize(("early", "late"), [("attempt1", "hedge1"), ("hedge1", "attempt1")])
def test_a_failure_decides_nothing_while_the_other_call_is_under_way(air: Air, early: str, late: str) -> None:
    first, _ = air.pair()
    air.script.end(**{early: BUSY})
    assert said(air.next_result()) == (early, Outcome.OVERLOADED, False)
    assert not first.race.decided
    air.script.end(**{late: ANSWER})
    assert said(air.next_result()) == (late, Outcome.SUCCEEDED, True)
    assert air.script.dropped.empty()


@pytest.mark.parametrize(("early", "late", "where"), [("attempt1", "hedge1", FIRST), ("hedge1", "attempt1", SECOND)])
def test_when_both_fail_the_last_decides_and_knows_where_the_other_was(
    air: Air, early: str, late: str, where: str
) -> None:
    air.pair()
    air.script.end(**{early: BUSY})
    assert said(air.next_result()) == (early, Outcome.OVERLOADED, False)
    air.script.end(**{late: BUSY})
    last = air.next_result()
    assert said(last) == (late, Outcome.OVERLOADED, True)
    assert last.call.race.failed == [where]
    assert air.all_landed()


@pytest.mark.parametrize("words", [(ANSWER, ANSWER), (ANSWER, BUSY), (BUSY, ANSWER), (BUSY, BUSY), (BAD, ANSWER)])
def test_of_two_that_come_back_in_one_moment_one_decides(air: Air, words: tuple[Answer | Failure, ...]) -> None:
    air.pair()
    air.script.end(attempt1=words[0], hedge1=words[1])
    results = [air.next_result(), air.next_result()]
    assert sorted(one.call.job.attempt_id for one in results) == ["attempt1", "hedge1"]
    (deciding,) = [one for one in results if one.decides]
    if ANSWER in words and BAD not in words:
        assert deciding.response is ANSWER
    assert air.all_landed()


@pytest.mark.parametrize("word", [ANSWER, BUSY, BAD])
def test_a_hedge_that_comes_after_the_decision_makes_no_call(air: Air, word: Answer | Failure) -> None:
    first = air.launch(call(1))
    air.script.end(attempt1=word)
    assert air.next_result().decides
    air.calls.join(second_call(first))
    late = air.next_result()
    assert said(late) == ("hedge1", Outcome.CANCELLED, False)
    assert not late.called
    assert air.script.begun.empty()
    assert air.all_landed()


def test_a_job_that_is_cancelled_loses_both_calls_and_one_of_them_decides(air: Air) -> None:
    first, _ = air.pair()
    air.pair(2)
    air.calls.cancel([first.job.id])
    results = [air.next_result(), air.next_result()]
    assert [said(one)[1] for one in results] == [Outcome.CANCELLED] * 2
    assert {one.call.job.id for one in results} == {first.job.id}
    assert [one.decides for one in results] == [False, True]
    assert all(one.called for one in results)
    assert air.all_landed(), "the other job's calls go on"


def test_a_worker_that_stops_drops_all_calls_and_one_of_each_job_decides(air: Air) -> None:
    air.pair(1)
    air.pair(2)
    air.launch(call(3))
    air.calls.cancel_all()
    results = [air.next_result() for _ in range(5)]
    assert {said(one)[1] for one in results} == {Outcome.CANCELLED}
    assert sorted(one.call.job.id for one in results if one.decides) == ["job1", "job2", "job3"]
    assert air.all_landed()


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.RATE_LIMITED])
def test_what_may_be_asked_again_in_the_round_is_not_held_against_the_route(air: Air, outcome: Outcome) -> None:
    """The rule is that of a call without a hedge: a route that is limited, or whose call we dropped, has not failed."""
    first, _ = air.pair()
    air.script.end(attempt1=Failure(outcome, "not now"))
    assert said(air.next_result()) == ("attempt1", outcome, False)
    air.script.end(hedge1=BUSY)
    assert said(air.next_result()) == ("hedge1", Outcome.OVERLOADED, True)
    assert first.race.failed == []


def test_a_slow_call_is_told_of_while_it_is_under_way(air: Air) -> None:
    slow = air.launch(replace(call(1), hedge_after_s=0.0))
    assert air.slow.get(timeout=WAIT_S) is slow


def test_a_call_that_ended_in_time_is_not_told_of(air: Air) -> None:
    for number, slow_s in enumerate((0.3, 1.5, 4.5), 1):  # however busy the machine is
        launched = time.monotonic()
        ended = air.launch(replace(call(number), hedge_after_s=slow_s))
        air.script.end(**{ended.job.attempt_id: ANSWER})
        air.next_result()
        if time.monotonic() < launched + slow_s:
            break
    later = air.launch(replace(call(9), hedge_after_s=slow_s))
    told: list[str] = []
    while later.job.attempt_id not in told:
        told.append(air.slow.get(timeout=WAIT_S).job.attempt_id)
    assert ended.job.attempt_id not in told


# calls that get a hedge

TERMS = DEFAULTS[Latency.REALTIME].model_copy(update={"budget_s": 60.0, "hedge_share": 0.5, "order": "priority"})
SETTINGS = Settings(
    routes={
        FIRST: RouteSettings(provider="anthropic", priority=1),
        SECOND: RouteSettings(provider="bedrock", priority=2),
        THIRD: RouteSettings(provider="vertex", priority=3, project="p", region="us-east5"),
    },
    classes={**DEFAULTS, Latency.REALTIME: TERMS},
)


class AtOnce:
    """Threads that are done when they are asked."""

    def __init__(self, *_: object, **__: object) -> None:
        self.shut = False

    def submit(self, work: Callable[..., None], *how: Any) -> None:
        work(*how)

    def shutdown(self, **_: bool) -> None:
        self.shut = True


@dataclass
class Hedge:
    """One worker's hedging: real limits, a real database, and a list for what would be launched."""

    sql: StoreWorld
    world: World
    slots: Slots
    hedger: Hedger
    joined: list[Call]
    directory: RouteDirectory

    def slow(self, *, ago_s: float = 0.0, tried: tuple[str, ...] = ()) -> Call:
        """A call of a new job that is under way, so long ago begun."""
        self.sql.add(spec(f"document {len(self.joined)} {ago_s}", latency=Latency.REALTIME))
        lease = self.sql.lease(lane="realtime", routes=list(SETTINGS.routes))
        self.sql.sql("UPDATE leases SET expires_at = 4e9")
        (job,) = self.sql.take(lease, self.sql.dispatch(1, FIRST), route=FIRST)
        first = replace(
            call(1), job=job._replace(round=job.round._replace(tried=tried)), route=SETTINGS.routes[FIRST], timeout_s=60.0,
            allowed=CallTime(30, 60), born_at=time.monotonic() - ago_s,
        )  # fmt: skip
        first.wait_group.add(1)
        return first

    def hedges(self) -> list[Any]:
        return self.sql.sql("SELECT * FROM attempts WHERE purpose = 'hedge'")

    def in_flight(self) -> int:
        """Permits held, over all routes."""
        wanted = [(name, MODEL, Quota.of(settings, MODEL)) for name, settings in SETTINGS.routes.items()]
        return sum(view.in_flight for view in self.world.limits.view(wanted).values())

    def assert_none(self) -> None:
        """Assert that there is no hedge, and that nothing taken for it is still held."""
        assert self.joined == []
        assert (self.hedges(), self.slots.in_use, self.in_flight()) == ([], 0, 0)


@pytest.fixture
def hedge(world: World, store: Store, monkeypatch: pytest.MonkeyPatch) -> Hedge:
    monkeypatch.setattr(hedging_module, "ThreadPoolExecutor", AtOnce)
    with store.write() as connection:
        registry.register(store, connection, SETTINGS.routes)
    directory = RouteDirectory(store, world.limits)
    joined: list[Call] = []
    context = worker_context(store, world.client, directory, SETTINGS)
    hedger = Hedger(context, joined.append)
    return Hedge(StoreWorld(store), world, context.slots, hedger, joined, directory)


def test_a_hedge_has_a_route_a_permit_and_a_row_of_its_own(hedge: Hedge) -> None:
    first = hedge.slow(ago_s=20)
    hedge.hedger.count_calls(2)
    hedge.hedger.ask(first)
    (second,) = hedge.joined
    (row,) = hedge.hedges()
    assert (row.id, row.job_id, row.route, row.provider) == (second.job.attempt_id, first.job.id, SECOND, "bedrock")
    assert (row.outcome, bool(row.estimated), row.cost_usd > 0) == (None, True, True)
    assert second.job.attempt_id != first.job.attempt_id
    assert second.job.permit.id == f"{first.target.lease_id}:{row.id}"
    assert (second.target.route, second.route) == (SECOND, SETTINGS.routes[SECOND])
    assert (hedge.slots.in_use, hedge.in_flight()) == (1, 1)
    # it begins now, and has what is left of the first call's time
    assert second.born_at >= first.born_at + 20
    assert second.ends_at == pytest.approx(first.ends_at, abs=15)
    assert second.race is first.race
    assert second.wait_group is first.wait_group
    waiting = InThread(first.wait_group.wait)
    first.wait_group.down()
    assert not waiting.over
    first.wait_group.down()
    waiting.result()
    assert second.hedge_after_s is None, "one hedge is enough"
    assert 0 < second.timeout_s <= 40, "it ends when the first call does"
    back = CallResult(second, Failure(Outcome.CANCELLED, "lost"), 0.1, decides=False)
    hedge.world.limits.release(SECOND, MODEL, Latency.REALTIME, second.quota, [release_of(back)])
    assert hedge.in_flight() == 0, "what its result gives back is the permit it took"


@pytest.mark.parametrize(
    ("ago_s", "full", "signal"), [(0, True, HealthSignal.FAILED), (50, False, HealthSignal.NEUTRAL)]
)
def test_a_hedge_that_had_little_time_says_nothing_of_its_route(
    hedge: Hedge, ago_s: float, full: bool, signal: HealthSignal
) -> None:
    hedge.hedger.count_calls(2)
    hedge.hedger.ask(hedge.slow(ago_s=ago_s))
    (second,) = hedge.joined
    assert second.full_time is full
    late = CallResult(second, Failure(Outcome.TIMEOUT, "no answer"), second.timeout_s)
    release = release_of(late)
    assert (release.signal, release.took_s) == (signal, 60.0 if full else 0.0)


def test_a_hedge_goes_where_the_job_was_not_yet(hedge: Hedge) -> None:
    hedge.hedger.count_calls(2)
    hedge.hedger.ask(hedge.slow(tried=(SECOND,)))
    assert [second.target.route for second in hedge.joined] == [THIRD]


def test_hedges_are_no_more_than_their_share_of_the_calls(hedge: Hedge) -> None:
    hedge.hedger.count_calls(5)
    for _ in range(4):
        hedge.hedger.ask(hedge.slow())
    assert len(hedge.joined) == 2
    hedge.hedger.count_calls(1)
    hedge.hedger.ask(hedge.slow())
    assert len(hedge.joined) == 3


def test_quiet_times_do_not_save_up_a_hedge_for_every_call_of_a_bad_one(hedge: Hedge) -> None:
    hedge.hedger.count_calls(1_000_000)
    for _ in range(int(MAX_SAVED) + 3):
        hedge.hedger.ask(hedge.slow())
        hedge.slots.give(hedge.slots.in_use)  # else the process, not the share, says no
    assert len(hedge.joined) == MAX_SAVED


def test_before_any_call_was_counted_there_is_no_hedge(hedge: Hedge) -> None:
    hedge.hedger.ask(hedge.slow())
    hedge.assert_none()


def _drain_the_others(hedge: Hedge, _: Call) -> None:
    with hedge.sql.store.write() as connection:
        for name in (SECOND, THIRD):
            registry.set_drained(connection, name, True)


def _lose_the_job(hedge: Hedge, first: Call) -> None:
    hedge.sql.sql("UPDATE jobs SET claim = claim + 1 WHERE id = :id", id=first.job.id)


def _lose_the_memory(hedge: Hedge, _: Call) -> None:
    hedge.world.lose_memory()


@pytest.mark.parametrize("spoil", [_drain_the_others, _lose_the_job, _lose_the_memory])
def test_a_hedge_that_cannot_be_had_holds_nothing_and_uses_up_no_share(
    hedge: Hedge, spoil: Callable[[Hedge, Call], None]
) -> None:
    hedge.hedger.count_calls(2)
    first = hedge.slow()
    spoil(hedge, first)
    hedge.hedger.ask(first)
    hedge.assert_none()
    with hedge.sql.store.write() as connection:
        for name in (SECOND, THIRD):
            registry.set_drained(connection, name, False)
    hedge.world.start_anew()
    hedge.directory.known(fresh=True)
    hedge.hedger.ask(hedge.slow())
    assert len(hedge.joined) == 1


def test_no_hedge_without_a_free_slot(hedge: Hedge) -> None:
    hedge.hedger.count_calls(2)
    hedge.slots.take(4, 0)
    hedge.hedger.ask(hedge.slow())
    assert (hedge.joined, hedge.hedges(), hedge.in_flight(), hedge.slots.in_use) == ([], [], 0, 4)


def test_no_hedge_in_the_last_moment(hedge: Hedge) -> None:
    hedge.hedger.count_calls(2)
    hedge.hedger.ask(hedge.slow(ago_s=60 - LEAST_S))
    hedge.assert_none()


@pytest.mark.parametrize("error", [StoreUnavailable("the database does not answer"), KeyError("the prompt")])
def test_whatever_goes_wrong_the_first_call_goes_on_and_nothing_is_held(
    hedge: Hedge, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> bool:
        raise error

    monkeypatch.setattr(hedging_module, "add_attempt", fails)
    hedge.hedger.count_calls(2)
    first = hedge.slow()
    hedge.hedger.ask(first)
    hedge.assert_none()
    assert not first.race.decided
    assert "no hedge for a slow call" in caplog.text
    assert "prompt" not in caplog.text
