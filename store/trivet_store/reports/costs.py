"""Costs of calls, summed exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_store.schema import Usd, usd_sum
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.prices.price_records import NOTED
from trivet_tasks.tenant_scope import TenantScope, in_scope

TAG = "tag:"
"""Prefix of a tag's name: `tag:team` groups by the jobs' values of `team`."""

# the result of a succeeded job is that of its last claim; a realtime call and its hedge share it: the route tells
_ROLE = """
    CASE WHEN a.purpose = 'probe' THEN 'probe'
         WHEN a.outcome IS NULL THEN NULL
         WHEN a.outcome = 'succeeded' AND j.state = 'succeeded' AND a.claim = j.claim
              AND (a.latency <> 'realtime' OR j.attempts = 1 OR NOT EXISTS
                   (SELECT 1 FROM job_results r WHERE r.job_id = a.job_id AND r.route <> a.route)) THEN 'result'
         WHEN a.purpose = 'hedge' THEN 'hedge'
         WHEN a.outcome = 'succeeded' THEN 'late'
         WHEN a.outcome IN ('unknown', 'cancelled') THEN 'lost'
         ELSE 'failed' END
"""
GROUPINGS = {
    "route": "a.route",
    "model": "coalesce(a.model_used, a.model)",
    "provider": "a.provider",
    "class": "a.latency",
    "batch": "b.name",
    "tenant": "j.tenant",
    "hour": "",  # written per database below, as are days and months
    "day": "",
    "month": "",
    "outcome": "a.outcome",
    "purpose": "a.purpose",
    "role": _ROLE,
}
"""Groups of `trivet costs --by` beside tags, with their columns."""


TIMES = {
    "hour": ('YYYY-MM-DD"T"HH24:00"Z"', "%Y-%m-%dT%H:00Z"),
    "day": ("YYYY-MM-DD", "%Y-%m-%d"),
    "month": ("YYYY-MM", "%Y-%m"),
}
"""Groups by the time at which a call began (UTC), with their formats on PostgreSQL and SQLite. They sort as texts."""


class Span(NamedTuple):
    """Calls that began at or after one moment and before another, in seconds since the epoch."""

    since: float = 0.0
    until: float = 1e12


@dataclass(frozen=True, slots=True)
class CostRow:
    """One line of the report. Sums are USD, counts are calls, jobs and tokens."""

    group: tuple[str, ...]
    calls: int
    jobs: int
    """Jobs without Trivet's own probes, whose calls and cost are in the other figures."""
    input_tokens: int
    """All kinds of input; the next three are parts of it."""
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    cost_usd: Decimal
    """Settled calls only."""
    list_usd: Decimal
    """The same calls at list price. It differs where a route has negotiated prices."""
    estimated_usd: Decimal
    """An upper bound on calls in flight and calls whose fate is not known: timeouts and crashes."""
    approximate_usd: Decimal
    """The part of `cost_usd` that was priced approximately: no list names what was called, its model's price was taken."""
    unpriced: int
    """Calls for which no price is known; the sums lack them."""

    @property
    def plain_input_tokens(self) -> int:
        """Input tokens that were neither read from a prompt cache nor written to one."""
        return self.input_tokens - self.cache_read_tokens - self.cache_write_5m_tokens - self.cache_write_1h_tokens


class Unpriced(NamedTuple):
    """Calls for which no price is known."""

    provider: str
    model: str
    wire_model: str
    calls: int


class Grouping(NamedTuple):
    """Columns to group by, and the parameters they hold."""

    columns: tuple[str, ...]
    parameters: dict[str, str]


