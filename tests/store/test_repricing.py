"""Pricing settled calls again: what is shown, what is written, and that all sums stay right."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from tests.builders import call
from tests.command_line import Said
from tests.store.counted import check_spend
from tests.store.world import MODEL, ROUTE, SUCCESS, WAIT, World, finished, specs, together

from trivet_store import repricing, retention
from trivet_store.jobs.retrying import retry_job
from trivet_store.reports.cost_savings import cache_savings
from trivet_store.reports.costs import Span, summed
from trivet_store.repricing import Extent, Tally
from trivet_store.retention import Terms
from trivet_store.schema import Usd
from trivet_store.steps import ClaimedJob, End, Next, Settlement, Transition
from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.latency import DEFAULTS
from trivet_tasks.outcomes import Outcome, Usage, UsagePart
from trivet_tasks.prices import price_records
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.prices.price_book import PriceBook, is_newer
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer
from trivet_worker.run.pricing import Pricing

BOOK = PriceBook()
FAILED = End(JobState.FAILED, outcome=Outcome.INCOMPLETE, error="cut")
PLAIN = price_records.write_terms(None, Usage())
RIGHT = Decimal("0.00007")
"""10 tokens at 2 USD a million and 5 at 10, by Anthropic's list of Sonnet 5.5."""


def settled(
    job: ClaimedJob,
    cost: str | None,
    then: Next = SUCCESS,
    *,
    terms: str | None = PLAIN,
) -> Transition:
    """A call that was booked at some cost when it was made."""
    outcome = Outcome.SUCCEEDED if then is SUCCESS else Outcome.INCOMPLETE
    settlement = Settlement(
        job.attempt_id, outcome, 0.5, usage=Usage(10, 5), cost_usd=None if cost is None else Decimal(cost), list_price="{}",
        multipliers="{}", price_version="old", price_terms=terms,
    )  # fmt: skip
    return Transition(job, settlement, then)


def calls_of(world: World, lease: str, count: int, **target: Any) -> list[ClaimedJob]:
    """Jobs claimed on the Anthropic API, or where it is said."""
    jobs = world.take(lease, world.dispatch(count))
    as_called = {"provider": "anthropic", "wire_model": MODEL, "at": world.now(), **target}
    for job in jobs:
        world.sql(
            "UPDATE attempts SET provider = :provider, wire_model = :wire_model, started_at = :at WHERE id = :id",
            **as_called,
            id=job.attempt_id,
        )
    return jobs


def reprice(world: World, *, apply: bool = False, book: PriceBook = BOOK) -> Tally:
    pages = list(repricing.reprice(world.store, book, Span(), apply=apply))
    return sum((tally for page in pages for tally in page.values()), Tally())


def attempts(world: World) -> Sequence[Any]:
    return world.sql("SELECT * FROM attempts ORDER BY started_at, id")


def check_sums(world: World, *, results: bool = True) -> Decimal:
    """Jobs have the sums of their calls, None where one has no price; batches those of the calls with one, whatever their
    jobs lack. Returns the sum of the first batch."""
    calls = text(
        "SELECT j.id, j.batch_id, a.cost_usd FROM jobs j JOIN attempts a ON a.job_id = j.id"
        " WHERE j.ended_at IS NOT NULL AND (NOT a.estimated OR a.outcome = 'succeeded')"
    ).columns(cost_usd=Usd())
    of: dict[str, Decimal | None] = {}
    by_batch: dict[int, Decimal] = {}
    with world.store.read() as connection:
        for job_id, batch_id, cost in connection.execute(calls):
            so_far = of.get(job_id, Decimal(0))
            of[job_id] = None if cost is None or so_far is None else so_far + cost
            if batch_id is not None:
                by_batch[batch_id] = by_batch.get(batch_id, Decimal(0)) + (cost or 0)
    check_spend(world)
    names = {row.id: row.name for row in world.sql("SELECT id, name FROM batches")}
    assert {batch: world.progress(names[batch]).cost_usd for batch in by_batch} == by_batch
    if results:
        with world.store.read() as connection:
            statement = text("SELECT job_id, cost_usd FROM job_results").columns(cost_usd=Usd())
            assert {row.job_id: row.cost_usd for row in connection.execute(statement)} == of
    return by_batch.get(1, Decimal(0))


