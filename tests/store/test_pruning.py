"""Pruning: what goes, what stays, and what a job says of itself afterwards.

Ids of jobs are made now, so the moment before which jobs must have ended lies in the future, and "young" ones end after it.
"""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import text
from tests.databases import orphans
from tests.store.world import SUCCESS, InThread, World, finished, go_on, spec, specs, statements, together

from trivet_store import events, retention
from trivet_store.cluster import health
from trivet_store.database import batched_scan
from trivet_store.database.batched_scan import Candidate
from trivet_store.database.engine import BULK_BYTES, BULK_ROWS
from trivet_store.jobs import upkeep
from trivet_store.jobs.retrying import retry_job
from trivet_store.reports import costs, results
from trivet_store.reports.costs import GROUPINGS
from trivet_store.retention import Terms
from trivet_store.steps import End
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import DEFAULTS
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState, RouteState

DAY_S = 86_400.0
FAILURE = End(JobState.FAILED, outcome=Outcome.OVERLOADED, error="No route answered.")
TABLES = ("jobs", "job_requests", "job_results", "attempts", "flows", "batches", "events", "shares", "schedule_runs")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched_scan, "LEAST_PAUSE_S", 0.0)


def soon(world: World) -> float:
    """A moment after every id there is."""
    return world.now() + DAY_S


def prune(world: World, terms: Terms, *, dry_run: bool = False) -> dict[str, int]:
    """Run to the end; the kinds of which there was something."""
    pruned: Counter[str] = Counter()
    looked_at = 0
    extent = retention.extent(world.store, terms)
    for step in retention.prune(world.store, terms, dry_run=dry_run):
        pruned.update(step.pruned)
        looked_at += step.looked_at
    assert looked_at <= extent, "the bar runs over its end"
    assert orphans(world.store) == []
    return {kind: rows for kind, rows in pruned.items() if rows}


def counts(world: World) -> dict[str, int]:
    return {table: world.value(f"SELECT count(*) FROM {table}") for table in TABLES}


def ended(world: World, count: int, then: End = SUCCESS, **how: object) -> list[str]:
    lease, jobs = world.running(count, **how)
    world.end(lease, jobs, then)
    return [job.id for job in jobs]


def make_young(world: World, ids: list[str]) -> None:
    """They end a day after what counts as long ago."""
    for job_id in ids:
        world.sql("UPDATE jobs SET ended_at = :at WHERE id = :id", at=soon(world) + DAY_S, id=job_id)


def end_batch(world: World, name: str, count: int, then: End = SUCCESS) -> list[str]:
    world.batch(name, *[spec(f"{name} {number}") for number in range(count)])
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(count))
    world.end(lease, jobs, then)
    return [job.id for job in jobs]


def retire_flows(world: World) -> None:
    with world.store.write() as connection:
        for flow_id in upkeep.empty_flows(connection, 100):
            upkeep.retire_if_empty(connection, flow_id)


def look(world: World, job_id: str) -> results.JobRow:
    with world.store.read() as connection:
        return results.jobs_by_id(connection, [job_id])[job_id]


def all_costs(world: World) -> list[list[costs.CostRow]]:
    with world.store.read() as connection:
        return [costs.summed(connection, [name], costs.Span()) for name in GROUPINGS]


def test_bodies_and_results_of_old_jobs_go_and_the_ledger_stays(world: World) -> None:
    old, young = ended(world, 3), ended(world, 2)
    make_young(world, young)
    before, sums = counts(world), all_costs(world)
    assert prune(world, Terms(soon(world))) == {"bodies": 3, "results": 3}
    after = {**before, "job_requests": 2, "job_results": 2}
    assert counts(world) == after
    assert {row.job_id for row in world.sql("SELECT job_id FROM job_results")} == set(young)
    assert all_costs(world) == sums
    assert [look(world, job_id).pruned for job_id in (*old, *young)] == [True] * 3 + [False] * 2
    assert prune(world, Terms(soon(world))) == {}, "a second run finds nothing"


