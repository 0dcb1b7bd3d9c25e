"""Cache warming: of jobs with a common prefix, one goes first and warms the provider's cache while the others wait."""

from dataclasses import replace

from tests.builders import breaker, route
from tests.directories import dispatcher
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, finished, spec, together

from trivet_routing.route_choice import Candidate
from trivet_store.jobs import cancelling, retrying
from trivet_store.jobs.answering import Answered, CachedAnswer, end_answered
from trivet_store.jobs.coalescing import CoalescedJob, coalesce
from trivet_store.steps import End, JobRound, Wait
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import DispatchedJob, JobSpec
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

LINE, ANOTHER = "a" * 32, "b" * 32
KEY = "c" * 32


def two_routes(*shut: str) -> list[Candidate]:
    """The second is the dearer one."""
    return [
        route(name, cost=cost, at=breaker(state="open", wait_s=9) if name in shut else breaker())
        for name, cost in ((ROUTE, "1"), (OTHER_ROUTE, "2"))
    ]


def dispatch(world: World, *shut: str) -> int:
    """One pass of a scheduler."""
    with dispatcher(world.store, two_routes(*shut)) as one:
        return one.run_once().dispatched


def alike(count: int, line: str | None = LINE) -> list[JobSpec]:
    return [replace(spec(f"document {line} {number}", cache_key=KEY), line=line) for number in range(count)]


def dispatched(world: World) -> list[DispatchedJob]:
    rows = world.sql(
        "SELECT id, claim, input_estimate, max_tokens, cache_key FROM jobs WHERE state = 'dispatched' ORDER BY id"
    )
    return [DispatchedJob(row.id, row.claim, row.input_estimate, row.max_tokens, row.cache_key) for row in rows]


def test_the_first_goes_alone_and_the_others_go_to_its_route(world: World) -> None:
    world.batch("b", *alike(5))
    lease = world.lease()
    assert [dispatch(world, ROUTE), dispatch(world), dispatch(world)] == [1, 0, 0], "the cheaper one is open"
    taken = world.take(lease, dispatched(world), route=OTHER_ROUTE)
    assert dispatch(world) == 0
    world.end(lease, taken)
    assert dispatch(world) == 4
    assert {row.route for row in world.sql("SELECT route FROM jobs")} == {OTHER_ROUTE}, "dearer, but warm"


def test_they_go_elsewhere_when_the_warm_route_is_out(world: World) -> None:
    world.batch("b", *alike(3))
    lease = world.lease()
    dispatch(world)
    world.end(lease, world.take(lease, dispatched(world)))
    assert dispatch(world, ROUTE) == 2
    assert {row.route for row in world.sql("SELECT route FROM jobs WHERE state = 'dispatched'")} == {OTHER_ROUTE}


def test_one_that_ends_otherwise_is_not_waited_for_either(world: World) -> None:
    world.batch("b", *alike(4))
    lease = world.lease()
    dispatch(world)
    (job,) = world.take(lease, dispatched(world))
    world.end(lease, [job], End(JobState.FAILED, outcome=Outcome.INVALID, error="no"))
    assert dispatch(world) == 3


def test_when_it_goes_back_to_waiting_the_next_goes_first(world: World) -> None:
    """Backed off, given back, or its worker died: one at a time, and never none."""
    world.batch("b", *alike(4))
    lease = world.lease()
    dispatch(world)
    world.give_back(dispatched(world))
    assert [dispatch(world), dispatch(world)] == [1, 0]
    (job,) = world.take(lease, dispatched(world))
    later = Wait(world.now() + 100, JobRound(1), Outcome.OVERLOADED, "busy")
    world.finish(finished(job, lease, later, outcome=Outcome.OVERLOADED))
    assert world.job(job.id).state == "delayed"
    assert [dispatch(world), dispatch(world)] == [1, 0], "another one"
    (other,) = world.take(lease, dispatched(world))
    assert other.id != job.id
    world.end(lease, [other])
    assert dispatch(world) == 2


