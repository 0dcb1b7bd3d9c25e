"""A drained route's queue is emptied: what waits there is sent elsewhere, what runs there ends there."""

from collections.abc import Sequence
from typing import cast

import pytest
from tests.store.world import OTHER_ROUTE, ROUTE, InThread, World, specs, together, until_blocked

from trivet_routing.limits import Limits
from trivet_scheduler.housekeeping import Housekeeping
from trivet_store.cluster import registry
from trivet_store.database.engine import BULK_ROWS
from trivet_store.jobs import upkeep
from trivet_store.jobs.claiming import give_back
from trivet_tasks.config.settings import LeaseSettings


def _drain(world: World, drained: bool = True) -> None:
    with world.store.write() as connection:
        registry.set_drained(connection, ROUTE, drained)


@pytest.fixture
def two(world: World) -> World:
    """Two routes that are in service."""
    world.register(ROUTE, OTHER_ROUTE)
    return world


def test_queued_jobs_go_back_to_waiting_and_running_ones_stay(two: World) -> None:
    world = two
    world.add(*specs(10))
    lease = world.lease()
    running = world.take(lease, world.dispatch(2))
    queued = world.dispatch(3)
    elsewhere = world.dispatch(4, OTHER_ROUTE)
    assert (world.due().drained, world.empty_drained()) == (False, 0), "nobody drained it"
    _drain(world)
    assert world.due().drained
    assert world.empty_drained() == 3
    for job in queued:
        row = world.job(job.id)
        assert (row.state, row.route, row.dispatched_until, row.tried) == ("waiting", None, None, ""), "not its fault"
    assert {world.job(job.id).state for job in running} == {"running"}
    assert {(world.job(job.id).state, world.job(job.id).route) for job in elsewhere} == {("dispatched", OTHER_ROUTE)}
    assert not world.due().drained
    assert world.end(lease, running).refused == ()


def test_the_messages_of_an_emptied_queue_are_stale(two: World) -> None:
    world = two
    world.add(*specs(2))
    old = world.dispatch()
    _drain(world)
    world.empty_drained()
    lease = world.lease()
    assert world.take(lease, old) == [], "waiting"
    new = world.dispatch(route=OTHER_ROUTE)
    assert world.take(lease, old) == [], "dispatched anew"
    assert sorted(job.id for job in world.take(lease, new, route=OTHER_ROUTE)) == sorted(job.id for job in new)


def test_a_probe_that_somebody_asked_for_stays(two: World) -> None:
    world = two
    world.add(*specs(2))
    world.dispatch()
    probe = world.probe()
    _drain(world)
    assert world.empty_drained() == 2
    assert world.job(probe.id).state == "dispatched"
    assert [job.target.probe for job in world.take(world.lease(), [probe])] == [True]


def test_a_route_back_in_service_keeps_its_queue(two: World) -> None:
    world = two
    _drain(world)
    world.add(*specs(2))
    world.dispatch()
    _drain(world, False)
    assert (world.due().drained, world.empty_drained()) == (False, 0)
    assert world.states() == {"dispatched": 2}


def test_housekeeping_empties_a_long_queue_in_groups(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = two
    count = BULK_ROWS + 50
    for _ in range(2):
        world.add(*specs(count // 2))
    world.dispatch(count)
    probe = world.probe()
    _drain(world)
    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "BULK_ROWS", 20)
        assert world.empty_drained() == 20
    told: list[object] = []

    def tell(ids: Sequence[str], batches: Sequence[int]) -> None:
        told.append((ids, batches))

    beats: list[int] = []
    Housekeeping(world.store, cast("Limits", None), tell, LeaseSettings(), lambda: beats.append(1)).run()
    assert len(beats) > 1, "one that takes long shows that it moves"
    assert world.states() == {"waiting": count, "dispatched": 1}
    assert world.job(probe.id).state == "dispatched"
    assert told == [], "nothing ended"


def test_many_schedulers_empty_a_queue_once(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BULK_ROWS", 20)
    world = two
    world.add(*specs(90))
    world.dispatch(90)
    _drain(world)
    counts: list[int] = []

    def empty() -> None:
        while done := world.empty_drained():
            counts.append(done)

    together(empty, empty, empty)
    counts.append(world.empty_drained())
    assert sum(counts) == 90
    assert world.states() == {"waiting": 90}


def test_a_job_being_claimed_is_left_to_its_worker(postgres_world: World) -> None:
    world = postgres_world
    world.register(ROUTE)
    world.add(*specs(2))
    held, other = world.dispatch()
    _drain(world)
    with world.store.write() as connection:
        give_back(connection, ROUTE, [held])
        emptying = InThread(world.empty_drained)
        until_blocked(world, emptying)
        assert emptying.result() == 1, "it passes over what another holds"
        connection.rollback()
    assert (world.job(held.id).state, world.job(other.id).state) == ("dispatched", "waiting")
