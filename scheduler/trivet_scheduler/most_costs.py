"""The most that calls may cost, as the workers write it into their rows: what budgets reserve for a job."""

from decimal import Decimal
from typing import TYPE_CHECKING

from trivet_scheduler.fleet import name_on_wire
from trivet_tasks.route_settings import RouteSettings

if TYPE_CHECKING:
    from trivet_tasks.prices import PriceBook


class MostCosts:
    """Prices of whole calls. Loads the price list when first asked (0.2 s)."""

    def __init__(self) -> None:
        self._book: PriceBook | None = None
        self._missing = False

    @property
    def known(self) -> bool:
        """Whether a price list is installed (`trivet[worker]`)."""
        if self._book is None and not self._missing:
            try:
                from trivet_tasks.prices import PriceBook

                self._book = PriceBook()
            except ImportError:
                self._missing = True
        return self._book is not None

    def of(self, route: RouteSettings, model: str, input_tokens: int, max_tokens: int) -> Decimal | None:
        """USD at most, as far as a call's size is known before; None: no price is known."""
        wire_model = name_on_wire(route, model)
        if wire_model is None or not self.known or self._book is None:
            return None
        return self._book.estimate(route.provider, model, wire_model, route.region, input_tokens, max_tokens)
