"""Everything the page says, read from the ledger at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from trivet_store.reports.cost_savings import AnswerSaving, CacheSaving, answer_savings, cache_savings
from trivet_store.reports.costs import CostRow, Span, Unpriced, summed, unpriced


@dataclass(frozen=True, slots=True)
class Report:
    """The ledger of a span from several sides. Times are seconds since the epoch."""

    span: Span
    by: tuple[str, ...]
    rows: Sequence[CostRow]
    total: CostRow
    daily: Sequence[CostRow]
    """By day and route."""
    jobs: Sequence[CostRow]
    """By class and model, without Trivet's probes."""
    roles: Sequence[CostRow]
    savings: Sequence[CacheSaving]
    answered: Sequence[AnswerSaving]
    """By day, class and model."""
    unpriced: Sequence[Unpriced]


def gather(connection: Connection, by: Sequence[str], span: Span) -> Report:
    """Read it all.

    Raises:
        InvalidRequest: a name of `by` is not known.
    """
    rows = summed(connection, by, span) if by else []
    (total,) = summed(connection, [], span)
    return Report(
        span=span,
        by=tuple(by),
        rows=rows,
        total=total,
        daily=summed(connection, ["day", "route"], span),
        jobs=summed(connection, ["class", "model"], span, probes=False),
        roles=summed(connection, ["role"], span),
        savings=cache_savings(connection, span),
        answered=answer_savings(connection, ["day", "class", "model"], span),
        unpriced=unpriced(connection, span),
    )