def summed(
    connection: Connection, by: Sequence[str], span: Span, *, probes: bool = True, scope: TenantScope | None = None
) -> list[CostRow]:
    """Return the costs of all calls of a span, grouped: by time where that is asked for, then dearest first.

    Args:
        by: names of `GROUPINGS`, or `tag:NAME`; a call without such a thing is in the group with an empty text.
        probes: whether Trivet's own probes are in it.
        scope: only calls of this tenant's jobs, without probes.

    Raises:
        InvalidRequest: a name is not known.
    """
    groups = grouping(connection, by)
    of_tenant, of_scope = _of_scope(scope)
    # by number: to PostgreSQL an expression with a parameter in it is another one each time
    numbers = ", ".join(str(number + 1) for number in range(len(by)))
    total = partial(usd_sum, connection.dialect)
    times = "".join(f"{number + 1}, " for number, name in enumerate(by) if name in TIMES)
    statement = text(
        f"""
        SELECT {"".join(f"{column}, " for column in groups.columns)}
               count(*) AS calls,
               count(DISTINCT CASE WHEN a.purpose <> 'probe' THEN a.job_id END) AS jobs,
               coalesce(sum(a.input_tokens + a.cache_read_tokens + a.cache_write_5m_tokens + a.cache_write_1h_tokens), 0)
                   AS input_tokens,
               coalesce(sum(a.cache_read_tokens), 0) AS cache_read,
               coalesce(sum(a.cache_write_5m_tokens), 0) AS cache_write_5m,
               coalesce(sum(a.cache_write_1h_tokens), 0) AS cache_write_1h,
               coalesce(sum(a.output_tokens), 0) AS output_tokens,
               {total("CASE WHEN a.estimated THEN 0 ELSE a.cost_usd END")} AS cost,
               {total("CASE WHEN a.estimated THEN 0 ELSE coalesce(a.list_usd, a.cost_usd) END")} AS listed,
               {total("CASE WHEN a.estimated THEN a.cost_usd ELSE 0 END")} AS estimated,
               {total("CASE WHEN a.price_terms LIKE :noted AND NOT a.estimated THEN a.cost_usd ELSE 0 END")} AS approximate,
               sum((CASE WHEN a.estimated THEN 0 ELSE a.cost_usd END) * 1.0) AS dearest,
               coalesce(sum(CASE WHEN a.cost_usd IS NULL THEN 1 ELSE 0 END), 0) AS unpriced
          FROM attempts a
          JOIN jobs j ON j.id = a.job_id
          LEFT JOIN batches b ON b.id = j.batch_id
         WHERE a.started_at >= :since AND a.started_at < :until {"" if probes else "AND a.purpose <> 'probe'"}{of_tenant}
        {f"GROUP BY {numbers}" if by else ""}
         ORDER BY {times}dearest DESC NULLS LAST{f", {numbers}" if by else ""}
        """
    ).columns(cost=Usd(), listed=Usd(), estimated=Usd(), approximate=Usd())
    parameters = {**span._asdict(), **groups.parameters, **of_scope, "noted": f"{NOTED}%"}
    return [
        CostRow(
            tuple("" if value is None else str(value) for value in row[: len(by)]),
            row.calls,
            row.jobs,
            int(row.input_tokens),
            int(row.cache_read),
            int(row.cache_write_5m),
            int(row.cache_write_1h),
            int(row.output_tokens),
            row.cost or Decimal(0),
            row.listed or Decimal(0),
            row.estimated or Decimal(0),
            row.approximate or Decimal(0),
            row.unpriced,
        )
        for row in connection.execute(statement, parameters)
    ]


def unpriced(connection: Connection, span: Span, *, scope: TenantScope | None = None) -> list[Unpriced]:
    """Return the calls for which no price is known, most calls first.

    Args:
        scope: as of `summed`.
    """
    of_tenant, of_scope = calls_in_scope(scope)
    statement = text(
        f"""
        SELECT a.provider, a.model, a.wire_model, count(*) AS calls FROM attempts a
         WHERE a.started_at >= :since AND a.started_at < :until AND a.cost_usd IS NULL{of_tenant}
         GROUP BY a.provider, a.model, a.wire_model ORDER BY calls DESC, a.provider, a.model, a.wire_model
        """
    )
    return [Unpriced(*row) for row in connection.execute(statement, {**span._asdict(), **of_scope})]


def calls_in_scope(scope: TenantScope | None) -> tuple[str, dict[str, str]]:
    """Return the condition that a call `a` is of a job of this tenant and no probe, begun with AND, and its parameters."""
    of_tenant, parameters = _of_scope(scope)
    exists = f" AND EXISTS (SELECT 1 FROM jobs j WHERE j.id = a.job_id{of_tenant})"
    return ("" if scope is None else exists), parameters


def _of_scope(scope: TenantScope | None) -> tuple[str, dict[str, str]]:
    of_tenant, parameters = in_scope(scope, "j.tenant")
    return ("" if scope is None else f"{of_tenant} AND a.purpose <> 'probe'"), parameters


def grouping(connection: Connection, by: Sequence[str]) -> Grouping:
    """The columns of these names, in order.

    Raises:
        InvalidRequest: a name is not known, or `tag` does not say which.
    """
    columns: list[str] = []
    parameters: dict[str, str] = {}
    for number, name in enumerate(by):
        if name.startswith(TAG) and name != TAG:
            parameters[f"tag{number}"] = name.removeprefix(TAG)
            columns.append(_tag(connection, f"tag{number}"))
        elif name in GROUPINGS:
            columns.append(_time(connection, name) if name in TIMES else GROUPINGS[name])
        elif name in ("tag", TAG):
            raise InvalidRequest("--by: which tag?", field="by", hint="Name it, as in --by tag:team.")
        else:
            known = ", ".join([*GROUPINGS, f"{TAG}NAME"])
            raise InvalidRequest(f"--by: {name!r} is not known.", field="by", hint=f"Use {known}.")
    return Grouping(tuple(columns), parameters)


def _time(connection: Connection, unit: str) -> str:
    on_postgresql, on_sqlite = TIMES[unit]
    if connection.dialect.name == "postgresql":
        return f"to_char(to_timestamp(a.started_at) AT TIME ZONE 'UTC', '{on_postgresql}')"
    return f"strftime('{on_sqlite}', a.started_at, 'unixepoch')"


def _tag(connection: Connection, parameter: str) -> str:
    """Return the column of a tag: by `json_each` on SQLite, because a path could not name every tag."""
    if connection.dialect.name == "postgresql":
        return f"CAST(j.tags AS json) ->> CAST(:{parameter} AS text)"
    return f"(SELECT value FROM json_each(j.tags) WHERE key = :{parameter})"
