"""Recorded health of the routes is compared with the actual one, and corrected where it was seen to differ twice."""

import pytest
import redis
from tests.unit.backends import SETTINGS, Backends
from tests.unit.breakers_world import HEALTH, MODEL, NEIGHBOUR, ROUTE, WHOLE_ROUTE, Breaker, World

from trivet_routing.limits import Limits
from trivet_routing.permits import Quota
from trivet_scheduler.restoring import Restorer
from trivet_store import events
from trivet_store.cluster import health
from trivet_store.cluster.health import HealthRow
from trivet_store.database.engine import Store
from trivet_store.events import Event
from trivet_tasks.outcomes import HealthSignal


class Books:
    """The breakers on the server's own clock, and what is written of them."""

    def __init__(self, backends: Backends) -> None:
        self.backends = backends
        self._client = redis.Redis(connection_pool=backends.world.client.connection_pool)
        self._limits = Limits(self._client, HEALTH)

    def breaker(self, model: str = MODEL) -> Breaker:
        quota = Quota.of(SETTINGS.routes[ROUTE], model)
        return Breaker(self.backends.world.client, self._limits, model, quota)

    def open(self, model: str = MODEL) -> None:
        """Open the breaker without writing it down."""
        (change,) = self.breaker(model).calls(HEALTH.open_after_failures, HealthSignal.FAILED)
        assert change.state == "open"

    def restore(self) -> None:
        self._limits.forget(ROUTE)

    def restorer(self) -> Restorer:
        return self.backends.restorer(self._client)

    def note(self, state: str, cause: str, model: str = MODEL) -> None:
        self.backends.note(model, state, cause, HEALTH.probe_interval_s if state == "open" else 0)

    def rows(self) -> dict[str, HealthRow]:
        with self.backends.store.read() as connection:
            return {row.model: row for row in health.noted(connection)}

    def events(self) -> list[Event]:
        with self.backends.store.read() as connection:
            return events.latest(connection, since=0)


@pytest.fixture
def books(world: World, store: Store) -> Books:
    return Books(Backends(world, store))


def test_where_all_is_as_written_nothing_is_written(books: Books) -> None:
    books.open()
    books.note("open", "failed: said the provider")
    before = books.rows(), books.events()
    restorer = books.restorer()
    for _ in range(3):
        restorer.reconcile()
    assert (books.rows(), books.events()) == before


def test_an_open_breaker_that_nobody_wrote_down_is_written_after_the_second_look(books: Books) -> None:
    books.open()
    restorer = books.restorer()
    restorer.reconcile()
    assert (books.rows(), books.events()) == ({}, []), "somebody may be about to write it"
    restorer.reconcile()
    row = books.rows()[MODEL]
    assert (row.route, row.state, row.cause) == (ROUTE, "open", "failed: said the provider")
    assert row.closed_until is not None
    assert 0 < row.closed_until - row.since <= 1.2 * HEALTH.probe_interval_s, "when the next probe is due"
    (event,) = books.events()
    assert (event.kind, event.route, event.model) == ("route open", ROUTE, MODEL)
    for _ in range(3):
        restorer.reconcile()
    assert books.events() == [event], "once"


def test_what_was_written_meanwhile_is_left_alone(books: Books) -> None:
    books.open()
    restorer = books.restorer()
    restorer.reconcile()
    books.note("open", "as the worker wrote it")
    before = books.events()
    for _ in range(2):
        restorer.reconcile()
    assert books.rows()[MODEL].cause == "as the worker wrote it"
    assert books.events() == before


def test_one_written_as_open_whose_breaker_is_healthy_is_healthy(books: Books) -> None:
    for model in (MODEL, WHOLE_ROUTE):
        books.note("open", "down", model)
    restorer = books.restorer()
    restorer.reconcile()
    assert {row.state for row in books.rows().values()} == {"open"}
    restorer.reconcile()
    assert {model: (row.state, row.closed_until) for model, row in books.rows().items()} == {
        MODEL: ("healthy", None),
        WHOLE_ROUTE: ("healthy", None),
    }
    assert sorted(event.kind for event in books.events()) == ["route healthy"] * 2 + ["route open"] * 2


def test_each_is_looked_at_twice_for_itself(books: Books) -> None:
    books.open(MODEL)
    restorer = books.restorer()
    restorer.reconcile()
    books.open(NEIGHBOUR)
    restorer.reconcile()
    assert books.rows().keys() == {MODEL}
    restorer.reconcile()
    assert books.rows().keys() == {MODEL, NEIGHBOUR}


def test_two_looks_with_a_right_one_between_are_not_two(books: Books) -> None:
    books.open()
    restorer = books.restorer()
    restorer.reconcile()
    books.restore()
    restorer.reconcile()
    books.open()
    restorer.reconcile()
    assert books.rows() == {}
    restorer.reconcile()
    assert books.rows()[MODEL].state == "open"


def test_what_is_written_is_what_the_second_look_saw(books: Books) -> None:
    """A recovering one with its share, which events tell."""
    breaker = books.breaker()
    breaker.call(HealthSignal.UNUSABLE_ROUTE)
    restorer = books.restorer()
    restorer.reconcile()
    for _ in range(HEALTH.close_after_successes):
        token = breaker.claim(at_once=True)
        assert token
        assert breaker.take(probe=token).granted == 1
        breaker.settle()
    assert breaker.state == "recovering"
    restorer.reconcile()
    assert books.rows()[WHOLE_ROUTE].state == "recovering"
    (event,) = books.events()
    assert event.text == "10% of its work: good probes"


def test_while_the_memory_is_gone_nothing_is_concluded_from_it(books: Books) -> None:
    """Every breaker would look healthy then."""
    books.note("open", "down")
    books.note("open", "no credit", WHOLE_ROUTE)
    books.backends.world.lose_memory()
    before = books.rows(), books.events()
    restorer = books.restorer()
    for _ in range(3):
        restorer.reconcile()
    assert (books.rows(), books.events()) == before
    assert restorer.run()
    for _ in range(3):
        restorer.reconcile()
    assert (books.rows(), books.events()) == before, "all is as it was written"
    assert books.breaker().state == "open"


def test_one_that_was_recovering_before_the_memory_was_lost_is_written_as_the_open_one_it_is_now(books: Books) -> None:
    books.note("recovering", "good probes")
    books.backends.world.lose_memory()
    restorer = books.restorer()
    assert restorer.run()
    for _ in range(2):
        restorer.reconcile()
    assert books.rows()[MODEL].state == "open"