def test_results_may_be_kept(world: World) -> None:
    (job_id,) = ended(world, 1)
    assert prune(world, Terms(soon(world), keep_results=True)) == {"bodies": 1}
    job = look(world, job_id)
    assert (job.message, job.pruned) == (SUCCESS.message, False)
    # with its job the result goes
    terms = Terms(soon(world), forget_before=soon(world), keep_results=True)
    assert prune(world, terms, dry_run=True)["results"] == 1
    assert prune(world, terms)["results"] == 1


def test_a_job_that_has_not_ended_is_never_touched(world: World) -> None:
    world.add(spec("waits"), spec("has its time", not_before=world.now() + 9 * DAY_S))
    world.dispatch(1)
    world.add(spec("waits, too"))
    world.running(1)
    held = world.batch("held", spec("held"), opened=False)
    world.probe()
    before = counts(world)
    terms = Terms(soon(world) + 300 * DAY_S, forget_before=soon(world) + 300 * DAY_S)
    assert prune(world, terms, dry_run=True) == {}
    assert prune(world, terms) == {}
    assert counts(world) == before
    world.open(held)
    assert world.dispatch(10)


def test_pruned_jobs_say_how_they_ended_and_what_they_cost(world: World) -> None:
    (good,), (bad,) = ended(world, 1), ended(world, 1, FAILURE)
    before = {job_id: look(world, job_id) for job_id in (good, bad)}
    prune(world, Terms(soon(world)))
    for job_id, was in before.items():
        job = look(world, job_id)
        assert job.pruned
        assert (job.state, job.cost_usd, job.error_outcome, job.route) == (
            was.state,
            was.cost_usd,
            was.error_outcome,
            was.route,
        )
        assert job.latency_s == pytest.approx(was.latency_s)
        assert (job.message, job.error_message) == (None, None)
    assert look(world, good).cost_usd == Decimal("0.01")
    assert look(world, bad).error_outcome == "overloaded"


def test_a_key_is_known_until_its_row_is_gone(world: World) -> None:
    (first,) = world.add(spec("once", key="k"))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(1)))
    prune(world, Terms(soon(world)))
    (again,) = world.add(spec("once", key="k"))
    assert (again.id, again.existed) == (first.id, True)
    assert world.dispatch(1) == []
    prune(world, Terms(soon(world), forget_before=soon(world)))
    (new,) = world.add(spec("once", key="k"))
    assert (new.id != first.id, new.existed) == (True, False)


def test_a_batch_is_read_to_its_end_after_pruning(world: World) -> None:
    old = end_batch(world, "contracts", 4)
    make_young(world, old[2:])
    prune(world, Terms(soon(world)))
    batch_id = world.value("SELECT id FROM batches")
    with world.store.read() as connection:
        page = results.batch_page(connection, batch_id, 0, 10)
    assert [(job.id, job.pruned) for job in page] == [(job_id, job_id in old[:2]) for job_id in old]
    progress = world.progress("contracts")
    assert (progress.done, progress.succeeded, progress.cost_usd) == (True, 4, Decimal("0.04"))


def test_what_is_forgotten_is_gone_whole(world: World) -> None:
    end_batch(world, "old", 3)
    young = end_batch(world, "half", 2)[1:]
    make_young(world, young)
    ended(world, 2)
    probe = world.probe()
    lease = world.lease()
    world.end(lease, world.take(lease, [probe]))
    retire_flows(world)
    world.sql("UPDATE virtual_clock SET rank = 1e6")
    with world.store.write() as connection:
        health.note(connection, "r", "m", RouteState.OPEN, "timeout: silent", 1_000.0, 15.0)
        events.note(connection, "route drained", "moved", 1_000.0, route="r")
        events.note(connection, "route drained", "broken", 1_001.0, route="r")
    shares = world.value("SELECT count(*) FROM shares")
    terms = Terms(soon(world), forget_before=soon(world))
    expected = {
        "bodies": 7, "results": 7, "jobs": 7, "attempts": 7, "flows": 1, "batches": 1, "events": 2, "shares": shares,
    }  # fmt: skip
    before = counts(world)
    assert prune(world, terms, dry_run=True) == expected
    assert counts(world) == before, "a dry run deletes nothing"
    assert prune(world, terms) == expected
    assert [row.id for row in world.sql("SELECT id FROM jobs")] == young
    assert [row.name for row in world.sql("SELECT name FROM batches")] == ["half"]
    assert [row.text for row in world.sql("SELECT text FROM events")] == ["broken"], "why it is drained stays known"
    assert prune(world, terms) == {}
    # the later ones are in line as before
    assert world.batch("old", spec("again"))
    assert len(world.dispatch(5)) == 1


