"""Budgets as the gateway asks of them: whether one has room for a request, before a job is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, Self

from trivet.times import moment
from trivet_routing import budget_headroom
from trivet_routing.budget_headroom import Balance
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Connection
from trivet_tasks.config.budgets import exact_usd
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.states import BudgetState


class BudgetShortfall(NamedTuple):
    """A budget without room for a request."""

    budget: str
    left_usd: Decimal
    """The part of its limit that is not spent."""
    needs_usd: Decimal | None
    """Maximum cost of the request on the cheapest route; None where no price is known."""
    window_ends_at: float | None
    """Seconds since the epoch; None: never."""
    retry_after_s: float | None
    """Seconds until its window turns."""

    def words(self) -> str:
        """Return the reason, for whoever sent the request."""
        until = "" if self.window_ends_at is None else f" It has room again at {moment(self.window_ends_at)}."
        left = exact_usd(max(Decimal(0), self.left_usd))
        if self.left_usd <= 0 or self.needs_usd is None:
            return f"The budget {self.budget} of this key is used up.{until}"
        needs = f"this request may cost {exact_usd(self.needs_usd)}"
        return f"The budget {self.budget} of this key has {left} left, and {needs}: lower max_tokens.{until}"


@dataclass(frozen=True, slots=True)
class KeyBudgets:
    """All budgets at one moment. Reads nothing more."""

    balances: Mapping[str, Balance]
    routes: Mapping[str, RegisteredRoute]
    costs: CostModel
    now: float

    @classmethod
    def read(cls, connection: Connection, now: float, routes: Mapping[str, RegisteredRoute], costs: CostModel) -> Self:
        """Return the budgets now."""
        found = budget_headroom.read(connection, now, routes, costs)
        balances = {} if found is None else {balance.name: balance for balance in found.balances}
        return cls(balances, routes, costs, now)

    def knows(self, budget: str) -> bool:
        """Return whether there is such a budget. One that was taken out of the configuration limits nothing any more."""
        return budget in self.balances

    def shortfall(self, budget: str, model: str, input_tokens: int, max_tokens: int) -> BudgetShortfall | None:
        """Return why a budget has no room for a request; None: it has.

        Args:
            budget: one that there is, as `knows` says.
            input_tokens: its estimate; 0 where it is not known.
        """
        balance = self.balances[budget]
        needs = self._cheapest(model, input_tokens, max_tokens)
        # without a price the state is all that is known
        lacks = balance.state().state == BudgetState.HOLDING if needs is None else balance.left < needs
        if balance.left > 0 and not lacks:
            return None
        ends_at = balance.window.ends_at
        wait = None if ends_at is None else max(1.0, ends_at - self.now)
        return BudgetShortfall(budget, balance.left, needs, ends_at, wait)

    def _cheapest(self, model: str, input_tokens: int, max_tokens: int) -> Decimal | None:
        if not self.costs.known:
            return None
        found = []
        for route in self.routes.values():
            wire_model = name_on_wire(route.settings, model)
            if wire_model is not None:
                cost = self.costs.maximum(route.settings, model, wire_model, self.now, input_tokens, max_tokens)
                found.append(Decimal(0) if cost is None else cost)
        return min(found, default=None)
