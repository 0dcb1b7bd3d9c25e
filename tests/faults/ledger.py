"""The cost ledger's view of calls, beside the provider's: rows of `attempts`, and how they must be priced."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import Enum

from sqlalchemy import select

from trivet_simulator.calls import Call
from trivet_store import schema
from trivet_store.database.engine import Store

HAIKU = "claude-haiku-4-5"
SONNET = "claude-sonnet-5-5"
USD = {HAIKU: (Decimal("0.000001"), Decimal("0.000005")), SONNET: (Decimal("0.000002"), Decimal("0.000010"))}
"""List prices per input and output token, as published for the first-party API and the global endpoints of both clouds
(genai-prices 0.2.3)."""


class Cost(Enum):
    """Expected row of a call in the ledger."""

    FREE = "free"
    """Free for certain: the provider refused it, or it never arrived."""
    BILLED = "billed"
    """Exactly the tokens that the provider reported."""
    ESTIMATED = "estimated"
    """Nothing was reported, and the work may have been done: the maximum cost, marked as an estimate."""
    UNSETTLED = "unsettled"
    """A part was reported before the answer broke off, so the bill is not known: an estimate, at most the maximum."""


@dataclass(frozen=True)
class Row:
    """One row of `attempts`, with the size of its job."""

    id: str
    job_id: str
    lease_id: str
    route: str
    model: str
    outcome: str | None
    status: int | None
    message: str | None
    purpose: str
    """`job` or `probe`."""
    started_at: float
    latency_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    estimated: bool
    input_estimate: int
    max_tokens: int

    @property
    def most_usd(self) -> Decimal:
        """The maximum cost."""
        return price(self.model, self.input_estimate, self.max_tokens)


def price(model: str, input_tokens: int, output_tokens: int) -> Decimal:
    """Return the list price of so many tokens."""
    per_input, per_output = USD[model]
    return input_tokens * per_input + output_tokens * per_output


def read_rows(store: Store, routes: Iterable[str]) -> list[Row]:
    """All attempts on some routes, in the order they were started."""
    a, j = schema.attempts, schema.jobs
    query = (
        select(a, j.c.input_estimate, j.c.max_tokens)
        .join(j, j.c.id == a.c.job_id)
        .where(a.c.route.in_(list(routes)))
        .order_by(a.c.started_at, a.c.id)
    )
    with store.read() as connection:
        found = connection.execute(query).mappings().all()
    names = [field.name for field in fields(Row)]
    return [Row(**{name: row[name] for name in names}) for row in found]


def check_cost(row: Row, call: Call | None, cost: Cost) -> None:
    """Assert that a row is priced as it must be, given what the provider logged of the call."""
    assert row.cost_usd is not None, row
    match cost:
        case Cost.FREE:
            assert row.cost_usd == 0, row
            assert not row.estimated, row
        case Cost.BILLED:
            assert call is not None
            assert call.usage is not None
            used = call.usage["input_tokens"], call.usage["output_tokens"]
            assert (row.input_tokens, row.output_tokens) == used
            assert (row.cost_usd, row.estimated) == (price(row.model, *used), False), row
        case Cost.ESTIMATED:
            assert (row.cost_usd, row.estimated) == (row.most_usd, True), row
        case Cost.UNSETTLED:
            assert row.estimated, row
            assert 0 < row.cost_usd <= row.most_usd, row


def audit(rows: Sequence[Row], calls: Sequence[Call], unreached: Iterable[str]) -> None:
    """Assert the rules of every ledger: a call is one row, a row is one call, and none is left open.

    Args:
        calls: all calls that reached these routes' providers.
        unreached: routes that refused connections for a while: only their rows may lack a call.
    """
    by_id = {row.id: row for row in rows}
    seen = [call.attempt for call in calls]
    assert len(set(seen)) == len(seen), "an attempt id travelled twice"
    for call in calls:
        assert call.attempt in by_id, f"a call without a row: {call}"
        assert by_id[call.attempt].route == call.provider
    for row in rows:
        assert row.outcome is not None, f"never settled: {row}"
        if row.id not in seen and row.latency_s != 0:  # 0: claimed when no time was left to call
            assert row.route in unreached, f"a row without a call: {row}"
    for call in calls:
        if call.complete and not call.client_gone:
            assert by_id[str(call.attempt)].outcome == "succeeded", f"a good answer was thrown away: {call}"
    results = [row.job_id for row in rows if row.outcome == "succeeded"]
    assert len(set(results)) == len(results), "a job was answered twice"
