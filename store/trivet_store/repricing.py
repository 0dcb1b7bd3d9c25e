"""Pricing settled calls again, from what their rows keep, at today's lists and rules.

Calls are read in the order in which they began, a page at a time, and changed prices are written in short transactions:
the rows of the calls, the costs of their jobs and the sums of their batches together. Each is complete by itself, so a
run may be interrupted and repeated at any time, and two may run at once, beside running workers.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Row, bindparam, text

from trivet_store.database.batched_scan import READ_ROWS, turn
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import select_locked
from trivet_store.jobs.ending import book_again, costs_of
from trivet_store.ledger import spending
from trivet_store.reports.costs import Span
from trivet_store.schema import Usd
from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices import price_records
from trivet_tasks.prices.price_book import PriceBook, is_newer
from trivet_tasks.prices.price_records import PriceRecord
from trivet_tasks.states import END_STATES


class Tally(NamedTuple):
    """Calls priced again, with their costs before and after; unpriced calls count as nothing. Amounts are USD."""

    calls: int = 0
    changed: int = 0
    """The calls whose cost changes."""
    before_usd: Decimal = Decimal(0)
    after_usd: Decimal = Decimal(0)
    unpriced_before: int = 0
    unpriced_after: int = 0

    def __add__(self, other: tuple[Any, ...]) -> "Tally":
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


Tallies = Mapping[tuple[str, str], Tally]
"""Results by model and route."""


class Extent(NamedTuple):
    """The extent of a run."""

    calls: int
    """Settled calls whose rows keep the terms of their price."""
    without_terms: int
    """Settled calls with tokens whose rows do not keep them. They are left unchanged."""


class _Repriced(NamedTuple):
    """A call and its new price."""

    id: str
    job_id: str
    record: PriceRecord


_PRICED_BY = tuple(name for name in PriceRecord._fields if name not in ("cost_usd", "price_version"))
"""Columns that a price is made from."""
_EXTENT = text(
    """
    SELECT coalesce(sum(CASE WHEN price_terms IS NOT NULL THEN 1 ELSE 0 END), 0) AS calls,
           coalesce(sum(CASE WHEN price_terms IS NULL AND NOT estimated AND input_tokens + output_tokens > 0
                             THEN 1 ELSE 0 END), 0) AS without_terms
      FROM attempts WHERE started_at >= :since AND started_at < :until
    """
)
_VERSIONS = text(
    """
    SELECT DISTINCT price_version FROM attempts
     WHERE started_at >= :since AND started_at < :until AND price_terms IS NOT NULL AND price_version IS NOT NULL
    """
)
_PAGE = text(
    """
    SELECT id, job_id, provider, model, wire_model, route, started_at, input_tokens, output_tokens, cache_read_tokens,
           cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, list_price, multipliers, price_terms, price_parts,
           model_used, list_usd, negotiated_price
      FROM attempts
     WHERE started_at >= :at AND (started_at > :at OR id > :after) AND started_at < :until AND price_terms IS NOT NULL
     ORDER BY started_at, id LIMIT :limit
    """
).columns(cost_usd=Usd(), list_usd=Usd())
_HOLD_JOBS = "SELECT id, state, batch_id FROM jobs WHERE id IN :ids ORDER BY id {FOR UPDATE}"
_WRITE = text(
    """
    UPDATE attempts SET cost_usd = :cost_usd, list_price = :list_price, multipliers = :multipliers,
                        price_version = :price_version, price_terms = :price_terms, price_parts = :price_parts,
                        model_used = :model_used, list_usd = :list_usd, negotiated_price = :negotiated_price
     WHERE id = :id
    """
).bindparams(bindparam("cost_usd", type_=Usd()), bindparam("list_usd", type_=Usd()))
Prices: TypeAlias = Mapping[str, tuple[RoutePrice, ...]]
"""Negotiated prices by route."""


def extent(store: Store, span: Span) -> Extent:
    """Return the number of calls that a run will price."""
    with store.read() as connection:
        return Extent(*connection.execute(_EXTENT, span._asdict()).one())


def priced_by_newer(store: Store, book: PriceBook, span: Span) -> list[str]:
    """Return versions of lists and rules newer than the book's, by which calls of the span were priced."""
    with store.read() as connection:
        found = connection.execute(_VERSIONS, span._asdict()).scalars().all()
    return sorted(version for version in found if is_newer(version, book.version))


def reprice(
    store: Store, book: PriceBook, span: Span, *, prices: Prices | None = None, apply: bool = False
) -> Iterator[Tallies]:
    """Price the settled calls of a span again, page by page; write what differs only if told to apply it.

    A call keeps the price of its own day, as today's lists and rules have it. Yields the result of each page once it is
    written.

    Args:
        prices: negotiated prices of routes as they are today. A call on another route keeps the one that it was charged.

    Raises:
        StoreUnavailable: the database does not answer. What was done until then stays done.
    """
    at, after = span.since, ""
    while True:
        with store.read() as connection:
            rows = connection.execute(_PAGE, {"at": at, "after": after, "until": span.until, "limit": READ_ROWS}).all()
        tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
        new: list[_Repriced] = []
        for row in rows:
            record = _priced(book, row, prices or {})
            before, cost = row.cost_usd or Decimal(0), record.cost_usd or Decimal(0)
            changed = record.cost_usd != row.cost_usd
            unpriced = (int(row.cost_usd is None), int(record.cost_usd is None))
            tallies[row.model_used or row.model, row.route] += Tally(1, int(changed), before, cost, *unpriced)
            if changed or any(getattr(row, name) != getattr(record, name) for name in _PRICED_BY):
                new.append(_Repriced(row.id, row.job_id, record))
        if apply:
            for first in range(0, len(new), BULK_ROWS):
                with turn(store) as connection:
                    _write(connection, new[first : first + BULK_ROWS])
        if rows:
            yield tallies
            at, after = rows[-1].started_at, rows[-1].id
        if len(rows) < READ_ROWS:
            return


def _priced(book: PriceBook, row: Row[Any], prices: Prices) -> PriceRecord:
    terms, began = price_records.read_terms(row.price_terms), datetime.fromtimestamp(row.started_at, UTC)
    usage = Usage(
        row.input_tokens,
        row.output_tokens,
        row.cache_read_tokens,
        row.cache_write_5m_tokens,
        row.cache_write_1h_tokens,
        terms.web_searches,
        terms.service_tier,
        terms.inference_geo,
        terms.speed,
        row.model_used,
        terms.refused,
        terms.doubt,
        price_records.read_parts(row.price_parts) if row.price_parts else (),
    )
    charged = prices.get(row.route)
    if charged is None:
        charged = (RoutePrice.model_validate_json(terms.contract),) if terms.contract else ()
    priced = book.price(row.provider, row.model, row.wire_model, terms.region, began, usage, prices=charged)
    return price_records.record_of(priced, terms.region, usage)


def _write(connection: Connection, new: Sequence[_Repriced]) -> None:
    """Write new prices under the same locks as settling: first jobs, then attempts, then batches."""
    ids = sorted({one.job_id for one in new})
    held = select_locked(connection, _HOLD_JOBS, ids=ids)
    batch_of = {row.id: row.batch_id for row in held if row.state in END_STATES}
    before = costs_of(connection, list(batch_of))
    counted = spending.calls(connection, [one.id for one in new])
    connection.execute(_WRITE, [{"id": one.id, **one.record._asdict()} for one in new])
    book_again(connection, batch_of, before)
    spending.book_priced(connection, counted, ((one.id, one.record.cost_usd) for one in new))
