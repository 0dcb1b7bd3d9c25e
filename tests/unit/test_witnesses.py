"""A worker that gets no call to the provider, or whose key is refused, closes no route until another worker says the same."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.utils import str_if_bytes
from tests.unit.breakers_world import HEALTH, MODEL, NEIGHBOUR, ROUTE, WHOLE_ROUTE, Breaker, ClockedRedis, World, states

from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.shared_state import PREFIX

ROW = HEALTH.open_after_failures
FAILED, REFUSED = HealthSignal.LOCAL_FAILED, HealthSignal.LOCAL_REFUSED
KINDS = {FAILED: "unreached", REFUSED: "refused"}
Workers = Callable[[str], Breaker]


@pytest.fixture
def worker(world: World) -> Workers:
    """The breaker as a worker of that name uses it."""
    return world.breaker_of


@pytest.mark.parametrize("signal", [FAILED, REFUSED])
def test_one_worker_alone_closes_nothing_however_often(world: World, worker: Workers, signal: HealthSignal) -> None:
    bad = worker("bad")
    for _ in range(50):
        assert bad.call(signal) == []
        world.pass_time(0.5)
    view = bad.view()
    assert (view.state, view.calls, view.failed) == ("healthy", 0, 0)
    assert world.limits.unhealthy() == []


def test_failures_count_from_the_second_worker_on(worker: Workers) -> None:
    worker("a").calls(ROW, FAILED)
    assert worker("b").calls(ROW - 1, FAILED) == []
    (change,) = worker("b").call(FAILED, cause="connection: refused")
    assert (change.model, change.state, change.cause) == (MODEL, "open", "connection: refused")


def test_a_wave_of_both_opens_it_once(worker: Workers) -> None:
    a, b = worker("a"), worker("b")
    assert a.take(10).granted == b.take(10).granted == 10
    changes = a.settle(FAILED, count=10) + b.settle(FAILED, count=10)
    assert states(changes) == [(MODEL, "open")]


def test_a_refused_key_closes_the_route_once_another_is_refused(worker: Workers) -> None:
    assert worker("a").call(REFUSED) == []
    (change,) = worker("b").call(REFUSED)
    assert (change.model, change.state) == (WHOLE_ROUTE, "open")


def test_two_refused_keys_close_nothing_while_another_workers_key_is_good(world: World, worker: Workers) -> None:
    good = worker("good")
    assert good.take().granted == 1
    good.settle(lasted_s=0)
    world.pass_time(1)
    for _ in range(3):
        assert worker("a").call(REFUSED) == []
        assert worker("b").call(REFUSED) == []
    assert good.state == "healthy"
    world.pass_time(HEALTH.window_s)
    assert worker("a").call(REFUSED) == []
    assert states(worker("b").call(REFUSED)) == [(WHOLE_ROUTE, "open")], "nobody has had an answer within the window"


def test_a_word_on_one_model_is_confirmed_on_another(world: World) -> None:
    """Network and key are the route's, not the model's."""
    world.breaker_of("a", NEIGHBOUR).call(FAILED)
    assert states(world.breaker_of("b").calls(ROW, FAILED)) == [(MODEL, "open")]


def test_the_two_kinds_do_not_confirm_each_other(worker: Workers) -> None:
    worker("a").calls(ROW, FAILED)
    assert worker("b").calls(ROW, REFUSED) == []
    assert worker("a").state == "healthy"


@pytest.mark.parametrize("signal", [FAILED, REFUSED])
def test_a_call_that_began_since_and_was_answered_refutes_all_who_failed_before(
    world: World, worker: Workers, signal: HealthSignal
) -> None:
    worker("a").call(signal)
    world.pass_time(1.0)
    worker("good").call(lasted_s=0.5)
    assert worker("b").calls(ROW, signal) == []
    assert worker("b").state == "healthy"


def test_a_call_that_began_before_refutes_only_its_own_worker(world: World, worker: Workers) -> None:
    worker("a").call(FAILED)
    world.pass_time(1.0)
    worker("b").call(lasted_s=5.0)
    assert states(worker("b").calls(ROW, FAILED)) == [(MODEL, "open")]
    world.start_anew()
    worker("a").call(FAILED)
    worker("a").call(lasted_s=5.0)
    assert worker("b").calls(ROW, FAILED) == []


def test_a_word_grows_old(world: World, worker: Workers) -> None:
    worker("a").call(FAILED)
    world.pass_time(HEALTH.window_s)
    assert worker("b").calls(ROW, FAILED) == []


def test_what_is_told_twice_is_no_second_word(worker: Workers) -> None:
    a = worker("a")
    a.take()
    held = list(a.held)
    assert a.settle(FAILED) == []
    assert a.settle_these(held, FAILED) == []
    assert worker("b").calls(ROW - 1, FAILED) == []


@pytest.mark.parametrize("signal", [FAILED, REFUSED])
def test_a_probe_that_failed_by_its_workers_own_fault_is_followed_by_another_soon(
    world: World, worker: Workers, signal: HealthSignal
) -> None:
    bad, good = worker("bad"), worker("good")
    world.open(good)
    world.probing(good)
    world.pass_time(HEALTH.probe_interval_s / 5)
    assert bad.probe(signal) == [], "it does not break the row of good ones"
    assert bad.claim() is None
    world.pass_time(HEALTH.probe_interval_s / 5)
    good.probe()
    world.pass_time(HEALTH.probe_interval_s / 5)
    assert states(good.probe()) == [(MODEL, "recovering")]


def test_probes_of_a_route_that_nobody_reaches_confirm_each_other(world: World, worker: Workers) -> None:
    a, b = worker("a"), worker("b")
    a.calls(ROW, FAILED)
    b.calls(ROW, FAILED)
    assert a.state == "open"
    for one in (a, b, a):
        world.pass_time(HEALTH.probe_interval_s)
        assert one.probe(FAILED) == [], "open it stays"
        assert one.view().wait_s == HEALTH.probe_interval_s


def test_what_is_kept_is_bounded(world: World) -> None:
    workers = [world.breaker_of(f"worker-{number}") for number in range(100)]
    for one in workers:
        one.take()
    for one in workers:
        one.settle(REFUSED)
    recorded = str_if_bytes(world.client.hget(f"{PREFIX}breaker:{ROUTE}:{WHOLE_ROUTE}", "refused") or b"")
    assert len(recorded.split(";")) == 16
    assert recorded.startswith("worker-99@")


ORIGINS = ("a", "b", "c")
EVENTS = st.lists(
    st.tuples(st.sampled_from(ORIGINS), st.sampled_from([HealthSignal.GOOD, FAILED, REFUSED]), st.floats(0, 12)),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_route_is_closed_exactly_when_two_workers_in_a_row_have_the_same_failure(
    valkey: ClockedRedis, events: list[tuple[str, HealthSignal, float]]
) -> None:
    """The breaker agrees with the rule in words: each worker's latest signal counts while it is fresh and not refuted."""
    world = World(valkey, HEALTH.model_copy(update={"min_calls": 1_000}))  # the row decides, not the share
    breakers = {origin: world.breaker_of(origin) for origin in ORIGINS}
    said: dict[HealthSignal, dict[str, float]] = {FAILED: {}, REFUSED: {}}
    row, proven_at = 0, float("-inf")
    for origin, signal, pause_s in events:
        changes = breakers[origin].call(signal)
        if signal is HealthSignal.GOOD:  # it began just now: nobody else's failure is the route's
            said = {FAILED: {}, REFUSED: {}}
            row, proven_at = 0, world.now
            assert changes == []
        else:
            fresh = {name for name, at in said[signal].items() if world.now - at < HEALTH.window_s} - {origin}
            said[signal][origin] = world.now
            if signal is FAILED and fresh:
                row += 1
            revoked = signal is REFUSED and fresh and world.now - proven_at >= HEALTH.window_s
            if revoked or row == ROW:
                name = WHOLE_ROUTE if signal is REFUSED else MODEL
                assert states(changes) == [(name, "open")]
                return
            assert changes == []
        world.pass_time(pause_s)
    assert all(breaker.state == "healthy" for breaker in breakers.values())
