"""Probes: one at a time for the whole fleet, where one is due, and never for a route without a worker to make it."""

from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest
from celery import Celery
from tests.store.world import World as StoreWorld
from tests.store.world import spec
from tests.unit.breakers_world import HEALTH, MODEL, NEIGHBOUR, ROUTE, WHOLE_ROUTE, Breaker, World, states

from trivet_routing.permits import Quota, RouteUse
from trivet_routing.route_directory import RouteDirectory
from trivet_scheduler import probing as probing_module
from trivet_scheduler.probing import SETTLED_WITHIN_S, Prober
from trivet_store.cluster import registry
from trivet_store.database.engine import Store
from trivet_store.jobs.enqueue import insert_probe
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.jobs import Permit
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, queue_name, task_name
from trivet_tasks.outcomes import HealthSignal

OTHER_ROUTE, LAST_ROUTE = "bedrock-us-west-2", "vertex-us-east5"
NOT_ON_VERTEX = "claude-mythos-5-2"
SETTINGS = Settings(
    routes={
        ROUTE: RouteSettings(provider="bedrock", region="us-east-1"),
        OTHER_ROUTE: RouteSettings(provider="bedrock", region="us-west-2"),
        LAST_ROUTE: RouteSettings(provider="vertex", region="us-east5", project="p"),
    },
    health=HEALTH,
)
LOST_AFTER_S = SETTINGS.dispatch.taken_within_s + HEALTH.probe_timeout_s + SETTLED_WITHIN_S


class Place:
    """A system of three routes, a database, and a broker whose queues the test reads."""

    def __init__(self, world: World, store: Store, app: Celery) -> None:
        self.world = world
        self.store = store
        self.sql = StoreWorld(store)
        self.app = app
        with store.write() as connection:
            registry.register(store, connection, SETTINGS.routes)
        for name in SETTINGS.routes:
            for latency in (Latency.BATCH, Latency.REALTIME):
                self.messages(name, latency)  # what other tests left in this process's memory

    def serve(self, *routes: str, lane: str = "bulk") -> None:
        """Register a worker that lives as long as the test."""
        self.sql.lease(lane=lane, routes=routes)
        self.sql.sql("UPDATE leases SET expires_at = 4e9")

    def prober(self) -> Prober:
        """Return the prober of a new scheduler, which knows the present state."""
        return Prober(self.store, self.directory(), self.app, SETTINGS)

    def directory(self) -> RouteDirectory:
        return RouteDirectory(self.store, self.world.limits)

    def run(self) -> list[tuple[str, str]]:
        """Run a pass of a scheduler; return what it probes: (route, model)."""
        before = set(self.jobs())
        self.prober().run()
        jobs = self.jobs()
        return sorted(jobs[job_id] for job_id in jobs.keys() - before)

    def jobs(self) -> dict[str, tuple[str, str]]:
        rows = self.sql.sql("SELECT j.id, j.route, f.model FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE f.probe")
        return {row.id: (row.route, row.model) for row in rows}

    def messages(self, route: str, latency: Latency = Latency.BATCH) -> list[Chunk]:
        """Take what is in the queue."""
        found: list[Chunk] = []
        with self.app.connection_for_read() as connection, connection.SimpleQueue(queue_name(route, latency)) as line:
            while True:
                try:
                    message = line.get(block=False)
                except Empty:
                    return found
                message.ack()
                provider = message.headers["task"].removeprefix(task_name(""))
                found.append(Chunk.from_args(provider, message.payload[0]))

    def breaker(self, model: str = MODEL, route: str = ROUTE) -> Breaker:
        return Breaker(self.world.client, self.world.limits, model, Quota.of(SETTINGS.routes[route], model), route)

    def open(self, route: str = ROUTE, *models: str) -> None:
        for model in models or (MODEL,):
            self.world.open(self.breaker(model, route))

    def open_whole(self, route: str = ROUTE) -> None:
        self.breaker("claude-opus-4-6", route).call(HealthSignal.UNUSABLE_ROUTE)
        assert (route, WHOLE_ROUTE) in self.world.limits.unhealthy()

    def until_due(self) -> None:
        self.world.pass_time(HEALTH.probe_interval_s)


