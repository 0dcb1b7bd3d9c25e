"""`trivet costs` as people use it, over a ledger on either database."""

import csv
import io
import re
from collections.abc import Callable
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest
from tests.command_line import Said
from tests.store.world import MODEL, OTHER_ROUTE, SUCCESS, WAIT, World, finished, specs

from trivet_store.steps import ClaimedJob, End, Settlement, Transition
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.prices import price_records
from trivet_tasks.states import JobState

LISTED = {"input": "2", "output": "10", "cache_read": "0.1", "cache_write_5m": "2.5", "cache_write_1h": "4"}
FIRST_DAY, SECOND_DAY = 1_795_391_999.0, 1_795_392_000.0  # 2026-11-22 and 2026-11-23, UTC


def cached(job: ClaimedJob, cost: str | None) -> Transition:
    settlement = Settlement(
        job.attempt_id, Outcome.SUCCEEDED, 0.5, usage=Usage(10, 5, 1_000_000), price_version="v", estimated=False,
        cost_usd=None if cost is None else Decimal(cost), list_price=orjson.dumps(LISTED).decode(), multipliers="{}",
        price_terms=price_records.write_terms(None, Usage()),
    )  # fmt: skip
    return Transition(job, settlement, SUCCESS)


@pytest.fixture
def ledger(world: World) -> World:
    """Two days, two routes, a timeout, an unpriced call and a name that is no good for HTML."""
    world.batch("<b>contracts</b>", *specs(4, tenant="=acme", tags={"team": "red"}))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(3))
    world.finish(
        cached(jobs[0], "0.123456789012"),
        finished(jobs[1], lease, WAIT, outcome=Outcome.TIMEOUT, cost="0.3", estimated=True),
        finished(jobs[2], lease, cost=None),
    )
    world.sql("UPDATE attempts SET started_at = :at", at=FIRST_DAY)
    dear = world.take(lease, world.dispatch(2, OTHER_ROUTE))
    world.end(lease, dear, cost="2")
    world.sql("UPDATE attempts SET started_at = :at WHERE route = :route", at=SECOND_DAY, route=OTHER_ROUTE)
    return world


ALWAYS = ("--since", "2026-11-01", "--until", "2026-12-01")


def test_what_prompt_caches_saved_is_told(trivet: Callable[..., Said], ledger: World) -> None:
    assert "Prompt caches saved $1.9000, against" in trivet("costs", *ALWAYS).out.replace("\n", " ")
    (one,) = trivet("costs", *ALWAYS, "--json").json["prompt_cache"]
    assert (one["model"], one["read_tokens"], Decimal(one["saved_usd"])) == (MODEL, 1_000_000, Decimal("1.9"))


def test_the_table_has_cached_tokens_where_there_are_any(trivet: Callable[..., Said], ledger: World) -> None:
    heading, *_, total = trivet("costs", "--by", "model", *ALWAYS).out.splitlines()[:3]
    assert ("CACHE READ" in heading, "CACHE WRITE" in heading) == (True, False)
    assert "1,000,000" in total
    (row,) = trivet("costs", "--by", "month", *ALWAYS, "--json").json["rows"]
    assert (row["month"], row["cache_read_tokens"], row["plain_input_tokens"]) == ("2026-11", 1_000_000, 50)


def test_the_table_names_what_is_unpriced(trivet: Callable[..., Said], ledger: World) -> None:
    said = trivet("costs", *ALWAYS)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[1].split()[:2] == [OTHER_ROUTE, "2"]
    assert lines[3].split()[-3:] == ["$4.1235", "$0.3000", "1"]
    assert f"no price is known for 1 call, and COST lacks them: {MODEL} (as wire.{MODEL} on bedrock) 1." in said.out
    assert "approximate" not in said.out
    ledger.sql("UPDATE attempts SET price_terms = :noted", noted=price_records.write_terms(None, Usage(), "alike"))
    assert "Of COST $4.1235 is approximate:" in " ".join(trivet("costs", *ALWAYS).out.split())


def test_json_has_every_digit_the_span_and_the_models_without_a_price(
    trivet: Callable[..., Said], ledger: World
) -> None:
    found = trivet("costs", "--by", "day,tag:team", *ALWAYS, "--json").json
    assert [(row["day"], row["tag:team"], row["cost_usd"]) for row in found["rows"]] == [
        ("2026-11-22", "red", "0.123456789012"),
        ("2026-11-23", "red", "4.000000000000"),
    ]
    assert found["total"]["unpriced"] == 1
    assert found["unpriced"] == [{"provider": "bedrock", "model": MODEL, "wire_model": f"wire.{MODEL}", "calls": 1}]
    assert (found["since"], found["until"]) == ("2026-11-01T00:00:00.000Z", "2026-12-01T00:00:00.000Z")
    half = trivet("costs", "--since", "2026-11-22", "--until", "2026-11-23", "--json").json
    assert half["total"]["cost_usd"] == "0.123456789012"


