"""What the providers' prompt caches saved, worked out from the rows' own prices."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact

import orjson
from sqlalchemy import Connection, text

from trivet_tasks.store.cost_groups import grouping
from trivet_tasks.store.costs import Span

_EXACT = Context(prec=60, traps=[Inexact])
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class CacheSaving:
    """Prompt caching of one model on one day (UTC). Amounts are USD, against the same calls without a cache."""

    day: str
    model: str
    read_tokens: int
    written_tokens: int
    saved_usd: Decimal
    """What tokens read from the cache would have cost more as plain input."""
    surcharge_usd: Decimal
    """What tokens written to the cache cost more than plain input."""


def cache_savings(connection: Connection, span: Span) -> list[CacheSaving]:
    """The savings of a span, by day and model. Calls without a price are left out.

    The sums over calls are the database's: rows of equal prices are one group, so few come back however many there are.
    """
    (day,) = grouping(connection, ["day"]).columns
    statement = text(
        f"""
        SELECT {day} AS day, a.model, a.list_price, a.multipliers, sum(a.cache_read_tokens) AS read,
               sum(a.cache_write_5m_tokens) AS write_5m, sum(a.cache_write_1h_tokens) AS write_1h
          FROM attempts a
         WHERE a.started_at >= :since AND a.started_at < :until AND a.cost_usd IS NOT NULL AND NOT a.estimated
           AND a.list_price IS NOT NULL
           AND (a.cache_read_tokens > 0 OR a.cache_write_5m_tokens > 0 OR a.cache_write_1h_tokens > 0)
         GROUP BY 1, a.model, a.list_price, a.multipliers
        """
    )
    found: dict[tuple[str, str], list[CacheSaving]] = defaultdict(list)
    for row in connection.execute(statement, span._asdict()):
        price = {kind: Decimal(usd) for kind, usd in orjson.loads(row.list_price).items()}
        factor = Decimal(1)
        for value in orjson.loads(row.multipliers or "{}").values():
            factor = _EXACT.multiply(factor, Decimal(value))
        read, short, long = int(row.read), int(row.write_5m), int(row.write_1h)
        plain = price["input"]
        found[row.day, row.model].append(
            CacheSaving(
                row.day,
                row.model,
                read,
                short + long,
                _usd(factor, (read, plain - price["cache_read"])),
                _usd(factor, (short, price["cache_write_5m"] - plain), (long, price["cache_write_1h"] - plain)),
            )
        )
    return [_together(parts) for _, parts in sorted(found.items())]


def _usd(factor: Decimal, *parts: tuple[int, Decimal]) -> Decimal:
    total = Decimal(0)
    for tokens, per_million in parts:
        total = _EXACT.add(total, _EXACT.multiply(_EXACT.multiply(Decimal(tokens), per_million), factor))
    return _EXACT.divide(total, _MILLION)


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
