"""Budget headroom, job by job: the limit, less what was spent, less what is reserved.

The maximum cost of calls under way and jobs in queues is reserved. A dispatcher reads the headroom under the lock under
which it dispatches jobs, and subtracts the maximum cost of each; so any number of schedulers and workers spends no more
than a budget has, except for further calls of jobs that are under way: failovers and hedges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from trivet_routing.route_choice import Candidate
from trivet_store.cluster.registry import RegisteredRoute, registered
from trivet_store.database.engine import Store
from trivet_store.jobs.dispatching import Flow, Head, next_of_batch, waiting_job
from trivet_store.ledger import budgets
from trivet_store.ledger.budgets import BudgetRow, InFlight, State, sums
from trivet_store.ledger.spending import Spent
from trivet_tasks.config.budgets import Window, exact_usd, window
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.requests.prompt_cache import CacheWrite
from trivet_tasks.states import BudgetState

NO_USD = Decimal(0)
PICO = Decimal("1e-12")
"""The smallest amount of money."""


@dataclass(slots=True)
class Balance:
    """A budget in its window. Amounts are USD."""

    row: BudgetRow
    window: Window
    limit: Decimal
    spent: Spent
    reserved: Decimal = NO_USD
    """Maximum cost of the calls under way and the jobs in queues."""
    shortfall: Decimal | None = None
    """Maximum cost of the cheapest job that was passed over only because of the money already spent."""

    @property
    def name(self) -> str:
        """The budget's name."""
        return self.row.settings.name

    @property
    def left(self) -> Decimal:
        """The part of the limit that is not spent."""
        return self.limit - self.spent.usd

    @property
    def headroom(self) -> Decimal:
        """The part of the limit that is neither spent nor reserved."""
        return self.left - self.reserved

    @property
    def wanting(self) -> Decimal:
        """Headroom up to which none of the jobs seen fits."""
        row = self.row
        held = row.state == BudgetState.HOLDING and row.state_window == self.window.key and row.needs_usd is not None
        return row.needs_usd - PICO if held and row.needs_usd is not None else NO_USD

    @property
    def share(self) -> float:
        """The part of the limit that is spent, from 0 to 1."""
        return float(self.spent.usd / self.limit)

    def state(self) -> State:
        """Return the budget's state: it holds while less is left than the cheapest waiting job may cost."""
        row = self.row
        needed = self.shortfall
        if needed is None and row.state == BudgetState.HOLDING and row.state_window == self.window.key:
            needed = row.needs_usd
        if self.left <= 0 or (needed is not None and self.left < needed):
            return State(BudgetState.HOLDING, self.window.key, needed)
        return State(BudgetState.WARNED if self.share >= row.settings.warn_at else BudgetState.OK, self.window.key)

    def used_up(self) -> str:
        """Return the reason why it holds jobs, for a person, without a full stop."""
        until = "" if self.window.ends_at is None else f" until {moment(self.window.ends_at)}, or"
        spent = f"{exact_usd(self.spent.usd)} of {exact_usd(self.limit)} are spent {_PER[self.row.settings.per]}"
        reserved = f" and {exact_usd(self.reserved)} reserved by jobs on their way" if self.reserved else ""
        return (
            f"held by the budget {self.name} ({self.row.settings.scope}):{until} until it is raised "
            f"(`trivet budget raise {self.name} --to USD`); {spent}{reserved}"
        )


_PER = {"day": "today (UTC)", "month": "this month (UTC)", "total": "in all"}


class _Scope(NamedTuple):
    """The budgets that count a job: on all routes, and on one route only."""

    everywhere: tuple[Balance, ...]
    at: Mapping[str, tuple[Balance, ...]]


