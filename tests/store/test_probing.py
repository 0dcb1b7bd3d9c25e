"""Probes: jobs of Trivet's own for one route, fenced and written down like any other, and never anybody else's."""

import json
from collections.abc import Sequence

import pytest
from tests.directories import dispatcher
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, go_on, spec, specs

from trivet_store.jobs import dispatching, upkeep
from trivet_store.jobs.enqueue import PING
from trivet_store.steps import End
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

FAILED = End(JobState.FAILED, outcome=Outcome.OVERLOADED, error=f"{ROUTE}: overloaded: busy")


def _waiting_flows(world: World) -> Sequence[dispatching.Flow]:
    with world.store.read() as connection:
        return dispatching.flows_with_waiting(connection, 0.0)


def test_a_probe_is_a_tiny_job_dispatched_to_its_route(world: World) -> None:
    before = world.now()
    claimed = world.probe(within_s=15)
    assert claimed == DispatchedJob(claimed.id, 1, PING.input_estimate, 1)
    job = world.job(claimed.id)
    assert (job.state, job.route, job.claim, job.max_tokens, job.batch_id) == ("dispatched", ROUTE, 1, 1, None)
    assert job.deadline_at == job.dispatched_until
    assert before + 14 < job.deadline_at < world.now() + 16
    body = bytes(world.value("SELECT body FROM job_requests WHERE job_id = :id", id=claimed.id))
    assert json.loads(body)["max_tokens"] == 1


def test_probes_of_a_model_and_class_share_one_held_flow(world: World) -> None:
    first = world.probe()
    assert world.job(world.probe().id).flow_id == world.job(first.id).flow_id
    assert world.job(world.probe(route=OTHER_ROUTE).id).flow_id == world.job(first.id).flow_id
    for other in (world.probe(model="claude-haiku-4-5"), world.probe(latency=Latency.REALTIME)):
        assert world.job(other.id).flow_id != world.job(first.id).flow_id
    world.add(spec())
    flows = world.sql("SELECT held, active, probe, model FROM flows")
    assert [bool(flow.held) for flow in flows] == [bool(flow.probe) for flow in flows] == [True, True, True, False]


def test_a_probe_is_claimed_and_its_attempt_says_so(world: World) -> None:
    lease = world.lease()
    world.add(spec())
    (job,) = world.take(lease, world.dispatch())
    (probe,) = world.take(lease, [world.probe()])
    assert (job.target.probe, probe.target.probe) == (False, True)
    purposes = {row.job_id: row.purpose for row in world.sql("SELECT job_id, purpose FROM attempts")}
    assert purposes == {job.id: "job", probe.id: "probe"}


@pytest.mark.parametrize(("then", "state"), [(None, "succeeded"), (FAILED, "failed")])
def test_a_probe_ends_with_its_call_and_its_flow_with_it(world: World, then: End | None, state: str) -> None:
    lease = world.lease()
    probes = world.take(lease, [world.probe()])
    written = world.end(lease, probes) if then is None else world.end(lease, probes, then)
    assert (written.refused, world.states()) == ((), {state: 1})
    flow = world.job(probes[0].id).flow_id
    with world.store.write() as connection:
        assert upkeep.empty_flows(connection, 10) == [flow]
        upkeep.retire_if_empty(connection, flow)
    assert not world.value("SELECT active FROM flows")
    again = world.probe()
    assert world.job(again.id).flow_id == flow
    assert world.value("SELECT active FROM flows"), "or nobody would ever retire it again"


def test_a_probe_that_no_worker_started_is_never_sent_elsewhere(world: World) -> None:
    """Given back, not taken in time, or its worker died: it waits for its end, and for nothing else."""
    lease = world.lease()
    given_back, died, unclaimed = world.probe(), world.probe(), world.probe(within_s=-1)
    world.give_back([given_back])
    world.take(lease, [died])
    world.let_die(lease)
    world.rescue()
    world.recall()
    assert world.states() == {"waiting": 3}
    (mine,) = world.add(spec(deadline_at=world.now() + 5))
    assert [flow.model for flow in _waiting_flows(world)] == [MODEL], "that of the job"
    with dispatcher(world.store, slots=10) as one:
        assert one.run_once().dispatched == 1
    assert world.job(mine.id).state == "dispatched"
    assert {world.job(job.id).state for job in (given_back, died, unclaimed)} == {"waiting"}
    world.sql("UPDATE jobs SET deadline_at = 1 WHERE state = 'waiting'")
    assert set(world.expire()[0]) == {given_back.id, died.id, unclaimed.id}
    assert world.take(world.lease(), [given_back, unclaimed]) == [], "their messages are stale"


def test_probes_do_not_keep_urgent_jobs_from_their_turn(world: World) -> None:
    """They wait with the nearest deadlines of all."""
    world.give_back([world.probe() for _ in range(20)])
    world.add(*specs(60))
    urgent = [job.id for job in world.add(*specs(3, deadline_at=world.now() + 100))]
    with dispatcher(world.store, slots=10) as one:
        one.run_once()
    assert {world.job(job_id).state for job_id in urgent} == {"dispatched"}


def test_a_probe_not_taken_in_time_expires(world: World) -> None:
    late, fresh = world.probe(within_s=-1), world.probe()
    assert world.due().late
    assert world.expire()[0] == [late.id]
    assert (world.job(late.id).state, world.job(fresh.id).state) == ("expired", "dispatched")
    assert world.take(world.lease(), [late]) == []


def test_a_late_result_of_a_probe_is_refused_like_any_other(world: World) -> None:
    lease = world.lease()
    probes = world.take(lease, [world.probe()])
    world.let_die(lease)
    world.rescue()
    assert world.end(lease, probes).refused == (probes[0].id,)
    assert world.end(lease, probes, go_on()).refused == (probes[0].id,)
