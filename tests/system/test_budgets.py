"""A budget over four workers, through the whole system: it is never overdrawn, its jobs wait, and go on when it is raised."""

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Said
from tests.databases import new_database
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet

MODEL = "claude-sonnet-5-5"
TOKENS = 600
LIMIT = Decimal("0.15")
BUDGETS = [
    {"name": "mail", "usd": str(LIMIT), "per": "day", "tag": "team=mail", "warn_at": 0.5},
    {"name": "quick", "usd": "0.000001", "per": "month", "tag": "team=quick"},
]
DEADLINE_S = 60.0


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """Four workers and two budgets."""
    url = new_database(request, "budgets")
    folder: Path = tmp_path_factory.mktemp("budgets")
    long = ("--latency-median", "0.05", "--latency-p95", "0.15", "--seed", "1", "--output-median", "700")
    sections: dict[str, Any] = {**QUICK, "budgets": BUDGETS}
    with running_trivet(folder, store_url=url, workers=4, simulator=long, sections=sections) as running:
        yield running


def spent(trivet: RunningTrivet) -> Decimal:
    """By the ledger: all calls of the team, those without a known end at the most they may cost."""
    rows = trivet.admin.costs.report(["tag:team"]).rows
    return sum((row.cost_usd + row.estimated_usd for row in rows if row.group == ("mail",)), Decimal(0))


def of(trivet: Callable[..., Said], name: str) -> dict[str, Any]:
    (found,) = [one for one in trivet("budgets", "--json").json["budgets"] if one["name"] == name]
    return dict(found)


def test_four_workers_spend_no_more_than_there_is_and_go_on_when_raised(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    until(lambda: len(system.admin.budgets.list().budgets) == 2, "both budgets")
    batch = system.client.submit_many(
        [{"prompt": f"Mail {n}"} for n in range(60)],
        name="mails",
        model=MODEL,
        max_tokens=TOKENS,
        tags={"team": "mail"},
    )
    other = system.client.submit_many([{"prompt": f"Page {n}"} for n in range(20)], model=MODEL, max_tokens=TOKENS)
    assert {result.status for result in other.results(timeout=DEADLINE_S)} == {"succeeded"}, "others are not held"

    def holds() -> Any:
        assert spent(system) <= LIMIT
        one = of(trivet, "mail")
        return one if one["state"] == "holding" and Decimal(one["reserved_usd"]) == 0 else None

    one = until(holds, "the budget to hold")
    assert datetime.fromisoformat(one["window_ends_at"]).hour == 0, "days turn at midnight UTC"
    progress = batch.progress()
    assert (progress.failed, progress.expired, progress.running) == (0, 0, 0), "they wait, nothing fails"
    assert 0 < progress.succeeded < 60
    assert one["jobs_held"] == 60 - progress.succeeded
    assert Decimal(one["settled_usd"]) == spent(system) == progress.cost_usd
    (waiting,) = system.client.jobs(state="waiting", batch="mails", limit=1)
    words = "Held by the budget mail (tag team=mail): until "
    assert words in " ".join(trivet("job", "show", waiting.id).out.split())
    assert words in " ".join(trivet("batch", "status", "mails").out.split())
    assert (status := system.admin.batches.status("mails")).blocked.budget
    assert status.left_s is None, "nobody knows when it is raised"
    assert f"The budget mail (tag team=mail) is used up: {one['jobs_held']} jobs wait for it" in trivet("routes").out
    assert "holding" in trivet("budgets").out
    routes = trivet("routes", "--json").json["routes"]
    assert sum(Decimal(route["spent_today"]["settled_usd"]) for route in routes) > spent(system)

    said = trivet("budget", "raise", "mail", "--to", "100", "--json").json
    assert (said["limit_usd"], Decimal(said["was_usd"])) == ("100", LIMIT)
    assert {result.status for result in batch.results(timeout=DEADLINE_S)} == {"succeeded"}
    assert spent(system) > LIMIT
    until(lambda: of(trivet, "mail")["state"] == "ok", "the raised budget to release")
    kinds = [event["kind"] for event in trivet("routes", "events", "--json").json if "mail" in event["text"]]
    assert kinds[0] == "budget set"
    assert [kind for kind in kinds if kind != "budget warned"] == [
        "budget set", "budget holding", "budget raised", "budget released"
    ]  # fmt: skip


def test_a_realtime_job_ends_at_its_budget_and_says_which_budget_held_it(system: RunningTrivet) -> None:
    until(lambda: len(system.admin.budgets.list().budgets) == 2, "both budgets")
    job = system.client.submit("Now", model=MODEL, max_tokens=TOKENS, latency="realtime", tags={"team": "quick"})
    result = job.result(timeout=DEADLINE_S)
    assert (result.status, len(result.attempts)) == ("expired", 0)
    assert result.error is not None
    assert "held by the budget quick (tag team=quick)" in result.error.message


def test_a_mistake_of_a_command_is_told(trivet: Callable[..., Said]) -> None:
    for arguments, words in (
        (("raise", "mial", "--to", "5"), "No budget is called 'mial'. `trivet budgets` lists them."),
        (("raise", "mail", "--to", "much"), "--to: 'much' is not an amount of USD."),
        (("raise", "mail", "--to", "0.01"), "is less than the $0.15 of the configuration."),
    ):
        said = trivet("budget", *arguments)
        assert said.code == 2
        assert words in said.err
