"""The figures of a line of costs, by the names they have in JSON and CSV."""

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet_store.reports.cost_savings import CacheSaving
    from trivet_store.reports.costs import CostRow

FIGURES = ("calls", "jobs", "input_tokens", "output_tokens", "cost_usd", "estimated_usd", "likened_usd", "unpriced")


def figures(row: "CostRow") -> dict[str, int | Decimal]:
    """All figures of a line; amounts are USD, exact."""
    return {name: getattr(row, name) for name in FIGURES}


def saving(one: "CacheSaving") -> dict[str, str | int | Decimal]:
    """What prompt caches saved for one model on one day; amounts are USD, exact."""
    return {
        "day": one.day,
        "model": one.model,
        "read_tokens": one.read_tokens,
        "written_tokens": one.written_tokens,
        "saved_usd": one.saved_usd,
        "surcharge_usd": one.surcharge_usd,
    }


def digits(largest: Decimal) -> int:
    """Decimals of every amount of a report, so that they stand under one another."""
    return 2 if largest >= 1_000 else 4 if largest >= 1 else 6
