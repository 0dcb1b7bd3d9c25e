"""Budgets in dispatching: reserving, holding, warning, raising and releasing."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import orjson
import pytest
from tests.directories import TWO_ROUTES, dispatcher
from tests.store.budgeted import MOST, Budgeted, alike, budget, budgeted_world
from tests.store.world import OTHER_ROUTE, ROUTE, WAIT, World, finished, go_on, spec, statements, together
from tests.timing import moved_clock

from trivet_routing.budget_headroom import holding_job
from trivet_scheduler import dispatch
from trivet_store.cluster import registry
from trivet_store.jobs.enqueue import DirectDispatch
from trivet_store.ledger import budgets
from trivet_tasks.config.budgets import exact_usd
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.jobs import JobSpec
from trivet_tasks.outcomes import Outcome


@pytest.fixture
def budgeted(world: World) -> Iterator[Budgeted]:
    with budgeted_world(world) as found:
        yield found


def test_calls_under_way_are_reserved_and_settled_calls_free_headroom(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=10))
    budgeted.add(*alike(10), *alike(10))
    assert budgeted.dispatched() == 10
    assert budgeted.balance().reserved == 10 * MOST
    jobs = budgeted.take()
    assert budgeted.dispatched() == 0, "they are being called now: that is reserved as much"
    assert budgeted.balance().reserved == 10 * MOST
    budgeted.end(jobs, each=0.5)
    assert budgeted.balance().headroom == 5 * MOST
    assert budgeted.dispatched() == 5
    budgeted.end(budgeted.take(), each=0.5)
    assert (budgeted.dispatched(), budgeted.balance().spent.usd) == (2, Decimal("7.5") * MOST)


def test_a_budget_is_never_overdrawn_and_goes_on_when_raised(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=7))
    budgeted.add(*alike(10))
    assert budgeted.dispatched() == 7
    budgeted.end(budgeted.take())
    assert budgeted.dispatched() == 0
    assert budgeted.balance().spent.usd == 7 * MOST
    with budgeted.world.store.write() as connection:
        budgets.raise_limit(budgeted.world.store, connection, "all", 9 * MOST, "me")
    assert budgeted.dispatched() == 2
    budgeted.end(budgeted.take())
    assert budgeted.world.states() == {"succeeded": 9, "waiting": 1}, "they wait, nothing fails"


def test_many_schedulers_do_not_overshoot(world: World) -> None:
    with budgeted_world(world) as first:
        first.register(budget(jobs=20))
        first.add(*alike(100))
        counts: list[int] = []

        def run() -> None:
            with budgeted_world(world) as one:
                counts.append(one.dispatched())

        together(run, run, run)
        assert sum(counts) == 20


def test_a_held_flow_lets_the_others_pass(budgeted: Budgeted) -> None:
    budgeted.register(budget("search", jobs=2, tag="team=search"))
    budgeted.add(*alike(10, tags={"team": "search"}), *alike(10, tags={"team": "mail"}), *alike(10))
    assert budgeted.dispatched() == 22
    waiting = budgeted.world.sql("SELECT tags FROM jobs WHERE state = 'waiting'")
    assert {row.tags for row in waiting} == {'{"team":"search"}'}
    labels = {row.labels for row in budgeted.world.sql("SELECT labels FROM flows")}
    assert labels == {"{}", '{"tag:team":"search"}'}, "nobody asks for mail"


@pytest.mark.parametrize("tag", ['team=se"arch', "team=SEARCH", "team=s%_rch", "täm=süß", "a=b=c", 'x"y=z'])
def test_a_tag_is_compared_as_it_is(budgeted: Budgeted, tag: str) -> None:
    name, _, value = tag.partition("=")
    budgeted.register(budget(jobs=100, tag=tag))
    budgeted.add(
        spec("document 0", tags={name: value}),
        spec("document 1", tags={name: value, "more": "x"}),
        spec("document 2", tags={name: "search"}),
        spec("document 3", tags={"other": f'"tag:{name}":"{value}"'}),
        spec("document 4"),
    )
    assert budgeted.dispatched() == 5
    assert budgeted.balance().reserved == 2 * MOST
    budgeted.end(budgeted.take())
    assert budgeted.balance().spent.usd == 2 * MOST


def test_a_batch_has_its_budget_in_all_and_a_tenant_his(budgeted: Budgeted) -> None:
    world = budgeted.world
    budgeted.register(budget("b", jobs=3, per="total", batch="contracts"), budget("t", jobs=2, tenant="acme"))
    world.batch("contracts", *alike(5))
    world.batch("others", *alike(5))
    budgeted.add(*alike(5, tenant="acme"))
    assert budgeted.dispatched() == 3 + 5 + 2
    budgeted.end(budgeted.take())
    assert (budgeted.balance("b").spent.usd, budgeted.balance("t").spent.usd) == (3 * MOST, 2 * MOST)
    assert budgeted.balance("b").window.key == "total"


def test_a_route_that_is_used_up_is_left_for_another(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=2, route=ROUTE))
    budgeted.add(*alike(10))
    assert budgeted.dispatched() == 10
    at = {row.route: row.n for row in budgeted.world.sql("SELECT route, count(*) AS n FROM jobs GROUP BY route")}
    assert at == {ROUTE: 2, OTHER_ROUTE: 8}


def test_a_small_job_passes_one_that_is_too_dear(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=2))
    budgeted.add(spec("x" * 100_000), *alike(3))
    assert budgeted.dispatched() == 2
    budgeted.watch()
    assert budgeted.balance().row.state == "holding", "it holds the dear one"


def test_a_cheap_job_that_comes_later_is_found(budgeted: Budgeted, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = moved_clock(monkeypatch, dispatch)
    budgeted.register(budget(jobs=2))
    budgeted.add(*[spec("x" * 100_000)] * 20)
    assert budgeted.dispatched() == 0
    budgeted.watch()
    assert budgeted.balance().row.needs_usd is not None
    budgeted.add(*alike(2))
    budgeted.world.sql("UPDATE jobs SET rank = 0 WHERE input_estimate < 100")
    assert budgeted.dispatched() == 0, "nobody looks at held jobs in every pass"
    clock.now += dispatch.THOROUGH_S
    assert budgeted.dispatched() == 2


def test_the_next_day_has_a_budget_of_its_own(budgeted: Budgeted) -> None:
    """Calls that began yesterday are yesterday's."""
    budgeted.register(budget(jobs=2), budget("month", jobs=100, per="month"))
    budgeted.add(*alike(4))
    assert budgeted.dispatched() == 2
    jobs = budgeted.take()
    budgeted.world.sql("UPDATE attempts SET started_at = started_at - :day", day=86_400)
    budgeted.end(jobs)
    assert budgeted.balance().spent.usd == 0
    assert budgeted.dispatched() == 2


