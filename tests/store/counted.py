"""Spending by the counters and by the ledger: both must agree to the last digit."""

from collections import defaultdict
from decimal import Decimal
from typing import TypeAlias

from sqlalchemy import text
from tests.store.world import World

from trivet_store.schema import Usd

Sums: TypeAlias = dict[tuple[int, str, int | None, str], tuple[Decimal, Decimal, int, int]]
"""By (day, route, None, labels) and (day, route, batch, no labels): settled, estimated, calls, calls without a price."""

_ATTEMPTS = text(
    """
    SELECT a.started_at, a.route, f.batch_id, f.labels, a.cost_usd, a.estimated
      FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN flows f ON f.id = j.flow_id WHERE a.outcome IS NOT NULL
    """
).columns(cost_usd=Usd())
_SPEND = text("SELECT * FROM spend").columns(settled_usd=Usd(), estimated_usd=Usd())


def check_spend(world: World) -> Sums:
    """Assert that the counters are what the ledger sums up to; returns them."""
    summed: Sums = defaultdict(lambda: (Decimal(0), Decimal(0), 0, 0))
    counted: Sums = defaultdict(lambda: (Decimal(0), Decimal(0), 0, 0))
    with world.store.read() as connection:
        for row in connection.execute(_ATTEMPTS):
            day = int(row.started_at // 86_400)
            places = [(day, row.route, None, row.labels)]
            places += [] if row.batch_id is None else [(day, row.route, row.batch_id, "{}")]
            cost = row.cost_usd or Decimal(0)
            for place in places:
                settled, estimated, calls, unpriced = summed[place]
                summed[place] = (
                    settled + (0 if row.estimated else cost),
                    estimated + (cost if row.estimated else 0),
                    calls + 1,
                    unpriced + (row.cost_usd is None),
                )
        for row in connection.execute(_SPEND):
            place = (row.day, row.route, row.batch_id, row.labels)
            before = counted[place]
            counted[place] = (
                before[0] + row.settled_usd, before[1] + row.estimated_usd, before[2] + row.calls, before[3] + row.unpriced,
            )  # fmt: skip
    assert counted == summed
    return counted
