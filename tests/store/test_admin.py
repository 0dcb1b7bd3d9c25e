"""The operations API on batches, jobs, attempts, costs and the database, without a shared state."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, SUCCESS, WAIT, World, finished, go_on, spec, specs

from trivet.admin import Admin, RouteAttempts
from trivet_store.database import batched_scan
from trivet_store.steps import End
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import BrokerUnavailable, InvalidRequest, NotFound
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.prices import price_records
from trivet_tasks.states import BatchState, JobState

FAILURE = End(JobState.FAILED, outcome=Outcome.OVERLOADED, error="No route answered.")
DAY_S = 86_400.0


@pytest.fixture
def admin(world: World, store_url: str, tmp_path: Path) -> Iterator[Admin]:
    """The API over the world's database; no server listens where the shared state should be."""
    config = tmp_path / "trivet.toml"
    config.write_text(f'[store]\nurl = "{store_url}"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    with Admin(settings=load_settings(config)) as admin:
        yield admin


def test_batches_are_listed_newest_first_with_their_counts(world: World, admin: Admin) -> None:
    world.batch("first", *specs(2))
    world.batch("second", spec("more"), opened=False)
    second, first = admin.batches.list()
    assert [second.name, first.name] == ["second", "first"]
    assert (first.total, first.waiting, second.state) == (2, 2, BatchState.LOADING)
    assert admin.batches.list(1) == (second,)
    assert admin.batches.progress("first") == first


def test_a_batch_that_waits_for_the_shared_state_is_blocked_by_something_wrong(world: World, admin: Admin) -> None:
    world.batch("contracts", *specs(2))
    status = admin.batches.status("contracts")
    assert (status.progress.waiting, status.jobs_per_s, status.left_s) == (2, None, None)
    assert status.blocked.wrong
    assert sum("redis://127.0.0.1:1" in note for note in status.blocked.notes) == 1
    assert admin.batches.blocked("contracts") == status.blocked


def test_nothing_blocks_a_batch_that_is_done(world: World, admin: Admin) -> None:
    world.batch("contracts", *specs(3))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(3)))
    status = admin.batches.status("contracts")
    assert status.progress.done
    assert (status.blocked.wrong, status.blocked.notes, status.left_s) == (False, (), None)


@pytest.mark.parametrize("what", ["progress", "status", "blocked"])
def test_an_unknown_batch_is_an_error(admin: Admin, what: str) -> None:
    with pytest.raises(NotFound, match="nobody"):
        getattr(admin.batches, what)("nobody")


def test_jobs_are_listed_by_state_and_batch(world: World, admin: Admin) -> None:
    world.batch("contracts", *specs(2))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(1)), FAILURE)
    world.add(spec("alone"))
    assert len(admin.jobs.list()) == 3
    assert len(admin.jobs.list(limit=2)) == 2
    (failed,) = admin.jobs.list(state=JobState.FAILED, batch="contracts")
    assert failed.error_outcome == Outcome.OVERLOADED
    with pytest.raises(InvalidRequest, match="'lost' is not a state"):
        admin.jobs.list(state="lost")
    with pytest.raises(NotFound, match="nobody"):
        admin.jobs.list(batch="nobody")


def test_a_jobs_life_has_its_attempts_and_request(world: World, admin: Admin) -> None:
    (job,) = world.add(spec("hello", key="invoice-7", tenant="acme"))
    lease = world.lease()
    (taken,) = world.take(lease, world.dispatch())
    world.finish(finished(taken, lease, go_on(), outcome=Outcome.OVERLOADED, cost="0"))
    life = admin.jobs.life(job.id, request=True)
    assert (life.job.state, life.job.route) == (JobState.DISPATCHED, OTHER_ROUTE)
    assert [(call.route, call.outcome) for call in life.attempts] == [(ROUTE, Outcome.OVERLOADED)]
    assert life.request == {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    assert repr(life) == f"JobLife({job.id!r}, 'dispatched')"  # not the prompt
    assert (life.retries, life.leader) == ((), None)
    assert life.job.created_at <= life.now
    assert admin.jobs.life(job.id).request is None
    assert admin.jobs.by_key("invoice-7", tenant="acme").id == job.id
    with pytest.raises(NotFound, match="without a tenant"):
        admin.jobs.by_key("invoice-7")
    with pytest.raises(NotFound, match="No job has the id 'lost'"):
        admin.jobs.life("lost")


def test_a_waiting_job_is_blocked_while_nothing_answers_and_an_ended_one_is_not(world: World, admin: Admin) -> None:
    (job,) = world.add(spec())
    assert admin.jobs.blocked(job.id).wrong
    assert admin.jobs.life(job.id).blocked == admin.jobs.blocked(job.id)
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch()))
    assert admin.jobs.blocked(job.id).notes == ()


