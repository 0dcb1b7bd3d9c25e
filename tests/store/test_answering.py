"""Jobs that end with a cached answer: at no cost, under their claim, and with the saving on record."""

from decimal import Decimal

from tests.store.world import MODEL, ROUTE, WAIT, World, spec

from trivet_store.jobs import cancelling
from trivet_store.jobs.answering import Answered, CachedAnswer, Served, end_answered
from trivet_store.ledger.spending import HOUR_S
from trivet_store.reports import results
from trivet_store.reports.cost_savings import AnswerSaving, answer_savings
from trivet_store.reports.costs import Span, summed
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.states import JobState

KEY = "c" * 32
MESSAGE = b'{"content":[]}'
SAVED = "0.000000000123"
ALWAYS = Span()


def answered(*jobs: DispatchedJob, cost: str | None = SAVED) -> list[Answered]:
    usd = None if cost is None else Decimal(cost)
    return [Answered(job.id, job.claim, KEY, CachedAnswer(MESSAGE, "end_turn", "anthropic", usd)) for job in jobs]


def serve(world: World, *jobs: DispatchedJob, cost: str | None = SAVED, latency: str = "batch") -> Served:
    with world.store.write() as connection:
        return end_answered(
            world.store, connection, answered(*jobs, cost=cost), route=ROUTE, latency=latency, model=MODEL
        )


def saved(world: World, *by: str, span: Span = ALWAYS) -> list[AnswerSaving]:
    with world.store.read() as connection:
        return answer_savings(connection, by, span)


def test_it_succeeds_at_no_cost_without_an_attempt(world: World) -> None:
    batch = world.batch("b", spec(cache_key=KEY), spec(cache_key=KEY))
    jobs = world.dispatch(2)
    served = serve(world, *jobs)
    assert (set(served.jobs), served.batches) == ({job.id for job in jobs}, (batch.id,))
    with world.store.read() as connection:
        found = results.jobs_by_id(connection, [job.id for job in jobs])
        assert summed(connection, [], Span())[0].calls == 0
    for row in found.values():
        assert (row.state, row.cached, row.cost_usd, row.saved_usd) == ("succeeded", True, Decimal(0), Decimal(SAVED))
        assert (row.message, row.stop_reason, row.route) == (MESSAGE, "end_turn", "anthropic")
    assert sorted(row.batch_seq or 0 for row in found.values()) == [1, 2]
    progress = world.progress("b")
    assert (progress.succeeded, progress.cost_usd, progress.done) == (2, Decimal(0), True)


def test_an_earlier_call_of_the_job_stays_in_its_cost(world: World) -> None:
    lease, (job,) = world.running(cache_key=KEY)
    world.end(lease, [job], WAIT, cost="0.03")
    (again,) = world.dispatch()
    serve(world, again)
    with world.store.read() as connection:
        row = results.jobs_by_id(connection, [job.id])[job.id]
    assert (row.cached, row.cost_usd, row.saved_usd) == (True, Decimal("0.03"), Decimal(SAVED))


def test_only_under_the_token_of_the_message_and_only_once(world: World) -> None:
    world.add(spec(cache_key=KEY), spec("other", cache_key=KEY))
    one, two = world.dispatch(2)
    assert serve(world, one._replace(claim=0), DispatchedJob("nobody", 1, 1, 1)) == Served((), (), crowded=False)
    assert serve(world, one).jobs == (one.id,)
    assert serve(world, one).jobs == ()
    world.take(world.lease(), [two])
    assert serve(world, two).jobs == ()
    assert saved(world) == [AnswerSaving((), 1, Decimal(SAVED), 0)]


def test_one_that_is_late_expires_and_one_that_was_cancelled_ends_so(world: World) -> None:
    batch = world.batch("b", spec(cache_key=KEY))
    world.add(spec("late", cache_key=KEY), spec("asked", cache_key=KEY))
    found = world.dispatch(3)
    of_batch = next(job for job in found if world.job(job.id).batch_id)
    late, asked = (job for job in found if job is not of_batch)
    world.sql("UPDATE jobs SET deadline_at = 1 WHERE id = :id", id=late.id)
    world.sql("UPDATE jobs SET cancel_requested = true WHERE id = :id", id=asked.id)
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
    assert set(serve(world, of_batch, late, asked).jobs) == {of_batch.id, asked.id}
    assert world.states() == {JobState.CANCELLED: 2, "dispatched": 1}
    assert world.expire()[0] == [late.id]
    assert saved(world) == []


def test_what_was_saved_is_summed_exactly_and_outlives_the_jobs(world: World) -> None:
    world.batch("b", *[spec(f"{n}", cache_key=KEY) for n in range(3)])
    world.add(spec("isolated", cache_key=KEY, latency=Latency.ASYNC))
    jobs = world.dispatch(4)
    of_batch = [job for job in jobs if world.job(job.id).batch_id]
    (isolated,) = (job for job in jobs if job not in of_batch)
    serve(world, *of_batch[:2])
    serve(world, of_batch[2], cost=None)
    serve(world, isolated, cost="1.5", latency="async")
    assert saved(world) == [AnswerSaving((), 4, Decimal("1.5") + 2 * Decimal(SAVED), 1)]
    assert saved(world, "batch") == [
        AnswerSaving(("",), 1, Decimal("1.5"), 0),
        AnswerSaving(("b",), 3, 2 * Decimal(SAVED), 1),
    ]
    assert [one.group for one in saved(world, "class", "model")] == [("async", MODEL), ("batch", MODEL)]
    now = world.now()
    (day,) = {one.group[0] for one in saved(world, "day")}
    assert len(day) == 10
    assert saved(world, span=Span(now - HOUR_S, now + 1))[0].hits == 4
    assert saved(world, span=Span(now + 2 * HOUR_S)) == []
    assert saved(world, span=Span(0, now - 2 * HOUR_S)) == []
    for table in ("job_results", "job_requests"):
        world.sql(f"DELETE FROM {table}")
    assert saved(world)[0].hits == 4


def test_hits_of_one_hour_are_one_line(world: World) -> None:
    for number in range(3):
        world.add(spec(f"{number}", cache_key=KEY))
        serve(world, *world.dispatch())
    assert world.value("SELECT sum(hits) FROM cache_savings") == 3
    assert world.value("SELECT count(*) FROM cache_savings") <= 2  # an hour may turn meanwhile