def test_one_that_was_answered_without_a_call_has_warmed_nothing(world: World) -> None:
    """All of a batch may be in the response cache: so a chunk of them goes, not one by one."""
    size = Settings().of_class(Latency.BATCH).chunk_jobs
    world.batch("b", *alike(size + 4))
    dispatch(world)
    (job,) = dispatched(world)
    with world.store.write() as connection:
        answered = Answered(job.id, job.claim, KEY, CachedAnswer(b"{}", "end_turn", ROUTE, None))
        served = end_answered(world.store, connection, [answered], route=ROUTE, latency="batch", model=MODEL)
        assert served.jobs == (job.id,)
    assert [dispatch(world), dispatch(world)] == [size, 0]
    lease = world.lease()
    world.end(lease, world.take(lease, dispatched(world)))
    assert dispatch(world) == 3


def test_a_coalesced_job_warms_nothing_meanwhile(world: World) -> None:
    leader, *_ = world.add(spec("equal"))
    assert dispatch(world) == 1
    world.batch("b", *alike(3))
    dispatch(world)
    job = next(one for one in dispatched(world) if one.id != leader.id)
    with world.store.write() as connection:
        assert coalesce(world.store, connection, [CoalescedJob(job.id, job.claim, leader.id)]).coalesced == (job.id,)
    assert [dispatch(world), dispatch(world)] == [1, 0], "the next one goes first"


def test_the_wait_has_an_end(world: World) -> None:
    world.batch("b", *alike(4))
    assert [dispatch(world), dispatch(world)] == [1, 0]
    until = world.value("SELECT warming_until FROM flows")
    assert 25 < until - world.now() <= 30, "what a worker has to claim it and the time of one call"
    world.sql("UPDATE flows SET warming_until = 1")
    assert dispatch(world) == 3


def test_a_warmer_that_was_forgotten_is_replaced(world: World) -> None:
    world.batch("b", *alike(3))
    world.sql("UPDATE flows SET warmer = 'gone', warming_until = 4e9")
    assert [dispatch(world), dispatch(world)] == [1, 0]


def test_a_retry_warms_anew(world: World) -> None:
    reference = world.batch("b", *alike(3))
    lease = world.lease()
    for _ in range(2):
        dispatch(world)
        failed = End(JobState.FAILED, outcome=Outcome.INVALID, error="no")
        world.end(lease, world.take(lease, dispatched(world)), failed)
    with world.store.write() as connection:
        upto = retrying.begin_retry(connection, reference.id)
        again = retrying.retry_group(
            world.store, connection, reference.id, {JobState.FAILED}, classes=DEFAULTS, after=0, upto=upto
        )
    assert again is not None
    assert len(again.ids) == 3
    assert [dispatch(world), dispatch(world)] == [1, 0]


def test_lines_do_not_wait_for_one_another_and_others_for_none(world: World) -> None:
    world.batch("b", *alike(3), *alike(3, ANOTHER), *alike(3, None), *alike(1, "c" * 32))
    assert dispatch(world) == 1 + 1 + 3 + 1
    assert world.value("SELECT count(*) FROM flows WHERE warmer IS NOT NULL") == 3


def test_a_batch_that_is_held_stays_held(world: World) -> None:
    reference = world.batch("b", *alike(3))
    lease = world.lease()
    dispatch(world)
    taken = world.take(lease, dispatched(world))
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, reference.id)
    world.end(lease, taken)
    assert dispatch(world) == 0
    assert all(row.held for row in world.sql("SELECT held FROM flows"))


def test_an_urgent_one_does_not_jump_the_warming(world: World) -> None:
    urgent = [replace(one, deadline_at=world.now() + 100) for one in alike(4)]
    world.batch("b", *urgent)
    assert [dispatch(world), dispatch(world)] == [1, 0]


def test_of_many_schedulers_one_sends_the_first(world: World) -> None:
    world.batch("b", *alike(20), *alike(20, ANOTHER))

    def run() -> None:
        with dispatcher(world.store, two_routes()) as one:
            for _ in range(3):
                one.run_once()

    together(run, run, run)
    assert world.states() == {"dispatched": 2, "waiting": 38}