class BudgetHeadroom:
    """The headroom of all budgets at one moment, reduced as jobs are taken from it."""

    def __init__(
        self, balances: Sequence[Balance], routes: Mapping[str, RegisteredRoute], costs: CostModel, now: float
    ) -> None:
        self.balances = tuple(balances)
        self._routes = routes
        self._costs = costs
        self._now = now
        self._wire_models: dict[tuple[str, str], str | None] = {}
        self._scopes: dict[tuple[int | None, str], _Scope] = {}
        self._unlabelled: list[Balance] = []
        self._labelled: dict[tuple[str, str], list[Balance]] = {}
        for balance in balances:
            label = balance.row.settings.label
            (self._unlabelled if label is None else self._labelled.setdefault(label, [])).append(balance)

    def reserve(self, jobs: InFlight, cost: Decimal) -> None:
        """Reserve the cost of jobs under way."""
        for balance in self._counting(jobs.batch_id, jobs.labels, jobs.route):
            balance.reserved += cost

    def reserve_queued(self, jobs: InFlight) -> None:
        """Reserve the maximum cost of jobs in the queue of a route."""
        each = self._maximum(jobs.route, jobs.model, jobs.input_estimate, jobs.max_tokens, jobs.cache_write)
        self.reserve(jobs, each * jobs.jobs)

    def close(self) -> None:
        """Leave no headroom in any budget, because no price list is installed here."""
        for balance in self.balances:
            balance.reserved = Decimal("Infinity")

    def exhausted(self, flow: Flow, *, thorough: bool) -> bool:
        """Return whether a budget has no headroom for the jobs of a flow, on whatever route.

        Args:
            thorough: also look at flows whose cheapest job, as last seen, was too dear: a cheaper one may have come.
        """
        balances = self._scope(flow.batch_id, flow.labels).everywhere
        return any(balance.headroom <= (0 if thorough else balance.wanting) for balance in balances)

    def ask(self, flow: Flow, head: Head) -> "Asked":
        """Return a filter of routes by the budgets of one job."""
        return Asked(self, flow, head)

    def holding(self, flow: Flow, route: str, head: Head) -> Balance | None:
        """Return the budget without headroom for a job on a route; None when all have some."""
        maximum = self.maximum(flow, route, head)
        return next(
            (balance for balance in self._counting(flow.batch_id, flow.labels, route) if balance.headroom < maximum),
            None,
        )

    def take(self, flow: Flow, route: str, head: Head) -> None:
        """Reserve the maximum cost of a job on a route."""
        maximum = self.maximum(flow, route, head)
        if maximum:
            for balance in self._counting(flow.batch_id, flow.labels, route):
                balance.reserved += maximum

    def maximum(self, flow: Flow, route: str, head: Head) -> Decimal:
        """Return the maximum cost of a job on a route; 0 where no price is known."""
        return self._maximum(route, flow.model, head.input_estimate, head.max_tokens, flow.cache_write)

    def _maximum(self, route: str, model: str, input_tokens: int, max_tokens: int, cache_write: CacheWrite) -> Decimal:
        known, key = self._routes.get(route), (route, model)
        if known is None:
            return NO_USD
        if key not in self._wire_models:
            self._wire_models[key] = name_on_wire(known.settings, model)
        wire_model = self._wire_models[key]
        if wire_model is None:
            return NO_USD
        found = self._costs.maximum(known.settings, model, wire_model, self._now, input_tokens, max_tokens, cache_write)
        return found or NO_USD

    def counting(self, batch_id: int | None, labels: str) -> tuple[Balance, ...]:
        """Return the budgets that count such a job, on whatever route."""
        scope = self._scope(batch_id, labels)
        return (*scope.everywhere, *(balance for balances in scope.at.values() for balance in balances))

    def _counting(self, batch_id: int | None, labels: str, route: str) -> tuple[Balance, ...]:
        scope = self._scope(batch_id, labels)
        return (*scope.everywhere, *scope.at.get(route, ()))

    def _scope(self, batch_id: int | None, labels: str) -> _Scope:
        key = (batch_id, labels)
        known = self._scopes.get(key)
        if known is None:
            read = orjson.loads(labels)
            mine = [
                balance
                for balance in self._unlabelled
                if balance.row.settings.counts(batch_id is not None and batch_id == balance.row.batch_id, read)
            ]
            for label in read.items():
                mine += self._labelled.get(label, ())
            mine.sort(key=lambda balance: balance.name)
            routes = {balance.row.settings.route for balance in mine} - {""}
            known = self._scopes[key] = _Scope(
                tuple(balance for balance in mine if not balance.row.settings.route),
                {name: tuple(p for p in mine if p.row.settings.route == name) for name in routes},
            )
        return known


class Asked:
    """A filter of routes for one job; it notes the budgets without headroom for it."""

    def __init__(self, budget_headroom: BudgetHeadroom, flow: Flow, head: Head) -> None:
        self._headroom = budget_headroom
        self._flow = flow
        self._head = head
        self._refused: list[tuple[Balance, Decimal]] = []

    def also(self, has_room: Callable[[Candidate], bool]) -> Callable[[Candidate], bool]:
        """Return the given filter, narrowed to routes on which every budget has headroom for the job."""
        return lambda route: has_room(route) and self._fits(route)

    def _fits(self, route: Candidate) -> bool:
        balance = self._headroom.holding(self._flow, route.name, self._head)
        if balance is None:
            return True
        self._refused.append((balance, self._headroom.maximum(self._flow, route.name, self._head)))
        return False

    def passed_over(self) -> bool:
        """Note, after no route took the job, the budgets that hold it even once all reserved calls are settled.

        Returns:
            Whether a budget was the reason.
        """
        for balance, maximum in self._refused:
            if balance.left < maximum and (balance.shortfall is None or maximum < balance.shortfall):
                balance.shortfall = maximum
        return bool(self._refused)


def read(
    connection: Connection, now: float, routes: Mapping[str, RegisteredRoute], costs: CostModel
) -> BudgetHeadroom | None:
    """Return the headroom at this moment; None when there is no budget.

    Args:
        routes: the known routes, for the prices of the jobs in their queues.
    """
    rows = budgets.registered(connection)
    if not rows:
        return None
    windows = [(row, window(row.settings.per, now)) for row in rows]
    counted = sums(connection, windows)
    budget_headroom = BudgetHeadroom(
        [Balance(row, span, row.limit(span), spent) for (row, span), spent in zip(windows, counted.spent, strict=True)],
        routes,
        costs,
        now,
    )
    for jobs in counted.calling:
        budget_headroom.reserve(jobs, jobs.maximum_usd)
    for jobs in counted.queued:
        budget_headroom.reserve_queued(jobs)
    return budget_headroom


def moment(at: float) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")


def holding_job(store: Store, connection: Connection, costs: CostModel, job_id: str) -> str | None:
    """Return which budget holds a waiting job on every route, for a person; None when none does."""
    return _holding(store, connection, costs, lambda: waiting_job(connection, job_id))


def holding_batch(store: Store, connection: Connection, costs: CostModel, name: str) -> str | None:
    """Return which budget holds the job of a batch that is next in line; None when none does."""
    return _holding(store, connection, costs, lambda: next_of_batch(connection, name))


def _holding(
    store: Store, connection: Connection, costs: CostModel, next_job: Callable[[], tuple[Flow, Head] | None]
) -> str | None:
    routes = registered(store, connection)
    found = read(connection, store.now(connection), routes, costs)
    job = next_job() if found is not None else None
    if found is None or job is None:
        return None
    flow, head = job
    balances = [found.holding(flow, route, head) for route in routes]
    if not balances or not all(balances):
        return None
    said = balances[0].used_up() if balances[0] else ""
    return f"{said[0].upper()}{said[1:]}."