def test_events_and_shares_of_today_stay(world: World) -> None:
    ended(world, 1)
    world.sql("UPDATE shares SET finish = (SELECT rank + 1 FROM virtual_clock)")
    with world.store.write() as connection:
        health.note(connection, "r", "m", RouteState.OPEN, "timeout: silent", world.store.now(connection), 15.0)
    assert prune(world, Terms(world.now() - 1, forget_before=world.now() - 1)) == {}


def test_a_call_without_an_outcome_keeps_its_job(world: World) -> None:
    ended(world, 1)
    world.sql("UPDATE attempts SET outcome = NULL")
    terms = Terms(soon(world), forget_before=soon(world))
    assert prune(world, terms, dry_run=True) == prune(world, terms) == {"bodies": 1, "results": 1}
    world.sql("UPDATE attempts SET outcome = 'unknown'")
    assert prune(world, terms) == {"jobs": 1, "attempts": 1}
    assert world.value("SELECT count(*) FROM jobs") == 0


def test_a_batch_that_is_being_filled_or_whose_flow_is_active_stays(world: World) -> None:
    end_batch(world, "flow not retired", 1)
    world.batch("loading", opened=False)
    with world.store.write() as connection:
        connection.execute(text("UPDATE batches SET created_at = 1000"))
    terms = Terms(soon(world), forget_before=soon(world))
    assert "batches" not in prune(world, terms)
    retire_flows(world)
    assert prune(world, terms) == {"flows": 1, "batches": 1}
    assert [row.name for row in world.sql("SELECT name FROM batches")] == ["loading"]


def test_transactions_are_small_in_rows_and_bytes(world: World) -> None:
    count = 2 * BULK_ROWS + 10
    lease = world.lease()
    for at in range(0, count, 100):
        world.add(*specs(min(100, count - at)))
        world.end(lease, world.take(lease, world.dispatch(100)))
    with statements(world.store) as seen:
        assert prune(world, Terms(soon(world)))["bodies"] == count
        sizes = [len(parameters) for statement, parameters in seen if statement.startswith("DELETE FROM job_requests")]
    assert sizes == [BULK_ROWS, BULK_ROWS, 10]
    with statements(world.store) as seen:
        assert prune(world, Terms(soon(world), forget_before=soon(world)))["jobs"] == count
        sizes = [len(parameters) for statement, parameters in seen if statement.startswith("DELETE FROM jobs")]
    assert max(sizes) <= BULK_ROWS // 4, "a job goes with its call, its body and its result"


def test_groups_hold_a_turns_worth() -> None:
    big = BULK_BYTES // 2 + 1
    found = list(batched_scan.groups([Candidate(n, 1, big) for n in range(3)]))
    assert found == [[0], [1], [2]]
    assert list(batched_scan.groups([Candidate(1, 10 * BULK_ROWS), Candidate(2, 1)])) == [[1], [2]]
    assert list(batched_scan.groups([Candidate(1, 1, 5), Candidate(2, 1, 5)])) == [[1, 2]]
    assert list(batched_scan.groups([])) == []


def test_a_broken_run_leaves_nothing_half_and_the_next_goes_on(world: World) -> None:
    count = BULK_ROWS + 50
    lease = world.lease()
    world.add(*specs(BULK_ROWS))
    world.add(*specs(50))
    world.end(lease, world.take(lease, world.dispatch(count)))
    run: Iterator[object] = retention.prune(world.store, Terms(soon(world)))
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert world.value("SELECT count(*) FROM job_requests") == 50
    assert prune(world, Terms(soon(world))) == {"bodies": 50, "results": count}


