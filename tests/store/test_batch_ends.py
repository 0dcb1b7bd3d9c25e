"""Counts of a batch's ends, and which of them were late."""

import pytest
from tests.store.world import World, spec, specs

from trivet_store.jobs import batches
from trivet_store.reports.batch_ends import batch_ends
from trivet_tasks.latency import Latency
from trivet_tasks.states import JobState

NAME = "contracts"
BUDGETS_S = {Latency.BATCH: 30.0}


def late(world: World) -> dict[JobState, int]:
    with world.store.read() as connection:
        found = batch_ends(connection, batches.id_of(connection, NAME), world.now(), BUDGETS_S)
    return {one.state: one.late for one in found}


@pytest.mark.parametrize(("served_s", "count"), [(29.0, 0), (31.0, 1)])
def test_a_job_is_late_that_ends_longer_after_its_first_call_than_its_class_allows(
    world: World, served_s: float, count: int
) -> None:
    world.batch(NAME, *specs(2))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(2)))
    one = world.value("SELECT min(id) FROM jobs")
    world.sql("UPDATE jobs SET created_at = ended_at - 3600")
    world.sql("UPDATE attempts SET started_at = (SELECT ended_at FROM jobs WHERE jobs.id = job_id) - 1")
    world.sql(
        "UPDATE attempts SET started_at = (SELECT ended_at FROM jobs WHERE jobs.id = job_id) - :served WHERE job_id = :id",
        served=served_s,
        id=one,
    )
    assert late(world) == {JobState.SUCCEEDED: count}, "an hour in line is not late where no deadline says so"


def test_a_job_is_late_that_ended_after_its_deadline_and_one_that_has_not_ended_is_not(world: World) -> None:
    world.batch(NAME, spec("in time"), spec("late"), spec("waits"))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(2)))
    ended = world.value("SELECT min(id) FROM jobs WHERE ended_at IS NOT NULL")
    world.sql("UPDATE jobs SET deadline_at = ended_at - 1 WHERE id = :id", id=ended)
    assert late(world) == {JobState.SUCCEEDED: 1, JobState.WAITING: 0}
