"""Budgets: their status, and raising the limit of the current window."""

from decimal import Decimal
from typing import NamedTuple

from trivet.admin.budget_status import BudgetStatus, statuses
from trivet.admin.operator import current_operator
from trivet.client.connections import Connections
from trivet_store.ledger.budgets import raise_limit
from trivet_tasks.errors import InvalidRequest

_MAX_USD = 10**12
_DIGITS = 12


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


class Budgets:
    """The budgets that schedulers made known. Windows are days and months of UTC."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self) -> BudgetList:
        """Return the spent, reserved and remaining amount of every budget, and the number of jobs it holds.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        store = self._connections.store
        with store.read() as connection:
            return BudgetList(statuses(store, connection, self._connections.directory.costs), store.now(connection))

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
            raise InvalidRequest(f"usd: {usd} is not an amount of USD.", field="usd")
        store = self._connections.store
        with store.write() as connection:
            before, window = raise_limit(store, connection, name, usd, by or current_operator())
        self._connections.tell_work()
        return RaisedBudget(name, window.key, usd, before.limit(window))
