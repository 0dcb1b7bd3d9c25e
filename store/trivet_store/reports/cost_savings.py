"""Savings by the providers' prompt caches, from the rows' own prices, and by Trivet's own cached answers."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, text

from trivet_store.ledger.spending import HOUR_S
from trivet_store.reports.costs import TIMES, Span, calls_in_scope, grouping
from trivet_store.schema import Usd, usd_sum
from trivet_tasks.catalog import bare_name
from trivet_tasks.prices import price_records
from trivet_tasks.prices.price_rates import EXACT
from trivet_tasks.tenant_scope import TenantScope, in_scope

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class CacheSaving:
    """Prompt caching of one model on one day (UTC). Amounts are USD, against the same calls without a cache."""

    day: str
    model: str
    read_tokens: int
    written_tokens: int
    saved_usd: Decimal
    """Additional cost that tokens read from the cache would have had as plain input."""
    surcharge_usd: Decimal
    """Additional cost of tokens written to the cache over plain input."""


ANSWERED_BY = ("hour", "day", "month", "class", "model", "batch")
"""Possible groups of answers from the response cache."""


@dataclass(frozen=True, slots=True)
class AnswerSaving:
    """Requests that were answered from the response cache; no call was made for them."""

    group: tuple[str, ...]
    hits: int
    saved_usd: Decimal
    """Cost of the calls that made the answers."""
    unpriced: int
    """Hits whose saving is not known; the sum lacks them."""


_ANSWERED = """
    SELECT hour AS started_at, latency, model, batch, hits, saved_usd, unpriced FROM cache_savings
     WHERE hour > :before AND hour < :until
"""
# The counters know no tenants: these are the jobs themselves, as long as they are kept. CROSS JOIN has SQLite begin with the
# cached ones; PostgreSQL decides for itself.
_ANSWERED_IN_SCOPE = """
    SELECT j.ended_at AS started_at, f.latency, f.model, coalesce(b.name, '') AS batch, 1 AS hits,
           coalesce(r.saved_usd, 0) AS saved_usd, CASE WHEN r.saved_usd IS NULL THEN 1 ELSE 0 END AS unpriced
      FROM job_results r
     CROSS JOIN jobs j
      JOIN flows f ON f.id = j.flow_id
      LEFT JOIN batches b ON b.id = j.batch_id
     WHERE r.cached AND j.id = r.job_id AND j.ended_at >= :since AND j.ended_at < :until{}