def test_nothing_is_written_unless_told_and_then_every_sum_is(world: World) -> None:
    world.batch("contracts", *specs(4))
    lease = world.lease()
    jobs = calls_of(world, lease, 4)
    world.finish(
        settled(jobs[0], "0.5"),
        settled(jobs[1], None),
        settled(jobs[2], "0.25", FAILED),
        settled(jobs[3], str(RIGHT)),
    )
    before = attempts(world)
    shown = reprice(world)
    assert shown == (4, 3, Decimal("0.75") + RIGHT, 4 * RIGHT, 1, 0)
    assert attempts(world) == before
    assert check_sums(world) == Decimal("0.75") + RIGHT

    assert reprice(world, apply=True) == shown
    assert check_sums(world) == 4 * RIGHT
    listed = orjson.loads(attempts(world)[0].list_price)
    assert (listed["input"], listed["output"]) == ("2", "10")
    assert {row.price_version for row in attempts(world)} == {BOOK.version}
    assert {row.price_terms for row in attempts(world)} == {PLAIN}
    assert reprice(world, apply=True) == (4, 0, 4 * RIGHT, 4 * RIGHT, 0, 0)


def test_a_contract_that_was_entered_late_is_honoured_and_a_removed_route_keeps_its_own(world: World) -> None:
    world.batch("contracts", *specs(1))
    lease = world.lease()
    world.finish(settled(calls_of(world, lease, 1)[0], str(RIGHT)))
    half = (RoutePrice.model_validate({"from": "2020-01-01", "factor": "0.5"}),)
    pages = list(repricing.reprice(world.store, BOOK, Span(), prices={ROUTE: half}, apply=True))
    assert [tally.after_usd for page in pages for tally in page.values()] == [RIGHT / 2]
    assert check_sums(world) == RIGHT / 2
    with world.store.read() as connection:
        (total,) = summed(connection, [], Span())
    assert (total.cost_usd, total.list_usd) == (RIGHT / 2, RIGHT)
    assert reprice(world, apply=True) == (1, 0, RIGHT / 2, RIGHT / 2, 0, 0), "the route is not known any more"
    pages = list(repricing.reprice(world.store, BOOK, Span(), prices={ROUTE: ()}, apply=True))
    assert check_sums(world) == RIGHT
    assert {row.negotiated_price for row in attempts(world)} == {None}


def test_a_price_that_is_no_longer_known_makes_the_job_unpriced_not_free(world: World) -> None:
    world.batch("contracts", *specs(2))
    lease = world.lease()
    jobs = calls_of(world, lease, 1, wire_model="claude-next-9") + calls_of(world, lease, 1)
    world.sql("UPDATE attempts SET model = 'claude-next-9' WHERE wire_model = 'claude-next-9'")
    world.finish(*(settled(job, "0.5") for job in jobs))
    assert reprice(world, apply=True) == (2, 2, Decimal(1), RIGHT, 0, 1)
    assert check_sums(world) == RIGHT
    (note,) = [row.price_terms for row in attempts(world) if row.cost_usd is None]
    assert "claude-next-9" in note


