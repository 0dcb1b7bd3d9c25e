"""Status of budgets, and which of them holds a job."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from trivet_routing import rooms
from trivet_routing.most_costs import MostCosts
from trivet_routing.rooms import Purse, Rooms
from trivet_store.database.engine import Connection, Store
from trivet_store.fleet.registry import RegisteredRoute, registered
from trivet_store.jobs.dispatching import Flow, Head
from trivet_store.ledger import budget_sums
from trivet_store.reports.next_jobs import next_of_batch, waiting_job
from trivet_tasks.states import BudgetState


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
    """Neither spent nor reserved; less than nothing where more was spent than there was."""
    share: float
    """Of the limit, what is spent."""
    warn_at: float
    state: BudgetState
    jobs_held: int
    """Jobs that wait for it, or would go elsewhere if they could; 0 unless it holds."""
    unpriced: int
    """Calls in the window for which no price is known: they cost it nothing."""

    @property
    def holding(self) -> bool:
        """True if it holds its jobs."""
        return self.state == BudgetState.HOLDING


def statuses(store: Store, connection: Connection, costs: MostCosts) -> tuple[BudgetStatus, ...]:
    """Return all budgets, by name. Counts waiting jobs where one of them holds."""
    found = _rooms(store, connection, costs)
    if found is None:
        return ()
    holding = {purse.name for purse in found.purses if purse.state().state == BudgetState.HOLDING}
    held = dict.fromkeys(holding, 0)
    for jobs in budget_sums.waiting(connection) if holding else ():
        for purse in found.counting(jobs.batch_id, jobs.labels):
            if purse.name in holding:
                held[purse.name] += jobs.jobs
    return tuple(_status(purse, held.get(purse.name, 0)) for purse in found.purses)


def holding_job(store: Store, connection: Connection, job_id: str) -> str | None:
    """Return which budget holds a waiting job on every route, for a person; None when none does."""
    return _holding(store, connection, lambda: waiting_job(connection, job_id))


def holding_batch(store: Store, connection: Connection, name: str) -> str | None:
    """Return which budget holds the job of a batch that is next in line; None when none does."""
    return _holding(store, connection, lambda: next_of_batch(connection, name))


def _holding(store: Store, connection: Connection, read: Callable[[], tuple[Flow, Head] | None]) -> str | None:
    found = _rooms(store, connection, MostCosts())
    job = read() if found is not None else None
    if found is None or job is None:
        return None
    flow, head = job
    purses = [found.holding(flow, route, head) for route in registered(store, connection)]
    if not purses or not all(purses):
        return None
    said = purses[0].used_up() if purses[0] else ""
    return f"{said[0].upper()}{said[1:]}."


def _rooms(store: Store, connection: Connection, costs: MostCosts) -> Rooms | None:
    routes: dict[str, RegisteredRoute] = registered(store, connection)
    return rooms.read(connection, store.now(connection), routes, costs)


def _status(purse: Purse, held: int) -> BudgetStatus:
    settings = purse.row.settings
    return BudgetStatus(
        purse.name,
        settings.scope,
        settings.per.value,
        purse.window.key,
        purse.window.ends_at,
        purse.limit,
        settings.usd,
        purse.spent.settled_usd,
        purse.spent.estimated_usd,
        purse.reserved,
        purse.room,
        round(purse.share, 6),
        settings.warn_at,
        purse.state().state,
        held,
        purse.spent.unpriced,
    )