def test_attempts_are_counted_by_route_with_their_failovers(world: World, admin: Admin) -> None:
    world.add(*specs(2))
    lease = world.lease()
    first, second = world.take(lease, world.dispatch())
    written = world.finish(finished(first, lease, go_on(), outcome=Outcome.RATE_LIMITED, cost="0"))
    assert admin.attempts.by_route()[ROUTE] == RouteAttempts(attempts=2, running=1, failed=1, limited=1)
    world.end(lease, [second])
    (passed_on,) = written.gone_on
    message = DispatchedJob(passed_on.job.id, passed_on.job.claim + 1, 5, 100)
    world.end(lease, world.take(lease, [message]))
    by_route = admin.attempts.by_route()
    assert (by_route[ROUTE].left, by_route[ROUTE].running, by_route[OTHER_ROUTE].succeeded) == (1, 0, 1)
    book = admin.attempts.all()
    assert book.by_route == by_route
    assert (book.jobs.total, book.jobs.not_ended) == (2, 0)
    assert sorted(one.outcome or "" for one in book.attempts) == ["rate_limited", "succeeded", "succeeded"]


def test_costs_are_reported_by_group_and_in_all(world: World, admin: Admin) -> None:
    world.add(*specs(3))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    world.end(lease, jobs[:1], cost="0.25")
    world.finish(finished(jobs[1], lease, WAIT, outcome=Outcome.TIMEOUT, cost="0.3", estimated=True))
    report = admin.costs.report(["model", "class"])
    (row,) = report.rows
    assert row.group == (MODEL, "batch")
    assert (report.total.calls, report.total.cost_usd) == (3, Decimal("0.25"))
    assert (report.response_cache_by, report.answered) == (("model", "class"), None)
    assert not admin.costs.report(since=report.span.until + DAY_S, until=report.span.until + 2 * DAY_S).total.calls
    overview = admin.costs.overview(["route"])
    assert overview.report.total == report.total
    assert [day.group[1] for day in overview.daily] == [ROUTE]
    assert overview.made_at == overview.report.span.until
    with pytest.raises(InvalidRequest, match="colour"):
        admin.costs.report(["colour"])


def test_pricing_again_yields_its_progress_from_the_start(world: World, admin: Admin) -> None:
    world.add(*specs(2))
    lease = world.lease()
    for job in world.take(lease, world.dispatch()):
        call = finished(job, lease, SUCCESS, cost="1")
        terms = price_records.write_terms(None, Usage())
        booked = replace(call.settlement, price_terms=terms, list_price="{}", price_version="old")
        world.finish(replace(call, settlement=booked))
    world.sql("UPDATE attempts SET provider = 'anthropic', wire_model = :model", model=MODEL)
    first, *_, last = admin.costs.reprice()
    assert (first.calls, first.total.calls, first.applied) == (2, 0, False)
    assert list(last.groups) == [(MODEL, ROUTE)]
    assert (last.total.changed, last.total.before_usd) == (2, Decimal(2))
    assert admin.costs.report().total.cost_usd == Decimal(2)
    *_, applied = admin.costs.reprice(apply=True)
    assert admin.costs.report().total.cost_usd == applied.total.after_usd < Decimal(1)


def test_pruning_yields_its_progress_and_ends_with_every_row(
    world: World, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_scan, "LEAST_PAUSE_S", 0.0)
    world.add(*specs(3))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch()))
    old = -DAY_S  # ids of jobs are made now: jobs that end until tomorrow count as old
    first, *_, counted = admin.database.prune(old, dry_run=True)
    assert (first.looked_at, set(first.rows.values())) == (0, {0})
    assert (counted.rows["bodies"], counted.rows["results"], counted.looked_at) == (3, 3, counted.extent)
    assert world.value("SELECT count(*) FROM job_results") == 3
    *_, kept = admin.database.prune(old, keep_results=True)
    assert (kept.contents, kept.rows["bodies"], kept.rows["results"]) == (("bodies",), 3, 0)
    *_, gone = admin.database.prune(old, attempts_older_than_s=old)
    assert (gone.rows["results"], gone.rows["attempts"], gone.rows["jobs"]) == (3, 3, 3)
    with pytest.raises(InvalidRequest, match="shorter than"):
        admin.database.prune(2 * DAY_S, attempts_older_than_s=DAY_S)


def test_the_schema_is_told_and_upgrading_twice_does_no_harm(admin: Admin) -> None:
    found = admin.database.version()
    assert found.version == found.newest
    upgraded = admin.database.upgrade()
    assert (upgraded.before, upgraded.after, upgraded.database) == (found.newest, found.newest, found.database)


def test_the_cache_needs_the_shared_state(admin: Admin) -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        admin.cache.state()
    with pytest.raises(BrokerUnavailable):
        admin.cache.clear(MODEL)