def test_estimates_and_rows_that_do_not_keep_their_terms_stay_as_they_are(world: World) -> None:
    lease = world.lease()
    world.add(*specs(4))
    jobs = calls_of(world, lease, 4)
    world.finish(
        finished(jobs[0], lease, WAIT, outcome=Outcome.TIMEOUT, cost="0.3", estimated=True),
        settled(jobs[1], "0.5", terms=None),
        finished(jobs[2], lease, WAIT, outcome=Outcome.RATE_LIMITED, cost="0"),
    )
    world.sql("UPDATE attempts SET input_tokens = 0, output_tokens = 0 WHERE outcome <> 'succeeded'")
    before = attempts(world)
    assert repricing.extent(world.store, Span()) == Extent(0, 1)
    assert reprice(world, apply=True) == Tally()
    assert attempts(world) == before


ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/k3j2h1"
OPUS_DAY = datetime(2026, 3, 12, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("provider", "model", "wire_model", "region", "usage"),
    [
        ("vertex", MODEL, MODEL, "global", Usage(1_000, 5, 7, 8, 9)),
        ("vertex", MODEL, MODEL, "us-east5", Usage(1_000, 5, 7, 8, 9)),
        ("bedrock", MODEL, ARN, "us-east-1", Usage(1_000, 5)),
        ("anthropic", MODEL, MODEL, None, Usage(1_000, 5, service_tier="batch")),
        ("anthropic", MODEL, MODEL, None, Usage(1_000, 5, inference_geo="us", web_searches=3)),
        ("anthropic", "claude-opus-5-5", "claude-opus-5-5", None, Usage(1_000, 5, speed="fast")),
        ("anthropic", "claude-opus-4-6", "claude-opus-4-6", None, Usage(300_000, 5)),
        ("anthropic", MODEL, MODEL, None, Usage(1_000, 5, service_tier="priority")),
    ],
)
def test_a_row_keeps_all_that_its_price_hangs_on(
    world: World, provider: Any, model: str, wire_model: str, region: str | None, usage: Usage
) -> None:
    """Opus 4.6 had a price of its own for long prompts on that day."""
    lease = world.lease()
    world.add(*specs(1))
    (job,) = calls_of(world, lease, 1, provider=provider, wire_model=wire_model, at=OPUS_DAY)
    world.sql("UPDATE attempts SET model = :model", model=model)
    priced = BOOK.price(provider, model, wire_model, region, datetime.fromtimestamp(OPUS_DAY, UTC), usage)
    plain = BOOK.price(
        "anthropic", model, model, None, datetime.now(UTC), Usage(usage.input_tokens, usage.output_tokens)
    )
    settlement = Settlement(
        job.attempt_id, Outcome.SUCCEEDED, 0.5, usage=usage, cost_usd=priced.cost_usd,
        list_price=orjson.dumps(dict(priced.list_price)).decode(),
        multipliers=orjson.dumps(dict(priced.multipliers)).decode(), price_version="as it was",
        price_terms=price_records.write_terms(region, usage, priced.note),
    )  # fmt: skip
    world.finish(Transition(job, settlement, SUCCESS))
    assert priced.cost_usd != plain.cost_usd or "priority" in priced.note
    assert reprice(world, apply=True) == (1, 0, priced.cost_usd, priced.cost_usd, 0, 0)
    assert [row.price_version for row in attempts(world)] == ["as it was"], "what is the same is not written"


def test_the_sum_of_a_batch_is_right_also_where_results_were_pruned(world: World) -> None:
    world.batch("contracts", *specs(3))
    lease = world.lease()
    jobs = calls_of(world, lease, 3)
    world.finish(settled(jobs[0], "0.5"), settled(jobs[1], "0.5", FAILED), settled(jobs[2], "0.5", FAILED))
    list(retention.prune(world.store, Terms(world.now() + 60)))
    assert world.value("SELECT count(*) FROM job_results") == 0
    reprice(world, apply=True)
    assert check_sums(world, results=False) == 3 * RIGHT


def test_a_job_that_was_made_to_run_again_ends_with_the_new_sums(world: World) -> None:
    world.batch("contracts", *specs(1))
    lease = world.lease()
    (job,) = calls_of(world, lease, 1)
    world.finish(settled(job, "0.5", FAILED))
    with world.store.write() as connection:
        assert retry_job(world.store, connection, job.id, classes=DEFAULTS)
    assert world.progress("contracts").cost_usd == 0
    reprice(world, apply=True)
    assert world.progress("contracts").cost_usd == 0, "it has not ended"
    (again,) = calls_of(world, lease, 1)
    world.finish(settled(again, "1"))
    assert check_sums(world) == 1 + RIGHT