@pytest.fixture
def place(world: World, store: Store) -> Iterator[Place]:
    app = Celery("test", broker="memory://", set_as_current=False)
    yield Place(world, store, app)
    app.close()


def test_while_all_is_well_nothing_is_probed(place: Place) -> None:
    place.serve(ROUTE)
    place.breaker().call(HealthSignal.FAILED)
    place.until_due()
    assert place.run() == []


def test_a_breaker_that_is_due_gets_one_probe_from_the_whole_fleet(place: Place) -> None:
    place.serve(ROUTE)
    place.open()
    assert place.run() == [], "it is not due yet"
    place.until_due()
    assert place.run() == [(ROUTE, MODEL)]
    assert place.run() == [], "another scheduler finds that it is under way"
    (job_id,) = place.jobs()
    (message,) = place.messages(ROUTE)
    assert [job.id for job in message.jobs] == [job_id]
    assert (message.route, message.provider, message.model, message.latency) == (ROUTE, "bedrock", MODEL, Latency.BATCH)
    assert place.sql.job(job_id).state == "dispatched"
    breaker = place.breaker()
    assert breaker.take(probe="another").granted == 0
    assert breaker.take(probe=message.probe).granted == 1, "the token of the message passes the open breaker"
    place.until_due()
    assert place.run() == [], "as long as its call may take"


def test_a_probe_that_was_never_heard_of_again_is_made_anew(place: Place) -> None:
    place.serve(ROUTE)
    place.open()
    place.until_due()
    assert place.run() == [(ROUTE, MODEL)]
    place.world.pass_time(LOST_AFTER_S - 1)
    assert place.run() == []
    place.world.pass_time(1.1)
    assert place.run() == [(ROUTE, MODEL)]
    first, second = place.messages(ROUTE)
    assert place.breaker().take(probe=first.probe).granted == 0
    assert place.breaker().take(probe=second.probe).granted == 1


def _drained(place: Place) -> None:
    with place.store.write() as connection:
        registry.set_drained(connection, ROUTE, True)


def _without_worker(place: Place) -> None:
    place.sql.sql("DELETE FROM leases")
    place.serve(OTHER_ROUTE)


def _with_an_impaired_worker(place: Place) -> None:
    place.sql.sql("UPDATE leases SET impairment = 'the database is slow'")
    place.serve(OTHER_ROUTE)


def _gone_from_the_configuration(place: Place) -> None:
    place.sql.sql("DELETE FROM routes WHERE name = :name", name=ROUTE)


def _told_to_wait(place: Place) -> None:
    """By a call from before it was opened, which comes back only now."""
    late = Permit("from before", 0, 0)
    changes = place.breaker().settle_these([late], HealthSignal.LIMITED, pause_s=10 * HEALTH.probe_interval_s)
    assert states(changes) == [(MODEL, "limited")]


@pytest.mark.parametrize(
    "impairment", [_drained, _without_worker, _with_an_impaired_worker, _gone_from_the_configuration, _told_to_wait]
)
def test_a_route_that_nobody_may_call_is_passed_over_and_the_others_are_not(place: Place, impairment: Any) -> None:
    place.serve(ROUTE, OTHER_ROUTE)
    place.open(ROUTE)
    place.open(OTHER_ROUTE)
    impairment(place)
    place.until_due()
    assert place.run() == [(OTHER_ROUTE, MODEL)]
    assert place.messages(ROUTE) == []


def test_what_was_passed_over_is_probed_as_soon_as_it_may_be(place: Place) -> None:
    """No token was spent on it."""
    place.serve(ROUTE)
    place.open()
    _drained(place)
    place.until_due()
    assert place.run() == []
    with place.store.write() as connection:
        registry.set_drained(connection, ROUTE, False)
    assert place.run() == [(ROUTE, MODEL)]