def test_what_may_have_been_spent_counts_as_spent(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=2))
    budgeted.add(*alike(4))
    assert budgeted.dispatched() == 2
    budgeted.take()
    budgeted.world.let_die(budgeted.lease)
    budgeted.world.rescue()
    assert (budgeted.balance().spent.estimated_usd, budgeted.balance().reserved) == (2 * MOST, Decimal(0))
    assert budgeted.dispatched() == 0


def test_a_failover_is_reserved_where_it_goes(budgeted: Budgeted) -> None:
    """The budget is not asked again: the job is on its way."""
    budgeted.register(budget(jobs=1))
    budgeted.add(*alike(2))
    assert budgeted.dispatched() == 1
    (job,) = budgeted.take()
    world = budgeted.world
    world.finish(finished(job, budgeted.lease, go_on(), outcome=Outcome.TIMEOUT, cost=str(MOST), estimated=True))
    assert (budgeted.balance().spent.usd, budgeted.balance().reserved) == (MOST, MOST)
    assert budgeted.dispatched() == 0


def test_a_call_without_a_price_is_let_through_and_counted(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=1))
    budgeted.add(*alike(3, model="nobody-knows-it"))
    assert budgeted.dispatched() == 3
    budgeted.world.finish(*(finished(job, budgeted.lease, cost=None) for job in budgeted.take()))
    assert (budgeted.balance().spent.usd, budgeted.balance().spent.unpriced) == (Decimal(0), 3)


