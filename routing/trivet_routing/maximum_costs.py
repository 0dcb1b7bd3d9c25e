"""Maximum costs of calls, as workers write them into their rows: budgets reserve them for jobs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from trivet_store.cluster.registry import RegisteredRoute
from trivet_tasks.requests.eligibility import name_on_wire

if TYPE_CHECKING:
    from trivet_tasks.prices.price_book import PriceBook

MAX_KEPT = 20_000


class MaximumCosts:
    """Prices of whole calls. Loads the price list when first asked (0.2 s). Use it from one thread."""

    def __init__(self) -> None:
        self._book: PriceBook | None = None
        self._missing = False
        self._routes: Mapping[str, RegisteredRoute] = {}
        self._at = datetime.min
        self._kept: dict[tuple[str, str, int, int], Decimal | None] = {}

    @property
    def known(self) -> bool:
        """True if a price list is installed (`trivet[worker]`)."""
        if self._book is None and not self._missing:
            try:
                from trivet_tasks.prices.price_book import PriceBook

                self._book = PriceBook()
            except ImportError:
                self._missing = True
        return self._book is not None

    def at(self, routes: Mapping[str, RegisteredRoute], now: float) -> None:
        """Use these routes and the prices of this day from now on.

        Looked-up prices are kept while the routes are the same object, about a second.

        Args:
            now: the database's time, seconds since the epoch.
        """
        if routes is not self._routes or len(self._kept) > MAX_KEPT:
            self._routes = routes
            self._at = datetime.fromtimestamp(now, UTC)
            self._kept = {}

    def of(self, route: str, model: str, input_tokens: int, max_tokens: int) -> Decimal | None:
        """Return the maximum cost in USD, as far as a call's size is known before; None: no price is known."""
        key = (route, model, input_tokens, max_tokens)
        try:
            return self._kept[key]
        except KeyError:
            found = self._kept[key] = self._look_up(*key)
            return found

    def _look_up(self, route: str, model: str, input_tokens: int, max_tokens: int) -> Decimal | None:
        known = self._routes.get(route)
        wire_model = None if known is None else name_on_wire(known.settings, model)
        if known is None or wire_model is None or not self.known or self._book is None:
            return None
        settings = known.settings
        return self._book.estimate(
            settings.provider, model, wire_model, settings.region, input_tokens, max_tokens, self._at
        )
