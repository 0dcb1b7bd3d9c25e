"""Usage records priced by hand, in `usage_records.csv`: the price book must come to the same, to the last digit."""

import ast
import csv
import re
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.price_book import PriceBook

FILE = Path(__file__).with_name("usage_records.csv")
LINES = FILE.read_text("utf-8").splitlines()
RECORDS = list(csv.DictReader(line for line in LINES if not line.startswith("#")))
SOURCES = {found[1] for line in LINES if (found := re.match(r"# (\w+) = ", line))}
KINDS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
BOOK = PriceBook()


def worked_out(arithmetic: str) -> Decimal:
    """Evaluate a line of sums and products, in decimals."""

    def value(node: ast.expr) -> Decimal:
        match node:
            case ast.Constant():
                return Decimal(ast.get_source_segment(arithmetic, node) or "")
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return value(left) / value(right)
        raise AssertionError(ast.dump(node))

    return value(ast.parse(arithmetic, mode="eval").body)


def usage_of(record: dict[str, str]) -> Usage:
    tokens_in, tokens_out, cache_read, write_5m, write_1h = (int(record[kind]) for kind in KINDS)
    return Usage(
        tokens_in,
        tokens_out,
        cache_read,
        write_5m,
        write_1h,
        web_searches=int(record["web_searches"]),
        service_tier=record["service_tier"] or None,
        inference_geo=record["inference_geo"] or None,
        speed=record["speed"] or None,
    )


def test_there_are_records_of_every_kind() -> None:
    assert len(RECORDS) >= 200
    by = Counter((record["provider"], record["how"]) for record in RECORDS)
    for provider, exact in (("anthropic", 90), ("bedrock", 50), ("vertex", 40)):
        assert by[provider, "exact"] >= exact
        assert min(by[provider, "approximate"], by[provider, "unpriced"]) >= 3
        theirs = [record for record in RECORDS if record["provider"] == provider and record["how"] == "exact"]
        for kind in KINDS:
            assert sum(int(record[kind]) > 0 for record in theirs) >= 15, (provider, kind)


@pytest.mark.parametrize("record", RECORDS, ids=[f"line-{number + 1}" for number in range(len(RECORDS))])
def test_priced_as_by_hand(record: dict[str, str]) -> None:
    usage = usage_of(record)
    priced = BOOK.price(
        record["provider"],  # type: ignore[arg-type]
        record["model"],
        record["wire_model"],
        record["region"] or None,
        datetime.fromisoformat(f"{record['day']}T12:00:00+00:00"),
        usage,
    )
    assert set(record["sources"].split()) <= SOURCES
    assert record["sources"]
    if record["how"] == "unpriced":
        assert (priced.cost_usd, record["usd"], record["arithmetic"]) == (None, "unpriced", "")
        assert priced.note
        return
    # the figure is what its arithmetic says, and the arithmetic is of these tokens
    assert worked_out(record["arithmetic"]) == Decimal(record["usd"])
    counted = [int(count) for count in re.findall(r"(?:^\(|\+ )(\d+)\*", record["arithmetic"])]
    assert counted == [int(record[kind]) for kind in KINDS if record[kind] != "0"] + (
        [usage.web_searches] if usage.web_searches else []
    )
    assert priced.cost_usd == Decimal(record["usd"])
    assert priced.estimated == (record["how"] == "approximate"), priced.note
