"""Present spending by route, from the latest calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy import Connection, text

from trivet_store.schema import Usd, usd_sum

WINDOW_S = 300.0
"""Seconds of the past that count as now."""
SHORTEST_S = 60.0
"""Spending that began later than this is spread over this many seconds: one call is not an hour's rate."""
LOOK_BACK_S = 900.0
"""A call that began earlier is not read: the longest attempt of the default classes takes 600 s."""
MAX_CALLS = 5_000
"""Calls to read, the latest. If that many began within the window, it is as long as they reach back."""
_HOUR_S = 3_600
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class SpendRate:
    """USD per hour by route, over the calls that ended lately. Estimates of calls without a known end are in it."""

    by_route: Mapping[str, Decimal] = field(default_factory=dict)
    over_s: float = WINDOW_S
    """Seconds over which it was measured."""

    @property
    def usd_per_hour(self) -> Decimal:
        """Return the sum over all routes."""
        return sum(self.by_route.values(), Decimal(0))


def spend_rate(connection: Connection, now: float) -> SpendRate:
    """Return the present spending. `now` is the database's time, in seconds since the epoch."""
    statement = text(
        f"""
        WITH latest AS (SELECT route, started_at, latency_s, outcome, cost_usd FROM attempts
                         WHERE started_at >= :since ORDER BY started_at DESC LIMIT :most),
             reach AS (SELECT CASE WHEN count(*) < :most THEN 0 ELSE min(started_at) END AS oldest FROM latest)
        SELECT l.route, {usd_sum(connection.dialect, "l.cost_usd")} AS usd,
               min(l.started_at + coalesce(l.latency_s, 0)) AS first, max(r.oldest) AS oldest
          FROM latest l CROSS JOIN reach r
         WHERE l.outcome IS NOT NULL AND l.cost_usd IS NOT NULL
           AND l.started_at + coalesce(l.latency_s, 0) >= :from_ AND l.started_at + coalesce(l.latency_s, 0) >= r.oldest
         GROUP BY l.route ORDER BY l.route
        """
    ).columns(usd=Usd())
    asked = {"since": now - LOOK_BACK_S, "from_": now - WINDOW_S, "most": MAX_CALLS}
    rows = connection.execute(statement, asked).all()
    if not rows:
        return SpendRate()
    first = max(min(row.first for row in rows), max(row.oldest for row in rows))
    over_s = min(WINDOW_S, max(1.0 if rows[0].oldest else SHORTEST_S, now - first))
    hours = Decimal(f"{over_s:.3f}") / _HOUR_S
    return SpendRate({row.route: ((row.usd or Decimal(0)) / hours).quantize(_SMALLEST) for row in rows}, over_s)