def test_a_run_that_is_broken_off_leaves_right_sums_and_is_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repricing, "READ_ROWS", 4)
    monkeypatch.setattr(repricing, "BULK_ROWS", 3)
    world.batch("contracts", *specs(10))
    lease = world.lease()
    world.finish(*(settled(job, "0.5") for job in calls_of(world, lease, 10)))
    run = repricing.reprice(world.store, BOOK, Span(), apply=True)
    assert sum(tally.changed for tally in next(run).values()) == 4
    run.close()  # type: ignore[attr-defined]
    assert check_sums(world) == 4 * RIGHT + Decimal(3)
    assert reprice(world, apply=True).changed == 6
    assert check_sums(world) == 10 * RIGHT


def test_two_runs_and_a_worker_at_once_leave_right_sums(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repricing, "BULK_ROWS", 5)
    world.batch("contracts", *specs(60))
    lease = world.lease()
    jobs = calls_of(world, lease, 60)
    world.finish(*(settled(job, "0.5") for job in jobs[:40]))

    def work() -> None:
        for first in range(40, 60, 4):
            world.finish(*(settled(job, "0.25") for job in jobs[first : first + 4]))

    together(lambda: reprice(world, apply=True), lambda: reprice(world, apply=True), work)
    check_sums(world)
    reprice(world, apply=True)
    assert check_sums(world) == 60 * RIGHT


def test_the_command_shows_the_difference_exactly_and_writes_it_when_told(
    world: World, trivet: Callable[..., Said]
) -> None:
    lease = world.lease()
    world.add(*specs(4))
    jobs = calls_of(world, lease, 4)
    world.finish(
        settled(jobs[0], "0.500000000001"),
        settled(jobs[1], None),
        settled(jobs[2], str(RIGHT)),
        settled(jobs[3], "1", terms=None),
    )
    said = trivet("costs", "reprice")
    assert (said.code, said.err) == (0, "")
    heading, line, total, *rest = said.out.splitlines()
    assert heading.split() == ["MODEL", "ROUTE", "CALLS", "CHANGED", "BEFORE", "AFTER", "DIFFERENCE"]
    figures = ["3", "2", "$0.500070000001", "$0.000210000000", "-0.499860000001"]
    assert line.split() == [MODEL, ROUTE, *figures]
    assert total.split() == ["total", *figures]
    assert rest[1:] == [
        "1 call priced for the first time.",
        "1 call left as before: the terms of the price are not on record.",
        "Nothing was written: --apply writes it.",
    ]
    found = trivet("costs", "reprice", "--since", "1h", "--apply", "--json").json
    assert (found["applied"], found["complete"], found["without_terms"]) == (True, True, 1)
    assert found["total"]["difference_usd"] == "-0.499860000001"
    assert [row["route"] for row in found["rows"]] == [ROUTE]
    assert trivet("costs", "reprice").out.startswith("3 calls priced again: none costs anything else now.")
    # none of them began in time
    assert trivet("costs", "reprice", "--until", "2026-01-01", "--since", "2025-01-01", "--json").json["rows"] == []


def test_a_machine_with_an_older_list_writes_nothing(world: World, trivet: Callable[..., Said]) -> None:
    lease = world.lease()
    world.add(*specs(1))
    [job] = calls_of(world, lease, 1)
    world.finish(settled(job, "0.5"))
    newer = "genai-prices 999.1 + rules 2026-01"
    world.sql("UPDATE attempts SET price_version = :newer", newer=newer)
    before = attempts(world)
    said = trivet("costs", "reprice", "--apply")
    assert said.code == 2
    assert f"were priced by {newer}; here is genai-prices" in said.err
    assert attempts(world) == before