def test_a_model_that_the_route_no_longer_serves_is_not_probed(place: Place) -> None:
    place.serve(LAST_ROUTE)
    place.open(LAST_ROUTE, NOT_ON_VERTEX, MODEL)
    place.until_due()
    assert place.run() == [(LAST_ROUTE, MODEL)]


def test_a_route_with_realtime_workers_only_is_probed_by_them(place: Place) -> None:
    place.serve(ROUTE, lane="realtime")
    place.open()
    place.until_due()
    assert place.run() == [(ROUTE, MODEL)]
    assert place.messages(ROUTE, Latency.BATCH) == []
    (message,) = place.messages(ROUTE, Latency.REALTIME)
    assert message.latency is Latency.REALTIME


def test_a_fault_with_one_probe_does_not_stop_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*asked: Any, route: str, **how: Any) -> Any:
        if route == ROUTE:
            raise KeyError("a fault")
        return insert_probe(*asked, route=route, **how)

    monkeypatch.setattr(probing_module, "insert_probe", breaks)
    place.serve(ROUTE, OTHER_ROUTE)
    place.open(ROUTE)
    place.open(OTHER_ROUTE)
    place.until_due()
    assert place.run() == [(OTHER_ROUTE, MODEL)]
    assert f"no probe of {ROUTE} {MODEL} by a fault of Trivet's own: KeyError" in caplog.text


def test_a_database_that_does_not_answer_is_the_schedulers_to_wait_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the database does not answer")

    place.serve(ROUTE)
    place.open()
    place.until_due()
    with monkeypatch.context() as patch:
        patch.setattr(probing_module, "insert_probe", fails)
        with pytest.raises(StoreUnavailable):
            place.prober().run()
    assert place.run() == [], "the token is out"
    place.world.pass_time(LOST_AFTER_S + 0.1)
    assert place.run() == [(ROUTE, MODEL)]


# an idle route

IDLE_S = HEALTH.idle_probe_s


def noticed(place: Place, *routes: str) -> None:
    """The time without a call begins when a scheduler first sees the route served."""
    place.serve(*routes)
    assert place.run() == []


def test_a_route_without_a_call_is_probed_once_by_the_whole_fleet(place: Place) -> None:
    noticed(place, ROUTE, OTHER_ROUTE)
    in_use(place, MODEL)
    place.world.pass_time(IDLE_S - 1)
    assert place.run() == []
    place.breaker(route=OTHER_ROUTE).call()
    place.world.pass_time(1)
    assert place.run() == [(ROUTE, MODEL)], "the other was called a second ago"
    assert place.run() == [], "another scheduler finds that it is under way"
    (message,) = place.messages(ROUTE)
    breaker = place.breaker()
    assert breaker.take(probe=message.probe).granted == 1
    assert place.run() == []
    breaker.settle(lasted_s=0)
    assert place.world.limits.uses([ROUTE]) == {ROUTE: RouteUse(0, 0)}
    assert place.run() == []
    place.world.pass_time(IDLE_S - 1)
    assert place.run() == [(OTHER_ROUTE, MODEL)]
    place.world.pass_time(1)
    assert place.run() == [(ROUTE, MODEL)]


def test_a_call_under_way_or_that_ended_keeps_a_route_from_being_idle(place: Place) -> None:
    noticed(place, ROUTE)
    breaker = place.breaker()
    for outcome in (HealthSignal.GOOD, HealthSignal.NEUTRAL):
        place.world.pass_time(IDLE_S - 1)
        assert breaker.take().granted == 1
        place.world.pass_time(IDLE_S - 1)
        assert place.run() == []
        breaker.settle(outcome, lasted_s=IDLE_S - 1)
    place.world.pass_time(IDLE_S - 1)
    assert place.run() == []
    place.world.pass_time(1)
    assert len(place.run()) == 1


def test_a_revoked_key_opens_the_route_at_its_first_idle_probe(place: Place) -> None:
    noticed(place, ROUTE)
    place.world.pass_time(IDLE_S)
    ((_, model),) = place.run()
    breaker = place.breaker(model)
    assert breaker.take(probe=place.messages(ROUTE)[0].probe).granted == 1
    assert states(breaker.settle(HealthSignal.UNUSABLE_ROUTE)) == [(WHOLE_ROUTE, "open")]
    assert place.breaker(MODEL).take().granted == 0


