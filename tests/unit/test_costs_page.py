"""The plots of the page of costs: columns without a gap, round scales, no amount left out."""

from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from importlib import resources

import pytest

from trivet.costs_page.charts import COLOURS, Amount, Bar, Series, bars, fewest, plot, scale, stacked, usd
from trivet_store.reports.costs import Span


def at(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def one(day: str, series: str = "r", amount: str = "1") -> Amount:
    return Amount(day, series, Decimal(amount))


def test_days_without_calls_are_columns_too() -> None:
    found = plot([one("2026-11-03", "b"), one("2026-11-01"), one("2026-11-03", "b", "2")], Span(0, at("2026-11-05")))
    assert found.columns == ["1 Nov", "2 Nov", "3 Nov", "4 Nov"]
    assert {s.name: [int(amount) for amount in s.amounts] for s in found.series} == {
        "r": [1, 0, 0, 0],
        "b": [0, 0, 3, 0],
    }


@pytest.mark.parametrize(
    ("first", "unit", "columns"), [("2026-09-20", "day", 62), ("2026-09-19", "week", 10), ("2025-01-15", "month", 23)]
)
def test_long_spans_have_wider_columns_and_lose_nothing(first: str, unit: str, columns: int) -> None:
    amounts = [one(first), one("2026-11-20", amount="0.000000000001"), one("2026-10-31")]
    found = plot(amounts, Span(0, at("2026-11-21")))
    assert (found.unit, len(found.columns)) == (unit, columns)
    assert sum(found.series[0].amounts) == Decimal("2.000000000001")


def test_an_unbounded_span_ends_with_its_last_day() -> None:
    assert plot([], Span()).columns == []
    assert plot([one("2026-11-20")], Span(0, at("2026-11-20") + 1)).columns == ["20 Nov"]


@pytest.mark.parametrize("largest", ["0.000001", "0.0123", "0.99", "1", "3.86", "9.99", "10", "1234.5", "7e6"])
def test_scales_are_round_and_reach_the_top(largest: str) -> None:
    ticks = scale(Decimal(largest))
    assert 4 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-2] < Decimal(largest) <= ticks[-1]
    assert str(ticks[1].normalize().as_tuple().digits) in ("(1,)", "(2,)", "(2, 5)", "(5,)")
    assert scale(Decimal(0)) == [0, 1]


def test_more_series_than_colours_become_one_and_nothing_is_lost() -> None:
    series = [Series(f"r{number}", [Decimal(number), Decimal(1)]) for number in range(15)]
    shown = fewest(series)
    assert len(shown) == len(COLOURS)
    assert shown[0].name == "r14"
    assert shown[-1].name == "other (6)"
    assert [sum(column) for column in zip(*(s.amounts for s in shown), strict=True)] == [sum(range(15)), 15]


def test_labels_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    drawn = stacked(evil, [evil], [Series(evil, [Decimal(1)])]) + bars([Bar(evil, Decimal(1), evil, evil)])
    tags: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)  # type: ignore[method-assign]
    parser.feed(drawn)
    assert tags == {"ul", "li", "i", "b", "svg", "line", "text", "rect", "title", "div"}


@pytest.mark.parametrize(
    ("amount", "said"),
    [("0", "$0"), ("1234.567", "$1,234.57"), ("0.5", "$0.5000"), ("-2", "−$2.00"), ("0.00001", "$0.000010")],
)
def test_amounts_as_people_read_them(amount: str, said: str) -> None:
    assert usd(Decimal(amount)) == said


@pytest.mark.parametrize("place", [".card b", ".bars .amount", ".bars .note", ".legend b", ".number"])
def test_a_minus_and_its_amount_stay_on_one_line(place: str) -> None:
    style = resources.files("trivet.costs_page").joinpath("page.css").read_text("utf-8")
    (rule,) = [line for line in style.splitlines() if line.startswith(f"{place} {{")]
    assert "white-space: nowrap" in rule
