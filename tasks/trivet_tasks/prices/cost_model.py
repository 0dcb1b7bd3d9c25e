"""The cost model: the cost of a call before it is made, by one price book. The ledger books neither of its figures.

- Expected cost: routes are ordered by it. The answer is as long as the latest ones of its kind; a route's own charges and the
  discount of the hour count.
- Maximum cost: budgets reserve it, and the row of an attempt holds it until the call is settled. The answer has all of
  `max_tokens`, nothing is read from a cache, and a request that writes to the provider's prompt cache pays the surcharge.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import NamedTuple

from trivet_tasks.catalog import Provider
from trivet_tasks.config.budgets import DAY_S
from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.prices.price_book import PriceBook, Tariff, TokenPrices
from trivet_tasks.prices.price_rates import tier_of
from trivet_tasks.requests.prompt_cache import CACHE_WRITE_FACTORS, CacheWrite

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

    tiers: tuple[TokenPrices, ...]
    """Prices by length of prompt, the longest first, the last for all shorter ones."""
    per_call: Decimal = Decimal(0)
    per_input_token: Decimal = Decimal(0)
    """Cost of sending its bytes, beside the provider's price."""
    factor: Decimal = Decimal(1)
    """Factor on the provider's price alone: the discount of an off-peak window."""

    def of(self, mix: Mix) -> Decimal:
        """Return the expected cost of a call of this size."""
        return _tokens_usd(self.tiers, mix) * self.factor + mix.input_tokens * self.per_input_token + self.per_call


class CostModel:
    """Expected and maximum costs of calls. One per process; safe to share between threads.

    Prices are those of the day of the database's time `at`, in seconds since the epoch. The price list is loaded when it is
    first needed (0.2 s); the prices of each (provider, region, model) are looked up once a day.
    """

    def __init__(self) -> None:
        self._tariffs = lru_cache(maxsize=MAX_KEPT)(self._look_up)

    @cached_property
    def book(self) -> PriceBook:
        """The price book. ImportError where no price list is installed (`trivet[worker]` has it)."""
        return PriceBook()

    @cached_property
    def known(self) -> bool:
        """True if a price list is installed. A producer without one orders by latency or priority only."""
        try:
            return bool(self.book)
        except ImportError:
            return False

    def tariff(self, route: RouteSettings, model: str, wire_model: str, at: float) -> Tariff:
        """Return the prices of tokens in plain calls of a model on a route; no tiers where no price is known."""
        return self._tariffs(route.provider, route.region, model, wire_model, int(at // DAY_S), route.prices)

    def expected(
        self, route: RouteSettings, model: str, wire_model: str, at: float, factor: Decimal = Decimal(1)
    ) -> CallCost | None:
        """Return the expected cost of calls of a model on a route; None where no price is known.

        Args:
            factor: on the provider's price.
        """
        tiers = self.tariff(route, model, wire_model, at).tiers
        if not tiers:
            return None
        costs = route.costs
        return CallCost(tiers, costs.per_request_usd, costs.per_gb_out_usd * _GB_PER_TOKEN, factor)

    def maximum(
        self,
        route: RouteSettings,
        model: str,
        wire_model: str,
        at: float,
        input_tokens: int,
        max_tokens: int,
        cache_write: CacheWrite = "",
    ) -> Decimal | None:
        """Return the maximum cost of a call in USD, as far as its size is known before; None where no price is known.

        Args:
            cache_write: how long the provider's prompt cache keeps what the call writes to it; empty = it writes nothing.
        """
        tiers = self.tariff(route, model, wire_model, at).tiers
        if not tiers:
            return None
        return _tokens_usd(tiers, Mix(input_tokens, max_tokens)) * CACHE_WRITE_FACTORS[cache_write]

    def _look_up(
        self,
        provider: Provider,
        region: str | None,
        model: str,
        wire_model: str,
        day: int,
        prices: tuple[RoutePrice, ...],
    ) -> Tariff:
        if not self.known:
            return Tariff((), "no price list is installed")
        began = datetime.fromtimestamp(day * DAY_S, UTC)
        return self.book.tariff(provider, model, wire_model, region, began, prices)


def _tokens_usd(tiers: tuple[TokenPrices, ...], mix: Mix) -> Decimal:
    tier = tier_of(tiers, mix.input_tokens)
    return mix.input_tokens * tier.input + mix.output_tokens * tier.output
