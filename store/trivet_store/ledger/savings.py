"""Savings by answers from the cache, counted by the hour: the sums stay when the jobs are pruned."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from sqlalchemy import Connection, bindparam, text

from trivet_store.schema import Usd
from trivet_store.steps import Ended

HOUR_S = 3_600

_ADD = text(
    """
    INSERT INTO cache_savings (hour, latency, model, batch, hits, unpriced, saved_usd)
    VALUES (:hour, :latency, :model, :batch, :hits, :unpriced, :saved_usd)
    ON CONFLICT (hour, latency, model, batch) DO UPDATE
       SET hits = cache_savings.hits + excluded.hits, unpriced = cache_savings.unpriced + excluded.unpriced,
           saved_usd = cache_savings.saved_usd + excluded.saved_usd
    """
).bindparams(bindparam("saved_usd", type_=Usd()))


def note_hits(connection: Connection, ended: Sequence[Ended], names: Mapping[int, str], now: float) -> None:
    """Count the jobs that were answered from the cache.

    Args:
        names: of their batches.
    """
    found: dict[tuple[str, str, str], list[Decimal | None]] = {}
    for entry in ended:
        if entry.end.hit is not None:
            batch = "" if entry.batch_id is None else names[entry.batch_id]
            found.setdefault((entry.end.hit.latency, entry.end.hit.model, batch), []).append(entry.end.hit.saved_usd)
    for (latency, model, batch), amounts in sorted(found.items()):
        connection.execute(
            _ADD,
            {
                "hour": int(now) // HOUR_S * HOUR_S,
                "latency": latency,
                "model": model,
                "batch": batch,
                "hits": len(amounts),
                "unpriced": amounts.count(None),
                "saved_usd": sum((amount for amount in amounts if amount is not None), Decimal(0)),
            },
        )