def test_a_key_that_one_worker_finds_refused_is_tried_by_another_at_once(place: Place) -> None:
    noticed(place, ROUTE)
    in_use(place, MODEL)
    place.world.pass_time(IDLE_S)
    for origin, changed in (("here", []), ("elsewhere", [(WHOLE_ROUTE, "open")])):
        assert place.run() == [(ROUTE, MODEL)]
        breaker = place.world.breaker_of(origin)
        assert breaker.take(probe=place.messages(ROUTE)[0].probe).granted == 1
        assert states(breaker.settle(HealthSignal.LOCAL_REFUSED, cause="unusable: refused")) == changed


def test_an_idle_probe_that_fails_is_followed_by_others_until_the_route_is_open(place: Place) -> None:
    noticed(place, ROUTE)
    place.world.pass_time(IDLE_S)
    probed = 0
    for _ in range(HEALTH.open_after_failures):
        ((_, model),) = place.run()
        probed += 1
        breaker = place.breaker(model)
        assert breaker.take(probe=place.messages(ROUTE)[0].probe).granted == 1
        changes = breaker.settle(HealthSignal.FAILED, cause="connection: refused", job=f"probe {probed}")
        if not changes:
            assert breaker.view().doubt == "connection: refused"
            place.until_due()
            place.world.pass_time(HEALTH.probe_interval_s * 0.2)  # the jitter
    assert states(changes) == [(model, "open")]
    assert probed == HEALTH.open_after_failures


def test_an_idle_probe_that_fails_once_is_followed_by_one_that_clears_it(place: Place) -> None:
    noticed(place, ROUTE)
    place.world.pass_time(IDLE_S)
    for signal in (HealthSignal.FAILED, HealthSignal.GOOD):
        ((_, model),) = place.run()
        breaker = place.breaker(model)
        assert breaker.take(probe=place.messages(ROUTE)[0].probe).granted == 1
        breaker.settle(signal)
    assert (breaker.view().doubt, breaker.state) == ("", "healthy")
    place.world.pass_time(3 * HEALTH.probe_interval_s)
    assert place.run() == []


@pytest.mark.parametrize("signal", [HealthSignal.UNUSED, HealthSignal.NEUTRAL, None])
def test_an_idle_probe_that_says_nothing_of_the_route_is_made_anew(place: Place, signal: HealthSignal | None) -> None:
    """None: its worker died."""
    noticed(place, ROUTE)
    place.world.pass_time(IDLE_S)
    ((_, model),) = place.run()
    breaker = place.breaker(model)
    assert breaker.take(probe=place.messages(ROUTE)[0].probe).granted == 1
    if signal is not None:
        breaker.settle(signal)
        place.world.pass_time(HEALTH.probe_interval_s)
    else:
        place.world.pass_time(IDLE_S / 2)
    assert len(place.run()) == 1


def test_an_idle_probe_that_was_lost_is_made_anew(place: Place) -> None:
    noticed(place, ROUTE)
    place.world.pass_time(IDLE_S)
    assert len(place.run()) == 1
    place.world.pass_time(LOST_AFTER_S - 1)
    assert place.run() == []
    place.world.pass_time(1.1)
    assert len(place.run()) == 1


@pytest.mark.parametrize(
    "impairment",
    [_drained, _without_worker, _with_an_impaired_worker, _gone_from_the_configuration],
)
def test_an_idle_route_that_nobody_may_call_is_not_probed(place: Place, impairment: Any) -> None:
    noticed(place, ROUTE)
    impairment(place)
    place.world.pass_time(2 * IDLE_S)
    assert [route for route, _ in place.run()] in ([], [OTHER_ROUTE])
    assert place.messages(ROUTE) == []