def test_states_are_told_once(budgeted: Budgeted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trivet.budgets")
    budgeted.register(budget(jobs=10, warn_at=0.5))
    budgeted.add(*alike(10), *alike(5))

    def step(jobs: int) -> str:
        """End this many jobs; the others that were dispatched wait again."""
        assert budgeted.dispatcher.run_once().dispatched == 10 - budgeted.world.states().get("succeeded", 0)
        taken = budgeted.take()
        budgeted.end(taken[:jobs])
        if taken[jobs:]:
            budgeted.world.finish(*(finished(job, budgeted.lease, WAIT, cost="0") for job in taken[jobs:]))
        for _ in range(3):
            budgeted.watch()
        return budgeted.balance().row.state

    assert step(4) == "ok"
    assert step(1) == "warned"
    assert step(5) == "holding"
    for _ in range(3):
        assert budgeted.dispatched() == 0
        budgeted.watch()
    with budgeted.world.store.write() as connection:
        budgets.raise_limit(budgeted.world.store, connection, "all", 100 * MOST, "me@here")
    budgeted.watch()
    assert budgeted.balance().row.state == "ok"
    kinds = ["budget set", "budget warned", "budget holding", "budget raised", "budget released"]
    assert budgeted.events() == kinds
    ours = [record for record in caplog.records if record.name == "trivet.budgets"]
    assert [record.levelname for record in ours] == ["WARNING", "WARNING", "INFO"]
    (raised,) = budgeted.world.sql("SELECT text FROM events WHERE kind = 'budget raised'")
    assert raised.text.endswith(", by me@here")
    assert budgeted.dispatched() == 5


def test_a_raise_is_for_one_window_and_outlives_a_restart(budgeted: Budgeted) -> None:
    world = budgeted.world
    budgeted.register(budget(jobs=1))
    with world.store.write() as connection:
        budgets.raise_limit(world.store, connection, "all", 5 * MOST, "me")
        with pytest.raises(InvalidRequest, match=r"--to: \$.* is less than the \$"):
            budgets.raise_limit(world.store, connection, "all", MOST / 2, "me")
        with pytest.raises(NotFound, match="No budget is called 'al'"):
            budgets.raise_limit(world.store, connection, "al", MOST, "me")
    assert budgeted.register(budget(jobs=1)) == [], "nothing changed"
    assert budgeted.balance().limit == 5 * MOST
    world.sql("UPDATE budgets SET raised_window = '2020-01-01'")
    assert budgeted.balance().limit == MOST
    assert len(budgeted.register(budget(jobs=3))) == 1
    assert budgeted.balance().limit == 3 * MOST
    assert budgeted.register() == ["all: removed"]
    budgeted.add(*alike(9))
    assert budgeted.dispatched() == 9


def test_realtime_looks_at_budgets_too(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=1))
    direct = DirectDispatch(ROUTE, 4e9)

    def held() -> str | None:
        with budgeted.world.store.write() as connection:
            said = budgeted.dispatcher.held_by_budget(connection, spec("document 0"), "{}", direct)
            if said is None:
                budgeted.world.insert(connection, [spec("document 0")], direct=direct)
            return said

    assert held() is None
    said = held()
    assert said is not None
    assert said.startswith("held by the budget all (all): until ")
    assert (
        f"$0.00 of {exact_usd(MOST)} are spent today (UTC) and {exact_usd(MOST)} reserved by jobs on their way" in said
    )