"""


def answer_savings(
    connection: Connection, by: Sequence[str], span: Span, *, scope: TenantScope | None = None
) -> list[AnswerSaving]:
    """Return the savings by the response cache in a span of whole hours, by some of `ANSWERED_BY` (none: one line).

    Args:
        scope: only jobs of this tenant that are still kept, over the exact span.
    """
    of_tenant, of_scope = in_scope(scope, "j.tenant")
    answered = _ANSWERED if scope is None else _ANSWERED_IN_SCOPE.format(of_tenant)
    times = dict(zip(TIMES, grouping(connection, list(TIMES)).columns, strict=True))
    columns = {**times, "class": "a.latency", "model": "a.model", "batch": "a.batch"}
    numbers = ", ".join(str(number + 1) for number in range(len(by)))
    statement = text(
        f"""
        SELECT {"".join(f"{columns[name]}, " for name in by)}
               sum(a.hits) AS hits, {usd_sum(connection.dialect, "a.saved_usd")} AS saved, sum(a.unpriced) AS unpriced
          FROM ({answered}) AS a
        {f"GROUP BY {numbers} ORDER BY {numbers}" if by else "HAVING sum(a.hits) > 0"}
        """
    ).columns(saved=Usd())
    since = {"before": span.since - HOUR_S} if scope is None else {"since": span.since}
    parameters = {**since, "until": span.until, **of_scope}
    return [
        AnswerSaving(
            tuple(str(name) for name in row[: len(by)]), int(row.hits), row.saved or Decimal(0), int(row.unpriced)
        )
        for row in connection.execute(statement, parameters)
    ]


def cache_savings(connection: Connection, span: Span, *, scope: TenantScope | None = None) -> list[CacheSaving]:
    """Return the savings of a span, by day and model. Calls without a price are left out.

    The sums over calls are the database's: rows of equal prices are one group, so few come back however many there are.

    Args:
        scope: only calls of this tenant's jobs.
    """
    of_tenant, of_scope = calls_in_scope(scope)
    (day,) = grouping(connection, ["day"]).columns
    statement = text(
        f"""
        SELECT {day} AS day, coalesce(a.model_used, a.model) AS model, a.list_price, a.multipliers,
               a.negotiated_price, sum(a.cache_read_tokens) AS read,
               sum(a.cache_write_5m_tokens) AS write_5m, sum(a.cache_write_1h_tokens) AS write_1h
          FROM attempts a
         WHERE a.started_at >= :since AND a.started_at < :until AND a.cost_usd IS NOT NULL AND NOT a.estimated
           AND a.list_price IS NOT NULL{of_tenant}
           AND (a.cache_read_tokens > 0 OR a.cache_write_5m_tokens > 0 OR a.cache_write_1h_tokens > 0)
         GROUP BY 1, 2, a.list_price, a.multipliers, a.negotiated_price
        """
    )
    found: dict[tuple[str, str], list[CacheSaving]] = defaultdict(list)
    for row in connection.execute(statement, {**span._asdict(), **of_scope}):
        cached = _Cached(int(row.read), int(row.write_5m), int(row.write_1h))
        price, factors = row.list_price, orjson.loads(row.multipliers or "{}")
        if row.negotiated_price is not None:
            price, factors = row.negotiated_price, {}
        found[row.day, row.model].append(_saving(row.day, row.model, cached, orjson.loads(price), factors))
    for saving in _of_mixed(connection, day, span, scope):
        found[saving.day, saving.model].append(saving)
    return [_together(parts) for _, parts in sorted(found.items())]


class _Cached(NamedTuple):
    """Tokens read from a cache, written to it for five minutes, and for an hour."""

    read: int
    short: int
    long: int


def _of_mixed(connection: Connection, day: str, span: Span, scope: TenantScope | None) -> Iterator[CacheSaving]:
    """The savings of calls whose passes differ in price, pass by pass."""
    of_tenant, of_scope = calls_in_scope(scope)
    statement = text(
        f"""
        SELECT {day} AS day, coalesce(a.model_used, a.model) AS model, a.price_parts
          FROM attempts a
         WHERE a.started_at >= :since AND a.started_at < :until AND a.cost_usd IS NOT NULL AND NOT a.estimated
           AND a.list_price IS NULL AND a.price_parts IS NOT NULL{of_tenant}
           AND (a.cache_read_tokens > 0 OR a.cache_write_5m_tokens > 0 OR a.cache_write_1h_tokens > 0)
        """
    )
    for row in connection.execute(statement, {**span._asdict(), **of_scope}):
        for part in price_records.read_priced_parts(row.price_parts):
            usage = part.usage
            cached = _Cached(usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens)
            if any(cached):
                model = bare_name(usage.model) if usage.model else row.model
                price, factors = part.list_price, part.multipliers
                if part.negotiated_price:
                    price, factors = part.negotiated_price, {}
                yield _saving(row.day, model, cached, price, factors)


def _saving(
    day: str, model: str, cached: _Cached, listed: Mapping[str, str], factors: Mapping[str, str]
) -> CacheSaving:
    price = {kind: Decimal(usd) for kind, usd in listed.items()}
    factor = Decimal(1)
    for value in factors.values():
        factor = EXACT.multiply(factor, Decimal(value))
    plain = price["input"]
    return CacheSaving(
        day,
        model,
        cached.read,
        cached.short + cached.long,
        _usd(factor, (cached.read, plain - price["cache_read"])),
        _usd(factor, (cached.short, price["cache_write_5m"] - plain), (cached.long, price["cache_write_1h"] - plain)),
    )


def _usd(factor: Decimal, *parts: tuple[int, Decimal]) -> Decimal:
    total = Decimal(0)
    for tokens, per_million in parts:
        total = EXACT.add(total, EXACT.multiply(EXACT.multiply(Decimal(tokens), per_million), factor))
    return EXACT.divide(total, _MILLION)


def _together(parts: list[CacheSaving]) -> CacheSaving:
    first = parts[0]
    return CacheSaving(
        first.day,
        first.model,
        sum(part.read_tokens for part in parts),
        sum(part.written_tokens for part in parts),
        sum((part.saved_usd for part in parts), Decimal(0)),
        sum((part.surcharge_usd for part in parts), Decimal(0)),
    )
