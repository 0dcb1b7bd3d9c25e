"""Expected cost of a call on a route, by its size: for ordering routes by cost, never for the ledger."""

import threading
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from trivet_tasks.config.route_settings import RouteSettings

if TYPE_CHECKING:
    from trivet_tasks.prices.price_book import PriceBook, TokenPrices

MAX_KEPT = 1_000
_GB_PER_TOKEN = Decimal("3.5e-9")
"""Bytes per token by which a request's tokens are estimated."""


class Mix(NamedTuple):
    """Expected usage of a call, in tokens."""

    input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, input_estimate: int, max_tokens: int, used_share: float) -> "Mix":
        """Return the mix of a job whose answers use this share of their `max_tokens`."""
        return cls(input_estimate, max(1, round(max_tokens * used_share)))


TYPICAL = Mix(10_000, 5_000)
"""Used where a job's own size does not matter or is not known."""


@dataclass(frozen=True, slots=True)
class CallCost:
    """The expected cost of a call as a function of its size. Amounts are USD.

    Charges fixed by the month are left out: they are spent whichever route is taken.
    """

    tiers: tuple["TokenPrices", ...]
    """Prices by length of prompt, the longest first, the last for all shorter ones."""
    per_call: Decimal = Decimal(0)
    per_input_token: Decimal = Decimal(0)
    """Cost of sending its bytes, beside the provider's price."""
    factor: Decimal = Decimal(1)
    """Factor on the provider's price alone: the discount of an off-peak window."""

    def of(self, mix: Mix) -> Decimal:
        """Return the expected cost of a call of this size."""
        tier = self.tiers[-1]
        for longer in self.tiers:
            if mix.input_tokens > longer.above:
                tier = longer
                break
        tokens = mix.input_tokens * tier.input + mix.output_tokens * tier.output
        return tokens * self.factor + mix.input_tokens * self.per_input_token + self.per_call


class CallCosts:
    """Looks the prices of each (provider, region, model) up once a day. One per process; safe between threads."""

    def __init__(self) -> None:
        self._book: PriceBook | None = None
        self._missing = False
        self._kept: dict[tuple[str, str | None, str, str], tuple[date, tuple[TokenPrices, ...]]] = {}
        self._lock = threading.Lock()

    def of(
        self, route: RouteSettings, model: str, wire_model: str, at: datetime, factor: Decimal = Decimal(1)
    ) -> CallCost | None:
        """Return the cost of calls of a model on a route; None where no price is known, or no price data is installed.

        Args:
            at: the database's time, in UTC; prices are those of its day.
            factor: on the provider's price.
        """
        tiers = self._tiers(route, model, wire_model, at)
        if not tiers:
            return None
        costs = route.costs
        return CallCost(tiers, costs.per_request_usd, costs.per_gb_out_usd * _GB_PER_TOKEN, factor)

    def _tiers(self, route: RouteSettings, model: str, wire_model: str, at: datetime) -> tuple["TokenPrices", ...]:
        key = (route.provider, route.region, model, wire_model)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == at.date():
                return kept[1]
            tiers = self._look_up(route, model, wire_model, at)
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[key] = (at.date(), tiers)
            return tiers

    def _look_up(self, route: RouteSettings, model: str, wire_model: str, at: datetime) -> tuple["TokenPrices", ...]:
        if self._missing:
            return ()
        if self._book is None:
            try:
                from trivet_tasks.prices.price_book import PriceBook

                self._book = PriceBook()
            except ImportError:  # a producer without trivet[worker] orders by latency or priority only
                self._missing = True
                return ()
        return self._book.tariff(route.provider, model, wire_model, route.region, at).tiers