def test_without_a_price_list_jobs_that_budgets_count_are_left_alone(
    budgeted: Budgeted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    budgeted.register(budget(jobs=10, tag="team=search"))
    budgeted.add(*alike(3, tags={"team": "search"}), *alike(3))
    budgeted.costs.known = False
    assert budgeted.dispatched() == 3
    assert "no price list is installed" in caplog.text


def test_without_budgets_a_pass_reads_nothing_of_them(world: World) -> None:
    world.add(*alike(20))
    with statements(world.store) as seen, dispatcher(world.store) as one:
        one.run_once()
    assert not [sql for sql, _ in seen if "spend" in sql or "budgets" in sql]


def test_jobs_that_are_held_do_not_take_the_places_of_urgent_ones(world: World) -> None:
    with budgeted_world(world, slots=10) as budgeted:
        budgeted.register(budget(jobs=0.5, tag="team=poor"))
        soon, later = world.now() + 50, world.now() + 90
        budgeted.add(*[replace(one, deadline_at=soon) for one in alike(60, tags={"team": "poor"})])
        budgeted.add(*[spec(f"document {number}") for number in range(300)])
        budgeted.add(replace(spec("urgent"), deadline_at=later))
        budgeted.dispatcher.run_once()  # sees that the budget holds them
        budgeted.end(budgeted.take(), 0)
        budgeted.dispatcher.run_once()
        assert world.value("SELECT state FROM jobs WHERE deadline_at = :at", at=later) == "dispatched"


def test_cheap_jobs_behind_dear_ones_go(world: World) -> None:
    with budgeted_world(world, slots=500) as budgeted:
        budgeted.register(budget(jobs=5))
        budgeted.add(*[replace(spec("document 0"), max_tokens=4_000)] * 200)
        budgeted.add(*alike(3))
        assert budgeted.dispatched() == 3


def marked(job: JobSpec, ttl: str) -> JobSpec:
    body = orjson.loads(job.body)
    control = {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}
    return replace(
        job, body=orjson.dumps({**body, "system": [{"type": "text", "text": "x", "cache_control": control}]})
    )


@pytest.mark.parametrize(("ttl", "jobs"), [("5m", 8), ("1h", 5)])
def test_jobs_that_may_write_to_a_cache_are_reserved_at_the_price_of_writing(
    budgeted: Budgeted, ttl: str, jobs: int
) -> None:
    budgeted.register(budget(jobs=10))
    budgeted.add(*[marked(one, ttl) for one in alike(20)])
    assert budgeted.dispatched() == jobs
    assert budgeted.balance().reserved == 10 * MOST
    budgeted.take()
    assert budgeted.balance().reserved == 10 * MOST, "the rows of their calls hold as much"


def test_a_realtime_job_that_may_write_to_a_cache_is_held_by_the_price_of_writing(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=1.5))
    direct = DirectDispatch(ROUTE, budgeted.world.now() + 15)
    with budgeted.world.store.write() as connection:
        plain, dear = spec("document 0"), marked(spec("document 0"), "1h")
        assert budgeted.dispatcher.held_by_budget(connection, plain, "{}", direct) is None
        assert budgeted.dispatcher.held_by_budget(connection, dear, "{}", direct) is not None


def test_the_reason_that_a_budget_holds_a_job_counts_the_price_of_writing_to_a_cache(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=1.5))
    budgeted.add(*[marked(one, "1h") for one in alike(1)])
    assert budgeted.dispatched() == 0
    store, (job,) = budgeted.world.store, budgeted.world.sql("SELECT id FROM jobs")
    with store.write() as connection:
        registry.register(store, connection, {one.name: one.settings for one in TWO_ROUTES})
    with store.read() as connection:
        said = holding_job(store, connection, budgeted.costs, job.id)
    assert said is not None
    assert said.startswith("Held by the budget all")


def test_what_budgets_of_all_read_does_not_grow_with_batches(budgeted: Budgeted) -> None:
    budgeted.register(budget(jobs=1000))
    for number in range(3):
        budgeted.world.batch(f"b{number}", *alike(2))
    budgeted.dispatched()
    budgeted.end(budgeted.take())
    rows = budgeted.world.sql("SELECT batch_id, sum(calls) AS calls, count(*) AS n FROM spend GROUP BY batch_id")
    assert {row.batch_id: row.calls for row in rows} == {None: 6, 1: 2, 2: 2, 3: 2}
    assert {row.n for row in rows} == {2}, "a row for each route"
    assert budgeted.balance().spent.usd == 6 * MOST
