"""The counters of spending equal the sums over the ledger, whatever happens to calls."""

from decimal import Decimal

from tests.store.counted import check_spend
from tests.store.world import (
    OTHER_ROUTE,
    ROUTE,
    SUCCESS,
    WAIT,
    InThread,
    World,
    finished,
    go_on,
    specs,
    statements,
    together,
    until_blocked,
)

from trivet_store.jobs import rescuing
from trivet_store.jobs.finishing import finish
from trivet_store.jobs.rescuing import put_back_strays, release
from trivet_store.ledger import spending
from trivet_store.ledger.spending import KEPT_DAYS, Spent
from trivet_tasks.config.budgets import DAY_S
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.outcomes import Outcome


def today(world: World) -> dict[str, Spent]:
    check_spend(world)
    with world.store.read() as connection:
        return spending.by_route(connection, world.store.now(connection))


def settled(amount: str, calls: int = 1) -> Spent:
    return Spent(Decimal(amount), Decimal(0), calls, 0)


def test_a_call_in_flight_is_not_counted_and_a_settled_one_is(world: World) -> None:
    lease, jobs = world.running(3)
    assert today(world) == {}
    world.end(lease, jobs, cost="0.000000000001")
    assert today(world) == {ROUTE: settled("0.000000000003", 3)}


def test_failover_counts_each_call_at_its_route(world: World) -> None:
    lease, (job,) = world.running()
    world.finish(finished(job, lease, go_on(), outcome=Outcome.TIMEOUT, cost="0.25", estimated=True))
    gone_on = world.job(job.id)
    claimed = DispatchedJob(job.id, gone_on.claim, gone_on.input_estimate, gone_on.max_tokens)
    (again,) = world.take(lease, [claimed], route=OTHER_ROUTE)
    world.end(lease, [again], cost="0.5")
    assert today(world) == {ROUTE: Spent(Decimal(0), Decimal("0.25"), 1, 0), OTHER_ROUTE: settled("0.5")}


def test_the_same_result_twice_is_counted_once(world: World) -> None:
    """A commit whose answer was lost is tried again."""
    lease, jobs = world.running(2)
    for _ in range(2):
        world.end(lease, jobs, cost="0.01")
    assert today(world) == {ROUTE: settled("0.02", 2)}


def test_a_call_without_a_price_is_counted_as_one(world: World) -> None:
    lease, jobs = world.running(1)
    world.end(lease, jobs, cost=None)
    assert today(world) == {ROUTE: Spent(Decimal(0), Decimal(0), 1, 1)}


def test_a_dead_worker_s_calls_are_estimates_until_a_late_result_comes(world: World) -> None:
    lease, jobs = world.running(2)
    world.let_die(lease)
    world.rescue()
    assert today(world) == {ROUTE: Spent(Decimal(0), Decimal("0.50"), 2, 0)}
    assert world.end(lease, jobs[:1], cost="0.01").refused == (jobs[0].id,)
    assert today(world) == {ROUTE: Spent(Decimal("0.01"), Decimal("0.25"), 2, 0)}
    world.end(world.lease(), world.take(world.lease(), world.dispatch(2)))
    check_spend(world)


def test_a_released_lease_and_an_isolated_crash_are_counted(world: World) -> None:
    lease, (one,) = world.running()
    with world.store.write() as connection:
        release(world.store, connection, lease)
    assert today(world) == {ROUTE: Spent(Decimal(0), Decimal("0.25"), 1, 0)}
    lease = world.lease()
    (again,) = world.take(lease, world.dispatch())
    assert again.id == one.id
    with world.store.write() as connection:
        rescuing.strike(world.store, connection, again.id, again.claim)
    assert today(world) == {ROUTE: Spent(Decimal(0), Decimal("0.50"), 2, 0)}
    assert world.value("SELECT count(*) FROM attempts WHERE outcome IS NULL") == 0


def test_a_cancelled_job_of_a_dead_worker_is_counted_once(world: World) -> None:
    lease, jobs = world.running(2)
    world.sql("UPDATE jobs SET cancel_requested = true WHERE id = :id", id=jobs[0].id)
    world.let_die(lease)
    world.rescue()
    assert today(world) == {ROUTE: Spent(Decimal(0), Decimal("0.50"), 2, 0)}


def test_batches_are_counted_apart_and_days_by_the_start_of_the_call(world: World) -> None:
    one, two = world.batch("one", *specs(1)), world.batch("two", *specs(1))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(2))
    world.sql("UPDATE attempts SET started_at = started_at - :day WHERE id = :id", day=DAY_S, id=jobs[0].attempt_id)
    world.end(lease, jobs, cost="0.5")
    counted = check_spend(world)
    assert {place[2] for place in counted} == {None, one.id, two.id}
    assert len({place[0] for place in counted}) == 2
    assert today(world) == {ROUTE: settled("0.5")}


def test_workers_that_settle_at_once_count_everything(world: World) -> None:
    lease, jobs = world.running(60)
    together(*(lambda part=part: world.end(lease, jobs[part::3], WAIT, cost="0.01") for part in range(3)))
    assert today(world) == {ROUTE: settled("0.60", 60)}


def test_a_rescue_beside_a_late_result_is_counted_once(postgres_world: World) -> None:
    """The rescuer has made the call `unknown` and not committed when its result is written."""
    world = postgres_world
    lease, (job,) = world.running()
    world.sql("UPDATE jobs SET state = 'waiting', lease_id = NULL, route = NULL WHERE id = :id", id=job.id)
    with world.store.write() as connection:
        release(world.store, connection, lease)
        late = InThread(lambda: world.end(lease, [job], SUCCESS, cost="0.01"))
        until_blocked(world, late)
        assert not late.over
    late.result()
    assert today(world) == {ROUTE: settled("0.01")}


def test_a_call_that_nobody_was_making_is_counted_at_the_most(world: World) -> None:
    """Its job is put back while the worker lives; what it cost may be known late."""
    lease, (job,) = world.running()
    with world.store.write() as connection:
        put_back_strays(connection, lease, [job.id])
    check_spend(world)
    assert today(world)[ROUTE].estimated_usd > 0
    world.end(lease, [job], SUCCESS, cost="0.01")
    check_spend(world)
    assert today(world) == {ROUTE: settled("0.01")}


def test_counters_are_kept_for_a_year_and_a_month(world: World) -> None:
    lease, jobs = world.running(3)
    for age, job in zip((0, KEPT_DAYS - 1, KEPT_DAYS + 1), jobs, strict=True):
        world.sql(
            "UPDATE attempts SET started_at = started_at - :age WHERE id = :id", age=age * DAY_S, id=job.attempt_id
        )
    world.end(lease, jobs)
    check_spend(world)
    with world.store.write() as connection:
        spending.forget_old(connection, world.store.now(connection))
    assert world.value("SELECT count(*) FROM spend") == 2


def test_settling_a_group_takes_two_statements_more_however_large(world: World) -> None:
    lease, jobs = world.running(40)
    with statements(world.store) as seen, world.store.write() as connection:
        finish(world.store, connection, [finished(job, lease) for job in jobs])
    assert len([sql for sql, _ in seen if "INTO spend" in sql or "a.cost_usd" in sql]) == 2
