"""Leases: the announcement of a worker, its heartbeat, its end."""

from tests.store.world import OTHER_ROUTE, ROUTE, World, finished, specs

from trivet_routing.route_directory import RouteSnapshot
from trivet_store.cluster import leases
from trivet_store.cluster.leases import Renewal
from trivet_store.jobs import cancelling
from trivet_worker.adapters.protocol import LocalCause


def _renew(world: World, lease_id: str, in_flight: int = 3, impairment: str | None = None) -> Renewal:
    with world.store.write() as connection:
        return leases.renew(world.store, connection, lease_id, in_flight, impairment, 15.0)


def _living(world: World) -> list[leases.Lease]:
    with world.store.read() as connection:
        return leases.living(world.store, connection)


def test_a_living_worker_says_what_it_serves(world: World) -> None:
    lease = world.lease(worker="w1", lane="realtime", routes=[ROUTE])
    (found,) = _living(world)
    assert found[:7] == (lease, "w1", "realtime", (ROUTE,), 16, 0, None)
    assert _renew(world, lease, 7, "the database is slow") == Renewal(held=True)
    (found,) = _living(world)
    assert (found.in_flight, found.impairment) == (7, "the database is slow")


def test_a_worker_takes_no_work_of_an_impaired_route(world: World) -> None:
    lease = world.lease(routes=[ROUTE, OTHER_ROUTE])
    with world.store.write() as connection:
        leases.renew(
            world.store, connection, lease, 0, None, 15.0, {ROUTE: {LocalCause.NO_CREDENTIALS: "No key here."}}
        )
        assert leases.taking_work(world.store, connection) == {lease: frozenset([ROUTE])}
    (found,) = _living(world)
    assert found.impaired == {ROUTE: "No key here."}
    assert [found.takes(route) for route in (ROUTE, OTHER_ROUTE, "another")] == [False, True, False]
    known = RouteSnapshot({}, (found,), 0.0)
    assert (known.lanes(ROUTE), known.slots(ROUTE, "bulk")) == (frozenset(), 0)
    assert (known.lanes(OTHER_ROUTE), known.slots(OTHER_ROUTE, "bulk")) == (frozenset(["bulk"]), 16)
    assert _renew(world, lease).held
    assert _living(world)[0].takes(ROUTE)


def test_a_heartbeat_moves_the_end(world: World) -> None:
    lease = world.lease()
    end = world.now() + 0.9
    world.sql("UPDATE leases SET expires_at = :end", end=end)
    assert _renew(world, lease).held
    assert world.value("SELECT expires_at FROM leases") > end + 10


def test_a_lease_that_ran_out_is_renewed_as_long_as_nobody_has_rescued_its_jobs(world: World) -> None:
    lease, jobs = world.running(2)
    world.let_die(lease)
    assert _living(world) == []
    assert len(_renew(world, lease).running) == 2
    assert [found.id for found in _living(world)] == [lease]
    assert world.rescue() == {}
    world.let_die(lease)
    assert world.rescue() == {lease: 2}
    assert not _renew(world, lease).held
    assert not _renew(world, "never opened").held
    assert world.finish(finished(jobs[0], lease)).refused == (jobs[0].id,)


def test_a_heartbeat_carries_what_is_to_be_cancelled(world: World) -> None:
    lease, jobs = world.running(3)
    other, theirs = world.running(1)
    with world.store.write() as connection:
        for job in (jobs[1], theirs[0]):
            cancelling.cancel_job(world.store, connection, job.id)
    renewal = _renew(world, lease)
    assert (renewal.held, renewal.cancelled) == (True, (jobs[1].id,))
    assert sorted(renewal.running) == sorted(job.id for job in jobs)
    assert _renew(world, other) == Renewal(True, (theirs[0].id,), (theirs[0].id,))
    world.end(lease, jobs)
    assert _renew(world, lease).cancelled == ()


def test_a_closed_lease_is_gone(world: World) -> None:
    one, two = world.lease(worker="w1"), world.lease(worker="w2", routes=[OTHER_ROUTE])
    world.release(one)
    assert [lease.id for lease in _living(world)] == [two]
    world.release(one)
    assert world.value("SELECT count(*) FROM leases") == 1


def test_jobs_of_a_released_lease_wait_again_and_are_not_quarantined(world: World) -> None:
    lease, jobs = world.running(3)
    world.end(lease, jobs[:1])
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, jobs[1].id)
    world.release(lease)
    assert _living(world) == []
    assert world.rescue() == {}
    assert world.states() == {"succeeded": 1, "cancelled": 1, "waiting": 1}
    left = world.job(jobs[2].id)
    assert (left.crashes, left.round, left.lease_id, left.route) == (0, 0, None, None)
    assert [row.outcome for row in world.sql("SELECT outcome FROM attempts ORDER BY outcome")] == [
        "succeeded",
        "unknown",
        "unknown",
    ]
    assert world.finish(finished(jobs[2], lease)).refused == (jobs[2].id,)


def test_living_ones_come_by_name(world: World) -> None:
    for name in ("b", "a", "c"):
        world.lease(worker=name)
    assert [lease.worker for lease in _living(world)] == ["a", "b", "c"]
    assert world.add(*specs(1))
