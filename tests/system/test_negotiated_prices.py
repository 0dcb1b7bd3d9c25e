"""Negotiated prices through the whole system: the ledger, the list price beside, the order by cost, and pricing again."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.command_line import Said
from tests.databases import new_database, rows

from trivet.testing import RunningTrivet, running_trivet

MODEL = "claude-sonnet-5-5"
IN_TIME_S = 60.0
CHEAP = "vertex-global"
PRICES: dict[str, dict[str, Any]] = {
    CHEAP: {"prices": [{"from": "2026-01-01", "factor": "0.5"}]},
    "anthropic": {"prices": [{"from": "2026-01-01", "usd": {"input": 50, "output": 100}}]},
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """Three routes: one at half the list price, one far above it, one without a contract."""
    url = new_database(request, "negotiated")
    folder: Path = tmp_path_factory.mktemp("negotiated")
    with running_trivet(folder, store_url=url, route_settings=PRICES) as running:
        yield running


def row_of(trivet: Callable[..., Said]) -> dict[str, Any]:
    (row,) = [row for row in trivet("costs", "--json").json["rows"] if row["route"] == CHEAP]
    return dict(row)


def test_calls_are_booked_at_the_negotiated_price_with_the_list_price_beside(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    batch = system.client.submit_many(
        ({"prompt": f"Letter {number}"} for number in range(20)), name="letters", model=MODEL, max_tokens=200
    )
    results = list(batch.results(timeout=IN_TIME_S))
    assert {(result.status, result.route) for result in results} == {("succeeded", CHEAP)}, "half the price goes first"

    for row in rows(system.settings, "SELECT * FROM attempts WHERE purpose = 'job'"):
        charged = orjson.loads(row.negotiated_price)
        assert (charged["input"], charged["output"]) == ("1", "5"), "the list has 2 and 10 USD a million"
    assert batch.progress().cost_usd == sum(result.cost_usd or 0 for result in results)
    booked = row_of(trivet)
    assert Decimal(booked["cost_usd"]) * 2 == Decimal(booked["list_usd"]) > 0
    assert "AT LIST PRICE" in trivet("costs").out

    file = Path(system.settings.source)
    own = file.read_text("utf-8")
    assert own.count('"factor" = "0.5"') == 1
    file.write_text(own.replace('"factor" = "0.5"', '"factor" = "0.25"'), "utf-8")
    said = trivet("costs", "reprice").out
    assert f"prices in this configuration of {CHEAP}, which are not in force" in " ".join(said.split())
    assert trivet("config", "apply").code == 0
    done = trivet("costs", "reprice", "--apply", "--json").json
    assert done["not_in_force"] == []
    again = row_of(trivet)
    assert Decimal(again["cost_usd"]) * 4 == Decimal(again["list_usd"]) == Decimal(booked["list_usd"])
    assert batch.progress().cost_usd * 2 == sum(result.cost_usd or 0 for result in results)