def test_two_at_once_delete_everything_once(world: World) -> None:
    count = 3 * BULK_ROWS
    lease = world.lease()
    for _ in range(3):
        world.add(*specs(BULK_ROWS))
    world.end(lease, world.take(lease, world.dispatch(count)))
    found: list[dict[str, int]] = []
    terms = Terms(soon(world), forget_before=soon(world))
    together(*[lambda: found.append(prune(world, terms))] * 2)
    total: Counter[str] = Counter()
    for pruned in found:
        total.update(pruned)
    rest = prune(world, terms)  # what each left to the other
    total.update(rest)
    assert {kind: total[kind] for kind in ("bodies", "results", "jobs", "attempts")} == dict.fromkeys(
        ("bodies", "results", "jobs", "attempts"), count
    )
    assert world.value("SELECT count(*) FROM jobs") == 0


def test_a_job_whose_row_is_held_is_left_to_the_next_run(postgres_world: World) -> None:
    """The job may be beginning again just now, and will need its body."""
    world = postgres_world
    held, _ = ended(world, 2)
    with world.store.write() as connection:
        connection.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": held})
        work = InThread(lambda: prune(world, Terms(soon(world))))
        assert work.result() == {"bodies": 1, "results": 1}
        connection.execute(text("UPDATE jobs SET state = 'waiting', ended_at = NULL WHERE id = :id"), {"id": held})
    assert [row.job_id for row in world.sql("SELECT job_id FROM job_requests")] == [held]
    assert prune(world, Terms(soon(world))) == {}, "it has not ended any more"


def test_a_job_that_began_again_since_it_was_read_keeps_its_body(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (job_id,) = ended(world, 1)
    real = batched_scan.groups

    def meanwhile(candidates: list[Candidate]) -> Iterator[list[object]]:
        world.sql("UPDATE jobs SET state = 'waiting', ended_at = NULL WHERE id = :id", id=job_id)
        yield from real(candidates)

    monkeypatch.setattr(retention, "groups", meanwhile)
    assert prune(world, Terms(soon(world))) == {}
    assert world.value("SELECT count(*) FROM job_requests") == 1


def test_a_batch_that_is_filled_again_meanwhile_stays(postgres_world: World) -> None:
    world = postgres_world
    end_batch(world, "old", 1)
    retire_flows(world)
    terms = Terms(soon(world), forget_before=soon(world))
    with world.store.write() as connection:
        flow = connection.execute(text("UPDATE flows SET active = true RETURNING id")).scalar_one()
        pruned = InThread(lambda: prune(world, terms)).result()
        assert pruned["jobs"] == 1
        assert "batches" not in pruned
    assert world.value("SELECT count(*) FROM flows WHERE id = :id", id=flow) == 1


def test_a_job_with_many_calls_is_forgotten_with_all_of_them(world: World) -> None:
    lease, (job,) = world.running(1)
    for _ in range(2):
        world.finish(finished(job, lease, go_on()))
        row = world.job(job.id)
        (job,) = world.take(lease, [DispatchedJob(row.id, row.claim, 5, 100)])
    world.end(lease, [job])
    pruned = prune(world, Terms(soon(world), forget_before=soon(world)))
    assert (pruned["jobs"], pruned["attempts"]) == (1, 3)


def test_a_pruned_job_does_not_run_again(world: World) -> None:
    (job_id,) = ended(world, 1, FAILURE)
    prune(world, Terms(soon(world)))
    with world.store.write() as connection:
        assert retry_job(world.store, connection, job_id, classes=DEFAULTS) is False
    assert world.job(job_id).state == "failed"


def test_how_a_job_ended_before_is_forgotten_with_it(world: World) -> None:
    (job_id,) = ended(world, 1, FAILURE)
    with world.store.write() as connection:
        assert retry_job(world.store, connection, job_id, classes=DEFAULTS)
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(1)))
    pruned = prune(world, Terms(soon(world), forget_before=soon(world)))
    assert (pruned["retries"], pruned["jobs"]) == (1, 1)
    assert world.value("SELECT count(*) FROM retries") == 0
