"""`trivet costs --watch`: the present spending above the report; a database that is away is shown."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from tests.command_line import Said
from tests.store.world import ROUTE, World
from tests.timing import PATIENCE_S

from trivet.admin import CostReport, SpendRate
from trivet.cli.costs import CostWatch, rate_words
from trivet_store.reports.costs import CostRow, Span
from trivet_tasks.errors import StoreUnavailable

NOTHING = Decimal(0)


def report(calls: int = 2) -> CostReport:
    total = CostRow((), calls, calls, 10, 0, 0, 0, 5, Decimal(1), Decimal(1), NOTHING, NOTHING, 0)
    return CostReport(Span(0.0, 1.0), (), [], total, [], [], (), [])


def test_the_present_spending_is_told_by_route() -> None:
    rate = SpendRate({"a": Decimal("0.5"), "b": Decimal(2)}, 300.0)
    assert rate_words(rate) == "Now: $2.50 an hour (b $2.00, a $0.500000), by the calls of the last 5 min."
    assert rate_words(SpendRate()) == "Now: no call ended in the last 5 min."


def test_a_database_that_goes_away_is_shown_above_the_last_reading() -> None:
    answers: Iterator[tuple[CostReport, SpendRate] | Exception] = iter(
        [(report(), SpendRate({ROUTE: Decimal(3)})), StoreUnavailable("The database is away.")]
    )

    def read() -> tuple[CostReport, SpendRate]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = CostWatch(read)
    watch.look()
    assert watch.lines(80)[0].plain == "Now: $3.00 an hour, by the calls of the last 5 min."
    assert json.loads(watch.as_json())["now"] == {"usd_per_hour": "3", "by_route": {ROUTE: "3"}, "over_s": 300.0}
    watch.look()
    shown = [line.plain for line in watch.lines(80)]
    assert (shown[0], shown[1][:11]) == ("The database is away.", "Now: $3.00 ")
    assert json.loads(watch.as_json())["impairment"] == "The database is away."


@pytest.mark.parametrize("as_json", [False, True])
def test_readings_are_printed_one_below_the_other(
    world: World, trivet: Callable[..., Said], tmp_path: Path, as_json: bool
) -> None:
    lease, jobs = world.running(2)
    world.end(lease, jobs, cost="1")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "trivet", "--config", str(tmp_path / "trivet.toml"), "costs", "--watch", "--interval", "0.1",
            *(["--json"] if as_json else []),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2 if as_json else 16)]
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, "")
    if as_json:
        assert {json.loads(line)["now"]["by_route"][ROUTE] for line in lines} == {"120.000000"}
        return
    assert sum(line.startswith("Now: $120.00 an hour, ") for line in lines) >= 2
    assert sum(line.startswith("ROUTE") for line in lines) >= 2
