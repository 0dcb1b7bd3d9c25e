"""Forged messages, which contradict the database: nothing of them is run, and the job is not changed."""

from dataclasses import replace
from typing import Any

import pytest
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, spec

from trivet_store.jobs.answering import Answered, CachedAnswer, Served, end_answered
from trivet_store.jobs.claiming import MISFIT_AGAIN_S
from trivet_store.steps import CallTarget
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency

KEY, OTHER_KEY = "c" * 32, "d" * 32
OTHER_MODEL = "claude-haiku-4-5"
LIES: dict[str, dict[str, Any]] = {
    "route": {"route": OTHER_ROUTE},
    "model": {"model": OTHER_MODEL},
    "class": {"latency": Latency.ASYNC},
    "probe": {"probe": True},
    "isolated": {"isolated": True},
}
LIES_OF_A_JOB: dict[str, dict[str, Any]] = {
    "fewer input tokens": {"input_estimate": 0},
    "fewer output tokens": {"max_tokens": 1},
    "another cache key": {"cache_key": OTHER_KEY},
    "no cache key": {"cache_key": None},
}


def target(world: World, **lies: Any) -> CallTarget:
    return replace(CallTarget(world.lease(), ROUTE, "bedrock", MODEL, f"wire.{MODEL}", Latency.BATCH), **lies)


def dispatched(world: World, **terms: Any) -> DispatchedJob:
    world.add(spec(cache_key=KEY, **terms))
    (job,) = world.dispatch()
    return job


def unchanged(world: World, job: DispatchedJob) -> None:
    row = world.job(job.id)
    assert (row.state, row.route, row.claim, row.attempts, row.lease_id) == ("dispatched", ROUTE, 1, 0, None)
    assert world.value("SELECT count(*) FROM attempts") == 0


@pytest.mark.parametrize("lie", LIES)
def test_a_message_of_another_route_model_class_or_kind_takes_nothing(world: World, lie: str) -> None:
    job = dispatched(world)
    outcome = world.claim(target(world, **LIES[lie]), [job])
    assert (outcome.claimed, outcome.forged, outcome.misfits) == ([], (job.id,), ())
    unchanged(world, job)
    assert [one.id for one in world.claim(target(world), [job]).claimed] == [job.id], "the true one is served"


@pytest.mark.parametrize("lie", LIES_OF_A_JOB)
def test_a_message_with_other_figures_of_a_job_takes_nothing(world: World, lie: str) -> None:
    job = dispatched(world)
    assert world.claim(target(world), [job._replace(**LIES_OF_A_JOB[lie])]).forged == (job.id,)
    unchanged(world, job)


def test_a_probe_is_claimed_only_as_a_probe(world: World) -> None:
    probe = world.probe()
    assert world.claim(target(world), [probe]).forged == (probe.id,)
    (claimed,) = world.claim(target(world, probe=True), [probe]).claimed
    assert claimed.target.probe


def test_the_other_jobs_of_a_message_are_claimed(world: World) -> None:
    world.add(spec("one"), spec("two"), spec("three"))
    one, two, three = world.dispatch()
    outcome = world.claim(target(world), [one, two._replace(max_tokens=1), three._replace(claim=7)])
    assert [job.id for job in outcome.claimed] == [one.id]
    assert outcome.forged == (two.id,), "a stale token is nobody's lie"


def test_a_forged_message_gives_nothing_back(world: World) -> None:
    from trivet_store.jobs.claiming import give_back

    job = dispatched(world)
    with world.store.write() as connection:
        give_back(connection, OTHER_ROUTE, [job], "no")
    unchanged(world, job)


def test_what_this_workers_own_file_does_not_allow_is_sent_elsewhere_and_then_waits(world: World) -> None:
    def unfit(residency: tuple[str, ...], compliance: tuple[str, ...], features: tuple[str, ...]) -> str:
        assert (compliance, features) == (("hipaa",), ("files",))
        return "lacks residency eu" if "eu" in residency else ""

    requirements: dict[str, Any] = {"residency": ("eu",), "compliance": ("hipaa",), "features": ("files",)}
    job = dispatched(world, **requirements)
    outcome = world.claim(target(world), [job], unfit=unfit)
    assert (outcome.claimed, outcome.forged, [one.id for one in outcome.misfits]) == ([], (), [job.id])
    row = world.job(job.id)
    assert (row.state, row.route, row.tried, row.attempts, row.lease_id) == ("waiting", None, ROUTE, 0, None)
    assert row.last_error == f"{ROUTE}: the configuration of its worker does not allow this job: it lacks residency eu"
    (again,) = world.dispatch()
    before = world.now()
    assert world.claim(target(world), [again], unfit=unfit).misfits
    row = world.job(job.id)
    assert (row.state, row.tried, row.attempts) == ("delayed", ROUTE, 0), "not at once for ever"
    assert before + MISFIT_AGAIN_S - 1 < row.not_before <= world.now() + MISFIT_AGAIN_S
    assert world.value("SELECT count(*) FROM attempts") == 0


def test_jobs_that_are_allowed_are_claimed_beside_others(world: World) -> None:
    world.add(spec("here"), spec("elsewhere", residency=("eu",)))
    jobs = world.dispatch()
    outcome = world.claim(target(world), jobs, unfit=lambda residency, *_: "no" if residency else "")
    assert [len(outcome.claimed), len(outcome.misfits)] == [1, 1]
    assert world.states() == {"running": 1, "waiting": 1}
    assert world.value("SELECT count(*) FROM attempts") == 1


def serve(world: World, job: DispatchedJob, **lies: Any) -> Served:
    terms = {"route": ROUTE, "latency": "batch", "model": MODEL, **lies}
    answer = Answered(job.id, job.claim, job.cache_key or "", CachedAnswer(b"{}", "end_turn", "anthropic", None))
    with world.store.write() as connection:
        return end_answered(world.store, connection, [answer], **terms)


@pytest.mark.parametrize("lies", [LIES["route"], LIES["model"], LIES["class"]], ids=["route", "model", "class"])
def test_no_answer_ends_a_job_of_another_message(world: World, lies: dict[str, Any]) -> None:
    job = dispatched(world)
    assert serve(world, job, **lies) == Served((), (), crowded=False, forged=(job.id,))
    unchanged(world, job)
    assert serve(world, job).jobs == (job.id,)


def test_an_answer_under_another_key_ends_nothing(world: World) -> None:
    job = dispatched(world)
    assert serve(world, job._replace(cache_key=OTHER_KEY)).forged == (job.id,)
    unchanged(world, job)


def test_a_probe_is_never_answered_from_the_cache(world: World) -> None:
    probe = world.probe(latency=Latency.BATCH)
    world.sql("UPDATE jobs SET cache_key = :key WHERE id = :id", key=KEY, id=probe.id)
    assert serve(world, probe._replace(cache_key=KEY)).forged == (probe.id,)


def test_an_answer_of_one_tenant_ends_no_job_of_another(world: World) -> None:
    job = dispatched(world, tenant="a")
    for tenant, ends in (("b", False), ("a", True)):
        answer = Answered(job.id, job.claim, KEY, CachedAnswer(b"{}", "end_turn", "anthropic", None, tenant))
        with world.store.write() as connection:
            served = end_answered(world.store, connection, [answer], route=ROUTE, latency="batch", model=MODEL)
        assert (served.jobs, served.missed) == (((job.id,), ()) if ends else ((), (job.id,)))
        assert served.forged == (), "a producer that sees `[cache] shared` otherwise is no attack"
