"""Transitions leave alone what is in another state, or under another token, than they say."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, specs

from trivet_store.jobs import transitions
from trivet_tasks.states import JobState

LEASE = "a" * 32
Change = Callable[[Connection, Sequence[str]], object]


def start(connection: Connection, ids: Sequence[str], *, claim: int = 1, model: str = MODEL) -> None:
    jobs = [{"id": id, "claim": claim, "input_estimate": 10, "max_tokens": 100, "cache_key": None} for id in ids]
    message = {"route": ROUTE, "model": model, "latency": "batch", "probe": False, "isolated": False}
    transitions.start(connection, jobs, lease_id=LEASE, now=1_000.0, **message)


def recall(connection: Connection, ids: Sequence[str], *, claim: int = 1, route: str = ROUTE) -> None:
    transitions.recall(connection, [{"id": id, "claim": claim, "route": route} for id in ids])


def put_back(connection: Connection, ids: Sequence[str], *, lease: str = LEASE, until: float | None = None) -> None:
    transitions.put_back(connection, lease, [{"id": id, "not_before": until} for id in ids])


GUARDED: dict[str, tuple[Change, set[JobState], JobState]] = {
    "dispatch": (
        lambda c, ids: transitions.dispatch(c, ids, ROUTE, 4e9),
        {JobState.WAITING},
        JobState.DISPATCHED,
    ),
    "wake delayed": (lambda c, ids: transitions.wake(c, ids, JobState.DELAYED), {JobState.DELAYED}, JobState.WAITING),
    "wake coalesced": (
        lambda c, ids: transitions.wake(c, ids, JobState.COALESCED),
        {JobState.COALESCED},
        JobState.WAITING,
    ),
    "start": (start, {JobState.DISPATCHED}, JobState.RUNNING),
    "recall": (recall, {JobState.DISPATCHED}, JobState.WAITING),
    "put back": (put_back, {JobState.RUNNING}, JobState.WAITING),
    "put back for a while": (lambda c, ids: put_back(c, ids, until=4e9), {JobState.RUNNING}, JobState.DELAYED),
}
STALE: dict[str, Change] = {
    "start under an older claim": lambda c, ids: start(c, ids, claim=0),
    "start for another model": lambda c, ids: start(c, ids, model="another"),
    "recall under an older claim": lambda c, ids: recall(c, ids, claim=0),
    "recall from another route": lambda c, ids: recall(c, ids, route=OTHER_ROUTE),
    "put back under another lease": lambda c, ids: put_back(c, ids, lease="b" * 32),
}


def jobs_in_each_state(world: World) -> dict[str, JobState]:
    states = {job.id: state for job, state in zip(world.add(*specs(len(JobState))), JobState, strict=True)}
    for job_id, state in states.items():
        world.sql(
            "UPDATE jobs SET state = :state, claim = 1, route = :route, lease_id = :lease WHERE id = :id",
            id=job_id, state=state.value, route=ROUTE, lease=LEASE,
        )  # fmt: skip
    return states


def after(world: World, change: Change, states: dict[str, JobState]) -> dict[str, JobState]:
    with world.store.write() as connection:
        change(connection, sorted(states))
    return {row.id: JobState(row.state) for row in world.sql("SELECT id, state FROM jobs")}


@pytest.mark.parametrize("name", GUARDED)
def test_a_transition_begins_in_its_own_states_only(world: World, name: str) -> None:
    change, begin, end = GUARDED[name]
    states = jobs_in_each_state(world)
    assert after(world, change, states) == {id: end if state in begin else state for id, state in states.items()}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_token_changes_nothing(world: World, name: str) -> None:
    states = jobs_in_each_state(world)
    assert after(world, STALE[name], states) == states
