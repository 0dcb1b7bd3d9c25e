"""What calls cost, summed exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, text

from trivet_tasks.errors import InvalidRequest
from trivet_tasks.store.schema import Usd

GROUPINGS = {
    "route": "a.route",
    "model": "a.model",
    "provider": "a.provider",
    "class": "a.latency",
    "outcome": "a.outcome",
    "purpose": "a.purpose",
    "batch": "b.name",
    "tenant": "j.tenant",
    "day": "",  # written per database below
}
"""What `trivet costs --by` may name, and the column it means."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """One line of the report. Sums are USD, counts are calls, jobs and tokens."""

    group: tuple[str, ...]
    calls: int
    jobs: int
    """Without Trivet's own probes, whose calls and cost are in the other figures."""
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    """Settled calls only."""
    estimated_usd: Decimal
    """An upper bound on calls whose fate is not known: timeouts and crashes."""
    unpriced: int
    """Calls that used tokens for which no price is known."""


def summed(connection: Connection, by: Sequence[str], since: float) -> list[CostRow]:
    """Costs of all calls since a time, grouped, dearest first."""
    columns = [_column(connection, name) for name in by]
    grouped = ", ".join(columns)
    statement = text(
        f"""
        SELECT {grouped + "," if grouped else ""}
               count(*) AS calls,
               count(DISTINCT CASE WHEN a.purpose <> 'probe' THEN a.job_id END) AS jobs,
               coalesce(sum(a.input_tokens + a.cache_read_tokens + a.cache_write_5m_tokens + a.cache_write_1h_tokens), 0)
                   AS input_tokens,
               coalesce(sum(a.output_tokens), 0) AS output_tokens,
               sum(CASE WHEN a.estimated THEN 0 ELSE a.cost_usd END) AS cost,
               sum(CASE WHEN a.estimated THEN a.cost_usd ELSE 0 END) AS estimated,
               coalesce(sum(CASE WHEN a.cost_usd IS NULL AND a.output_tokens > 0 THEN 1 ELSE 0 END), 0) AS unpriced
          FROM attempts a
          JOIN jobs j ON j.id = a.job_id
          LEFT JOIN batches b ON b.id = j.batch_id
         WHERE a.started_at >= :since
        {"GROUP BY " + grouped if grouped else ""}
         ORDER BY cost DESC NULLS LAST
        """
    ).columns(cost=Usd(), estimated=Usd())
    return [
        CostRow(
            tuple("" if value is None else str(value) for value in row[: len(by)]),
            row.calls,
            row.jobs,
            row.input_tokens,
            row.output_tokens,
            row.cost or Decimal(0),
            row.estimated or Decimal(0),
            row.unpriced,
        )
        for row in connection.execute(statement, {"since": since})
    ]


def _column(connection: Connection, name: str) -> str:
    if name not in GROUPINGS:
        raise InvalidRequest(f"--by: {name!r} is not known.", field="by", hint=f"Use {', '.join(GROUPINGS)}.")
    if name != "day":
        return GROUPINGS[name]
    if connection.dialect.name == "postgresql":
        return "to_char(to_timestamp(a.started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    return "strftime('%Y-%m-%d', a.started_at, 'unixepoch')"