@pytest.mark.parametrize(
    ("one", "other", "newer"),
    [
        ("genai-prices 0.2.10 + rules 2026-11", "genai-prices 0.2.9 + rules 2026-11", True),
        ("genai-prices 0.2.9 + rules 2026-12", "genai-prices 0.2.10 + rules 2026-11", True),
        ("genai-prices 0.2.9 + rules 2026-11", "genai-prices 0.2.9 + rules 2026-11", False),
        ("genai-prices 0.1 + rules 2025-12", "genai-prices 0.2.9 + rules 2026-11", False),
    ],
)
def test_a_version_is_newer_where_the_list_or_the_rules_are(one: str, other: str, newer: bool) -> None:
    assert is_newer(one, other) is newer


# --- calls of several passes, models that answered for others, refusals

ADVISED = Usage(
    159_421,
    8_296,
    model="claude-sonnet-4-6",
    parts=(UsagePart("message", None, 2, 491), UsagePart("advisor_message", "claude-opus-4-7", 159_419, 7_805)),
)
PASSES = Usage(101_195, 0, parts=(UsagePart("message", None, 99_195), UsagePart("message", None, 2_000)))
CACHED = Usage(
    cache_read_tokens=3_000_000,
    parts=(
        UsagePart("message", None, cache_read_tokens=1_000_000),
        UsagePart("advisor_message", "claude-opus-4-7", cache_read_tokens=2_000_000),
    ),
)


def booked(job: ClaimedJob, model: str, usage: Usage) -> Transition:
    """A call booked as a worker books it."""
    settlement = Pricing(CostModel(), time.time).settled(
        call(model=model, wire_model=model), Answer(b"{}", "end_turn", usage, None), 0.5
    )
    return Transition(job, replace(settlement, attempt_id=job.attempt_id), SUCCESS)


@pytest.mark.parametrize(
    ("asked", "usage", "cost", "used"),
    [
        ("claude-sonnet-4-6", ADVISED, "0.999591", None),
        ("claude-haiku-5-5", PASSES, "0.0101195", None),
        ("claude-fable-5", Usage(412, 264, model="claude-opus-4-8"), "0.008660", "claude-opus-4-8"),
        ("claude-sonnet-5-5", Usage(1_000, model="claude-next-9"), "0.002", "claude-next-9"),
        ("claude-fable-5", Usage(1_000, refused="cyber"), "0", None),
        ("claude-fable-5", Usage(1_000, refused="bio"), "0.01", None),
        ("claude-sonnet-5-5", Usage(1_000, doubt="the passes cannot be read"), "0.002", None),
    ],
)
def test_what_really_ran_is_priced_again_to_the_same(
    world: World, asked: str, usage: Usage, cost: str, used: str | None
) -> None:
    lease = world.lease()
    world.add(*specs(1))
    (job,) = calls_of(world, lease, 1, wire_model=asked)
    world.sql("UPDATE attempts SET model = :model", model=asked)
    world.finish(booked(job, asked, usage))
    before = attempts(world)
    assert before[0].model_used == used
    assert reprice(world, apply=True) == (1, 0, Decimal(cost), Decimal(cost), 0, 0)
    assert attempts(world) == before
    world.sql("UPDATE attempts SET cost_usd = NULL, list_price = NULL, multipliers = NULL, price_version = 'old'")
    assert reprice(world, apply=True).after_usd == Decimal(cost)
    assert attempts(world) == before
    with world.store.read() as connection:
        (by_model,) = summed(connection, ["model"], Span())
    assert (by_model.group, by_model.cost_usd) == ((used or asked,), Decimal(cost))


def test_what_a_cache_saved_is_told_by_the_models_of_the_passes(world: World) -> None:
    lease = world.lease()
    world.add(*specs(1))
    (job,) = calls_of(world, lease, 1, wire_model="claude-sonnet-4-6")
    world.sql("UPDATE attempts SET model = 'claude-sonnet-4-6'")
    world.finish(booked(job, "claude-sonnet-4-6", CACHED))
    with world.store.read() as connection:
        saved = {one.model: (one.read_tokens, one.saved_usd) for one in cache_savings(connection, Span())}
    # 3 - 0.30 and 5 - 0.50 USD a million
    assert saved == {"claude-sonnet-4-6": (1_000_000, Decimal("2.7")), "claude-opus-4-7": (2_000_000, Decimal("9"))}
