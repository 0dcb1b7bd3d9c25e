"""Amounts of USD in settings."""

from decimal import Decimal
from typing import Annotated, TypeAlias

from pydantic import Field, PlainSerializer


def digits(amount: Decimal) -> str:
    """Return the shortest text of an amount, the same however it was written: definitions are compared."""
    return f"{amount.normalize():f}"


UsdAmount: TypeAlias = Annotated[
    Decimal, Field(ge=0, max_digits=15), PlainSerializer(digits, return_type=str, when_used="json")
]
"""USD, exact: TOML's floats hold 15 digits; a text such as "0.00002" is taken, too."""
