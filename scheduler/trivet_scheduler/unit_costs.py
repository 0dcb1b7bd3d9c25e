"""What a typical call costs on a route, for ordering routes by cost; never for the books."""

import threading
import time
from decimal import Decimal
from typing import TYPE_CHECKING

from trivet_tasks.route_settings import RouteSettings

if TYPE_CHECKING:
    from trivet_tasks.prices import PriceBook

TYPICAL_INPUT_TOKENS = 10_000
TYPICAL_OUTPUT_TOKENS = 5_000
KEPT_S = 3_600.0
"""Prices change at most daily."""
MOST_KEPT = 1_000


class UnitCosts:
    """Looks each (provider, region, model) up once an hour."""

    def __init__(self) -> None:
        self._book: PriceBook | None = None
        self._missing = False
        self._kept: dict[tuple[str, str | None, str], tuple[float, Decimal | None]] = {}
        self._lock = threading.Lock()

    def of(self, route: RouteSettings, model: str, wire_model: str) -> Decimal | None:
        """USD of a call of typical size; None where no price is known, or no price data is installed."""
        key = (route.provider, route.region, wire_model)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and time.monotonic() - kept[0] < KEPT_S:
                return kept[1]
            cost = self._look_up(route, model, wire_model)
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = (time.monotonic(), cost)
            return cost

    def _look_up(self, route: RouteSettings, model: str, wire_model: str) -> Decimal | None:
        if self._missing:
            return None
        if self._book is None:
            try:
                from trivet_tasks.prices import PriceBook

                self._book = PriceBook()
            except ImportError:  # a producer without trivet[worker] orders by latency or priority only
                self._missing = True
                return None
        return self._book.estimate(
            route.provider, model, wire_model, route.region, TYPICAL_INPUT_TOKENS, TYPICAL_OUTPUT_TOKENS
        )