def test_a_limited_route_is_left_alone_while_it_is_told_to_wait(place: Place) -> None:
    noticed(place, ROUTE)
    in_use(place, MODEL)
    place.breaker().call(HealthSignal.LIMITED, pause_s=IDLE_S + 10)
    place.world.pass_time(IDLE_S + 1)
    assert place.run() == []
    place.world.pass_time(10)
    assert place.run() == [(ROUTE, MODEL)]


def test_a_route_has_an_interval_of_its_own_or_is_never_probed(place: Place) -> None:
    own = {ROUTE: 0.0, OTHER_ROUTE: 20.0}
    routes = {name: SETTINGS.routes[name].model_copy(update={"idle_probe_s": seconds}) for name, seconds in own.items()}
    with place.store.write() as connection:
        registry.register(place.store, connection, routes)
    noticed(place, ROUTE, OTHER_ROUTE)
    place.world.pass_time(20)
    assert [route for route, _ in place.run()] == [OTHER_ROUTE]
    place.world.pass_time(10 * IDLE_S)
    assert ROUTE not in [route for route, _ in place.run()]


def test_what_the_shared_state_forgot_is_unproven_again(place: Place) -> None:
    place.breaker().call(lasted_s=5)
    assert place.world.limits.uses([ROUTE, OTHER_ROUTE]) == {ROUTE: RouteUse(0, 5), OTHER_ROUTE: RouteUse()}
    place.world.lose_memory()
    assert place.world.limits.uses([ROUTE]) == {ROUTE: RouteUse()}


# a whole route


def in_use(place: Place, *models: str) -> None:
    for model in models:
        place.sql.add(spec(f"for {model}", model=model))


def test_a_whole_route_is_probed_with_a_model_in_use_whose_breaker_is_healthy(place: Place) -> None:
    place.serve(ROUTE)
    in_use(place, MODEL, NEIGHBOUR)
    place.open(ROUTE, MODEL)
    place.open_whole()
    place.until_due()
    assert place.run() == [(ROUTE, NEIGHBOUR)], "one probe: that of the model waits until this one is back"
    (message,) = place.messages(ROUTE)
    assert place.breaker(NEIGHBOUR).take(probe=message.probe).granted == 1


def test_it_need_not_be_in_use_if_all_of_those_are_unhealthy(place: Place) -> None:
    place.serve(ROUTE)
    in_use(place, MODEL, NEIGHBOUR)
    place.open(ROUTE, MODEL, NEIGHBOUR)
    place.open_whole()
    place.until_due()
    ((route, model),) = place.run()
    assert route == ROUTE
    assert model not in (MODEL, NEIGHBOUR)
    assert place.breaker(model).claim() is None, "the whole route's probe is under way"


def test_a_model_that_the_route_does_not_serve_is_no_use_for_it(place: Place) -> None:
    place.serve(LAST_ROUTE)
    in_use(place, NOT_ON_VERTEX, NEIGHBOUR)
    place.open_whole(LAST_ROUTE)
    place.until_due()
    assert place.run() == [(LAST_ROUTE, NEIGHBOUR)]


def test_good_probes_with_that_model_bring_the_whole_route_back(place: Place) -> None:
    place.serve(ROUTE)
    in_use(place, NEIGHBOUR)
    place.open_whole()
    for _ in range(HEALTH.close_after_successes):
        place.until_due()
        assert place.run() == [(ROUTE, NEIGHBOUR)]
        (message,) = place.messages(ROUTE)
        breaker = place.breaker(NEIGHBOUR)
        assert breaker.take(probe=message.probe).granted == 1
        breaker.settle()
    assert place.breaker(MODEL).state == "recovering"
    assert place.breaker(MODEL).take().granted == 1


def test_a_person_may_have_a_probe_now(place: Place) -> None:
    place.serve(ROUTE)
    prober = place.prober()
    route = place.directory().known().routes[ROUTE]
    job_id = prober.probe(route, MODEL, at_once=True)
    assert job_id in place.jobs()
    place.open()
    assert prober.probe(route, MODEL) is None
    assert prober.probe(route, MODEL, at_once=True)
    assert prober.probe(route, MODEL, at_once=True) is None, "one at a time all the same"
    assert prober.probe(route, None, at_once=True) is None