def test_csv_is_exact_and_goes_to_a_file_or_to_standard_output(
    trivet: Callable[..., Said], ledger: World, tmp_path: Path
) -> None:
    said = trivet("costs", "--by", "route,tenant", *ALWAYS, "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["cost_usd"] for row in rows] == ["4.000000000000", "0.123456789012"]
    assert [row["unpriced"] for row in rows] == ["0", "1"]
    assert rows[0]["tenant"] == "'=acme", "a spreadsheet must not take it for a formula"
    target = tmp_path / "costs.csv"
    written = trivet("costs", "--by", "route,tenant", *ALWAYS, "--csv", str(target))
    assert (written.out, target.read_text()) == ("", said.out)
    assert trivet("costs", "--by", "", *ALWAYS, "--csv", "-").out.splitlines()[1].startswith("5,4,")


class Page(HTMLParser):
    """The content of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_the_page_loads_nothing_runs_nothing_and_has_the_figures(
    trivet: Callable[..., Said], ledger: World, tmp_path: Path
) -> None:
    target = tmp_path / "costs.html"
    said = trivet("costs", "--by", "batch,day", *ALWAYS, "--html", str(target))
    assert (said.code, said.out, said.err) == (0, "", f"Written to {target}.\n")
    content = target.read_text("utf-8")
    page = Page(content)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "b-contracts", "object"}
    assert not any({"src", "href", "onload", "onclick"} & set(attributes) for _, attributes in page.tags)
    assert not re.search(r"url\(|@import|https?://", content)
    assert "default-src 'none'" in content
    assert "<b>contracts</b>" not in content
    for figure in (
        "<b>contracts</b>", "2026-11-23", "$4.12", "$0.3000", "$4.0000", f"{MODEL} (as wire.{MODEL} on bedrock): 1",
        "No price is known for 1 call;", "$1.90", "calls that failed", "bedrock-us-east-1", "1,000,000",
    ):  # fmt: skip
        assert figure in page.text, figure
    rects = [attributes for tag, attributes in page.tags if tag == "rect"]
    # two days of spend, one of savings; a dollar is as tall in every column
    heights = [float(one["height"] or 0) for one in rects]
    assert len(heights) == 3
    assert heights[1] / heights[0] == pytest.approx(4 / 0.123456789012, rel=0.01)


def test_what_failed_calls_may_have_cost_is_shown_as_such(trivet: Callable[..., Said], world: World) -> None:
    world.batch("contracts", *specs(2))
    lease = world.lease()
    cut, good = world.take(lease, world.dispatch(2))
    end = End(JobState.FAILED, outcome=Outcome.TIMEOUT, error="it took too long")
    world.finish(finished(cut, lease, end, outcome=Outcome.TIMEOUT, cost="0.3", estimated=True))
    for said in (
        trivet("batch", "status", "contracts").out, trivet("batch", "list").out, trivet("job", "list").out,
        trivet("job", "show", cut.id).out, trivet("job", "result", cut.id).err,
    ):  # fmt: skip
        assert "at most $0.300000" in said, said
        assert "$0.00 " not in said, said
    (line,) = trivet("batch", "results", "contracts", "--now").out.splitlines()
    assert Decimal(orjson.loads(line)["estimated_usd"]) == Decimal("0.3")
    world.end(lease, [good], cost="2")
    progress = trivet("batch", "status", "contracts", "--json").json
    assert (Decimal(progress["cost_usd"]), Decimal(progress["estimated_usd"])) == (Decimal(2), Decimal("0.3"))
    assert "$2.00 + at most $0.300000" in trivet("batch", "status", "contracts").out


def test_a_page_of_nothing_says_so(trivet: Callable[..., Said], world: World) -> None:
    page = trivet("costs", "--html", "-").out
    assert "No call was made." in page
    assert page.endswith("</html>\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--by", "tag"], "--by: which tag? Name it, as in --by tag:team."),
        (["--by", "colour"], "or tag"),
        (["--until", "tomorrow"], "--until: 'tomorrow' is not a time."),
        (["--since", "1d", "--until", "2d"], "is before --since"),
        (
            ["--csv", "/nowhere/at/all.csv"],
            "/nowhere/at/all.csv cannot be written: No such file or directory. Name another file, or - to print it.",
        ),
        (["--csv"], "--csv: the file is missing. Name one, or - to print it."),
        (["--html", "--by", "day"], "--html: the file is missing. Name one, or - to print it."),
        (["--csv", "-", "--json"], "do not go together"),
        (["--csv", "-", "--watch"], "goes with the table"),
        (["--json", "reprice"], "options come after the sub-command"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    trivet: Callable[..., Said], world: World, arguments: list[str], error: str
) -> None:
    said = trivet("costs", *arguments)
    assert said.code == 2
    assert said.out == ""
    if error != "or tag":
        assert error in " ".join(said.err.split())
    else:
        assert "role, tag:NAME" in said.err
