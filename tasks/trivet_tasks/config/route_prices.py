"""Negotiated prices of a route: `[[routes.NAME.prices]]`."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from trivet_tasks.config.amounts import UsdAmount, digits

_CACHE_READ, _CACHE_WRITE_5M, _CACHE_WRITE_1H = Decimal("0.1"), Decimal("1.25"), Decimal(2)
"""The usual prices of cached tokens, as factors on plain input."""


class TokenUsd(BaseModel):
    """Negotiated prices of tokens, in USD per million."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: UsdAmount
    """Plain input tokens."""
    output: UsdAmount
    """Output tokens."""
    cache_read: UsdAmount | None = None
    """Tokens read from the provider's prompt cache. Not set: 0.1 of `input`."""
    cache_write_5m: UsdAmount | None = None
    """Tokens written to it for five minutes. Not set: 1.25 of `input`."""
    cache_write_1h: UsdAmount | None = None
    """Tokens written to it for an hour. Not set: twice `input`."""

    def by_kind(self) -> dict[str, Decimal]:
        """Return the price of each kind of token, in USD per million."""
        given = {
            "cache_read": (self.cache_read, _CACHE_READ),
            "cache_write_5m": (self.cache_write_5m, _CACHE_WRITE_5M),
            "cache_write_1h": (self.cache_write_1h, _CACHE_WRITE_1H),
        }
        cached = {kind: self.input * factor if usd is None else usd for kind, (usd, factor) in given.items()}
        return {"input": self.input, "output": self.output, **cached}


class RoutePrice(BaseModel):
    """Negotiated price of a route from one day on: a factor on the list price, or prices of tokens."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_alias=True, validate_by_name=True
    )

    from_: date = Field(alias="from")
    """First day (UTC) on which it holds. Of several that fit a call, the one that began last counts."""
    model: str = Field(default="*", min_length=1, max_length=120)
    """Glob over first-party model ids, e.g. `claude-haiku-*`."""
    factor: (
        Annotated[
            Decimal, Field(ge=0, le=100, max_digits=15), PlainSerializer(digits, return_type=str, when_used="json")
        ]
        | None
    ) = None
    """Factor on the list price of tokens with all its surcharges, e.g. `0.85` for 15 % off."""
    usd: TokenUsd | None = None
    """Prices in USD per million tokens, e.g. `{ input = 1.7, output = 8.5 }`, instead of `factor`."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "RoutePrice":
        if (self.factor is None) == (self.usd is None):
            raise ValueError(
                "needs either factor (e.g. factor = 0.85) or usd (e.g. usd = { input = 1.7, output = 8.5 })"
            )
        return self


def price_on(prices: Iterable[RoutePrice], model: str, day: date) -> RoutePrice | None:
    """Return the negotiated price of a model, by its first-party id, on a day (UTC); None: the list price holds."""
    fitting = [price for price in prices if price.from_ <= day and fnmatchcase(model, price.model)]
    return max(fitting, key=lambda price: price.from_, default=None)
