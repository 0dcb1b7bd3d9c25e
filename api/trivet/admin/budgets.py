"""Budgets: their status, which of them holds a job, and raising the limit of the current window."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from trivet.admin.group import Group
from trivet.client.connections import current_operator
from trivet_routing import budget_headroom
from trivet_routing.budget_headroom import Balance
from trivet_store.cluster.registry import RegisteredRoute, registered
from trivet_store.database.engine import Connection
from trivet_store.ledger import budgets
from trivet_store.ledger.budgets import raise_limit
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.states import BudgetState
from trivet_tasks.tenant_scope import TenantScope

_MAX_USD = 10**12
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget in its window. Amounts are USD, times seconds since the epoch."""

    name: str
    scope: str
    """`all`, or what it counts: `tag team=search`."""
    per: str
    window: str
    """`2026-11-26`, `2026-11` or `total`, UTC."""
    window_ends_at: float | None
    limit_usd: Decimal
    configured_usd: Decimal
    """Less than `limit_usd` where it was raised for this window."""
    settled_usd: Decimal
    estimated_usd: Decimal
    """Maximum cost of timeouts and of calls whose fate is not known, beside it. It counts as spent."""
    reserved_usd: Decimal
    """Maximum cost of calls under way and jobs in queues."""
    left_usd: Decimal
    """Neither spent nor reserved; negative where more was spent than allowed."""
    share: float
    """The part of the limit that is spent."""
    warn_at: float
    state: BudgetState
    jobs_held: int
    """Jobs that wait for it, or would go elsewhere if they could; 0 unless it holds."""
    unpriced: int
    """Calls in the window for which no price is known: they count as free."""

    @property
    def holding(self) -> bool:
        """True if it holds its jobs."""
        return self.state == BudgetState.HOLDING


class BudgetList(NamedTuple):
    """All budgets at one moment."""

    budgets: tuple[BudgetStatus, ...]
    """By name."""
    now: float
    """Seconds since the epoch, by the database's clock."""


class RaisedBudget(NamedTuple):
    """A budget's limit in one window. Amounts are USD."""

    budget: str
    window: str
    """`2026-11-26`, `2026-11` or `total`, UTC."""
    limit_usd: Decimal
    was_usd: Decimal


class Budgets(Group):
    """The budgets that schedulers made known. Windows are days and months of UTC."""

    def list(self, *, scope: TenantScope | None = None, also: Collection[str] = ()) -> BudgetList:
        """Return the spent, reserved and remaining amount of every budget, and the number of jobs it holds.

        Args:
            scope: only budgets that count the jobs of this tenant.
            also: names of budgets that are in it in any case.
        """
        store = self._connections.store
        with store.read() as connection:
            now = store.now(connection)
            found = statuses(connection, registered(store, connection), now, self._connections.directory.costs)
        if scope is not None:
            own = f"tenant {scope.tenant}" if scope.tenant is not None else None
            found = tuple(one for one in found if one.scope == own or one.name in also)
        return BudgetList(found, now)

    def raise_limit(self, name: str, usd: Decimal, *, by: str | None = None) -> RaisedBudget:
        """Raise a budget's limit in the current window; the next window has the configured amount again.

        Jobs that were held go on within a second. An event records who raised it.

            admin.budgets.raise_limit("team-search", Decimal("250"))

        Args:
            usd: USD that may be spent in this window, in all.
            by: the person; None: the user of this process.

        Raises:
            NotFound: there is no such budget.
            InvalidRequest: the amount is no amount of USD, or less than the configured one.
        """
        if not usd.is_finite() or usd <= 0 or usd >= _MAX_USD or usd != round(usd, _DIGITS):
            raise InvalidRequest(f"usd: {usd} is not an amount of USD.", field="usd", hint="As in 25 or 0.50.")
        store = self._connections.store
        with store.write() as connection:
            before, window = raise_limit(store, connection, name, usd, by or current_operator())
        self._connections.tell_work()
        return RaisedBudget(name, window.key, usd, before.limit(window))


def statuses(
    connection: Connection, routes: Mapping[str, RegisteredRoute], now: float, costs: CostModel
) -> tuple[BudgetStatus, ...]:
    """Return all budgets, by name. Counts waiting jobs where one of them holds."""
    found = budget_headroom.read(connection, now, routes, costs)
    if found is None:
        return ()
    holding = {balance.name for balance in found.balances if balance.state().state == BudgetState.HOLDING}
    held = dict.fromkeys(holding, 0)
    for jobs in budgets.waiting(connection) if holding else ():
        for balance in found.counting(jobs.batch_id, jobs.labels):
            if balance.name in holding:
                held[balance.name] += jobs.jobs
    return tuple(_status(balance, held.get(balance.name, 0)) for balance in found.balances)


def _status(balance: Balance, held: int) -> BudgetStatus:
    settings = balance.row.settings
    return BudgetStatus(
        balance.name,
        settings.scope,
        settings.per.value,
        balance.window.key,
        balance.window.ends_at,
        balance.limit,
        settings.usd,
        balance.spent.settled_usd,
        balance.spent.estimated_usd,
        balance.reserved,
        balance.headroom,
        round(balance.share, 6),
        settings.warn_at,
        balance.state().state,
        held,
        balance.spent.unpriced,
    )
