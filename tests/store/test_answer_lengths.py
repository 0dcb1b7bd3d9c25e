"""Recent answer lengths: each job goes where a call of its own size is cheapest."""

from decimal import Decimal

import pytest
from tests.builders import route
from tests.directories import dispatcher
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, spec, specs

from trivet_routing.answer_paces import AnswerPaces
from trivet_routing.route_choice import Candidate
from trivet_routing.route_directory import ENOUGH_CALLS, AnswerLengths
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.prices.cost_model import CallCost
from trivet_tasks.prices.price_book import TokenPrices

LEAST = Decimal("1e-6")


def test_the_latest_answers_are_read_from_the_calls(world: World) -> None:
    lease, jobs = world.running(ENOUGH_CALLS)
    world.end(lease, jobs)
    world.sql("UPDATE attempts SET output_tokens = 30")
    flow = world.value("SELECT DISTINCT flow_id FROM jobs")
    lengths = AnswerLengths(world.store)
    lengths.refresh()
    assert lengths.share(MODEL, Latency.BATCH, flow) == pytest.approx(0.3)
    world.sql("UPDATE attempts SET output_tokens = 60")
    lengths.refresh()
    assert lengths.share(MODEL, Latency.BATCH, flow) == pytest.approx(0.3), "looked a moment ago"
    another = AnswerLengths(world.store)
    another.refresh()
    assert another.share(MODEL, Latency.BATCH, flow) == pytest.approx(0.6)


def test_calls_that_brought_no_answer_and_probes_say_nothing(world: World) -> None:
    lease, jobs = world.running(ENOUGH_CALLS)
    world.end(lease, jobs)
    world.sql("UPDATE attempts SET output_tokens = 10")
    for change in ("outcome = 'incomplete'", "purpose = 'probe'"):
        one = world.value("SELECT id FROM attempts LIMIT 1")
        world.sql(f"UPDATE attempts SET {change} WHERE id = :id", id=one)
        lengths = AnswerLengths(world.store)
        lengths.refresh()
        assert lengths.share(MODEL, Latency.BATCH) == 0.5, "one fewer than enough"
        world.sql("UPDATE attempts SET outcome = 'succeeded', purpose = 'job'")


def test_the_pace_of_a_route_is_learned_from_its_long_answers(world: World) -> None:
    lease, jobs = world.running(4)
    world.end(lease, jobs)
    world.sql("UPDATE attempts SET output_tokens = 300, latency_s = 6.0")
    short = world.value("SELECT min(id) FROM attempts")
    world.sql("UPDATE attempts SET output_tokens = 5, latency_s = 2.0 WHERE id = :id", id=short)
    paces = AnswerPaces(world.store)
    assert paces.tokens_per_s(ROUTE, MODEL) is None
    paces.refresh()
    assert paces.tokens_per_s(ROUTE, MODEL) == pytest.approx(50.0)
    assert paces.tokens_per_s(OTHER_ROUTE, MODEL) is None


def two_prices() -> list[Candidate]:
    """A route that is cheap for input and one that is cheap for output."""
    costs = {ROUTE: (1, 20), OTHER_ROUTE: (3, 5)}
    return [
        route(name, cost=CallCost((TokenPrices(0, LEAST * i, LEAST * o, Decimal(0), Decimal(0), Decimal(0)),)))
        for name, (i, o) in costs.items()
    ]


def test_jobs_of_one_flow_go_where_their_own_size_is_cheapest(world: World) -> None:
    def sized(job: JobSpec, tokens: int, most: int) -> JobSpec:
        return job.__class__(**{name: getattr(job, name) for name in job.__slots__} | {"input_estimate": tokens, "max_tokens": most})  # fmt: skip

    long = [sized(spec(f"long {n}"), 20_000 + 100 * n, 200) for n in range(5)]
    short = [sized(spec(f"short {n}"), 300 + n, 4_000) for n in range(5)]
    world.add(*[job for pair in zip(long, short, strict=True) for job in pair])
    assert world.value("SELECT count(DISTINCT flow_id) FROM jobs") == 1
    with dispatcher(world.store, two_prices()) as one:
        assert one.run_once().dispatched == 10
    found = world.sql("SELECT route, max_tokens, count(*) AS n FROM jobs GROUP BY route, max_tokens")
    assert {(row.route, row.max_tokens): row.n for row in found} == {(ROUTE, 200): 5, (OTHER_ROUTE, 4_000): 5}


def test_what_answers_really_use_decides(world: World) -> None:
    """4,000 tokens of which nobody uses more than a hundredth are cheap where output is dear."""
    lease, jobs = world.running(ENOUGH_CALLS)
    world.end(lease, jobs)
    world.sql("UPDATE attempts SET output_tokens = 1")
    world.add(*specs(3))
    world.sql("UPDATE jobs SET input_estimate = 1000, max_tokens = 1000 WHERE state = 'waiting'")
    with dispatcher(world.store, two_prices()) as one:
        assert one.run_once().dispatched == 3
    assert {row.route for row in world.sql("SELECT route FROM jobs WHERE state = 'dispatched'")} == {ROUTE}
