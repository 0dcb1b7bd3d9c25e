"""Budget headroom, job by job: the limit, less what was spent, less what is reserved.

Reserved is what calls under way and jobs in queues may cost at most. A dispatcher reads it under the lock under which
it claims jobs, and takes from it what each job that it claims may cost; so no number of schedulers and workers spends
more than a budget has, but for what jobs that are on their way do beyond one call: fail over, or get a hedge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from trivet_routing.maximum_costs import MaximumCosts
from trivet_routing.route_choice import Candidate
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.jobs.dispatching import Flow, Head
from trivet_store.ledger import budgets
from trivet_store.ledger.budget_sums import InFlight, Sums, sums
from trivet_store.ledger.budgets import BudgetRow, State
from trivet_store.ledger.spending import Spent
from trivet_tasks.config.budgets import Window, exact_usd, window
from trivet_tasks.requests.prompt_cache import DEAREST_WRITE
from trivet_tasks.states import BudgetState

NOTHING = Decimal(0)
PICO = Decimal("1e-12")
"""The least there is of money."""


@dataclass(slots=True)
class Balance:
    """A budget in its window. Amounts are USD."""

    row: BudgetRow
    window: Window
    limit: Decimal
    spent: Spent
    reserved: Decimal = NOTHING
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
        """Room up to which no job that was seen fits."""
        row = self.row
        held = row.state == BudgetState.HOLDING and row.state_window == self.window.key and row.needs_usd is not None
        return row.needs_usd - PICO if held and row.needs_usd is not None else NOTHING

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
    """The budgets that count a job: wherever it goes, and on one route only."""

    everywhere: tuple[Balance, ...]
    at: Mapping[str, tuple[Balance, ...]]


class BudgetHeadroom:
    """The headroom of all budgets at one moment, reduced as jobs are taken from it."""

    def __init__(self, balances: Sequence[Balance], most: Callable[[str, str, int, int], Decimal | None]) -> None:
        """`most`: what a call of (route, model, input tokens, output tokens) may cost; None = unpriced."""
        self.balances = tuple(balances)
        self._most = most
        self._scopes: dict[tuple[int | None, str], _Scope] = {}

    def reserve(self, jobs: InFlight, each: Decimal) -> None:
        """Count what is on its way."""
        for balance in self._counting(jobs.batch_id, jobs.labels, jobs.route):
            balance.reserved += each

    def close(self) -> None:
        """Leave no room in any: nobody here can say what a job may cost."""
        for balance in self.balances:
            balance.reserved = Decimal("Infinity")

    def exhausted(self, flow: Flow, *, thorough: bool) -> bool:
        """Return whether a budget has no headroom for the jobs of a flow, on whatever route.

        Args:
            thorough: look also at jobs of which the cheapest, as last seen, was too dear: a cheaper one may have come.
        """
        balances = self._scope(flow.batch_id, flow.labels).everywhere
        return any(balance.headroom <= (0 if thorough else balance.wanting) for balance in balances)

    def ask(self, flow: Flow, head: Head) -> "Asked":
        """A question to ask of routes about one job."""
        return Asked(self, flow, head)

    def holding(self, flow: Flow, route: str, head: Head) -> Balance | None:
        """The budget that has no room for a job on a route; None when all have."""
        most = self.most(flow, route, head)
        return next(
            (balance for balance in self._counting(flow.batch_id, flow.labels, route) if balance.headroom < most), None
        )

    def take(self, flow: Flow, route: str, head: Head) -> None:
        """Reserve what a job may cost on a route."""
        most = self.most(flow, route, head)
        if most:
            for balance in self._counting(flow.batch_id, flow.labels, route):
                balance.reserved += most

    def most(self, flow: Flow, route: str, head: Head) -> Decimal:
        """Return the maximum cost of a job on a route; 0 where no price is known."""
        most = self._most(route, flow.model, head.input_estimate, head.max_tokens) or NOTHING
        return most * DEAREST_WRITE if flow.marked else most

    def counting(self, batch_id: int | None, labels: str) -> tuple[Balance, ...]:
        """The budgets that count such a job, on whatever route."""
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
                for balance in self.balances
                if balance.row.settings.counts(batch_id is not None and batch_id == balance.row.batch_id, read)
            ]
            routes = {balance.row.settings.route for balance in mine} - {""}
            known = self._scopes[key] = _Scope(
                tuple(balance for balance in mine if not balance.row.settings.route),
                {name: tuple(p for p in mine if p.row.settings.route == name) for name in routes},
            )
        return known


class Asked:
    """One job, and which budgets had no room for it on which route."""

    def __init__(self, budget_headroom: BudgetHeadroom, flow: Flow, head: Head) -> None:
        self._headroom = budget_headroom
        self._flow = flow
        self._head = head
        self._refused: list[tuple[Balance, Decimal]] = []

    def also(self, has_room: Callable[[Candidate], bool]) -> Callable[[Candidate], bool]:
        """The question that is asked anyway, and whether every budget has room for the job on the route."""
        return lambda route: has_room(route) and self._fits(route)

    def _fits(self, route: Candidate) -> bool:
        balance = self._headroom.holding(self._flow, route.name, self._head)
        if balance is None:
            return True
        self._refused.append((balance, self._headroom.most(self._flow, route.name, self._head)))
        return False

    def passed_over(self) -> bool:
        """No route took the job: note which budgets hold it for good, not only until what is reserved is settled.

        Returns:
            Whether it was for a budget.
        """
        for balance, most in self._refused:
            if balance.left < most and (balance.shortfall is None or most < balance.shortfall):
                balance.shortfall = most
        return bool(self._refused)


def read(
    connection: Connection, now: float, routes: Mapping[str, RegisteredRoute], costs: MaximumCosts
) -> BudgetHeadroom | None:
    """The rooms at this moment; None when there is no budget.

    Args:
        routes: those known, for the prices of what stands in their queues.
    """
    rows = budgets.registered(connection)
    if not rows:
        return None
    windows = [(row, window(row.settings.per, now)) for row in rows]
    return headroom_of(windows, sums(connection, windows), routes, costs, now)


def headroom_of(
    windows: Sequence[tuple[BudgetRow, Window]],
    counted: Sums,
    routes: Mapping[str, RegisteredRoute],
    costs: MaximumCosts,
    now: float,
) -> BudgetHeadroom:
    """The rooms, as counted at this moment."""
    costs.at(routes, now)
    budget_headroom = BudgetHeadroom(
        [Balance(row, span, row.limit(span), spent) for (row, span), spent in zip(windows, counted.spent, strict=True)],
        costs.of,
    )
    for jobs in counted.calling:
        budget_headroom.reserve(jobs, jobs.most_usd)
    for jobs in counted.queued:
        each = costs.of(jobs.route, jobs.model, jobs.input_estimate, jobs.max_tokens) or NOTHING
        budget_headroom.reserve(jobs, each * jobs.jobs * (DEAREST_WRITE if jobs.marked else 1))
    return budget_headroom


def moment(at: float) -> str:
    """A time as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")
