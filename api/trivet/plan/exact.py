"""Decimals without unintended rounding."""

from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext

PLACES = Decimal("1E-12")
"""Precision of quotients without an end: the ledger's own unit."""


def exact() -> AbstractContextManager[Context]:
    """A context in which sums and products of a plan keep every digit."""
    return localcontext(prec=100)


def divided(amount: Decimal, by: Decimal) -> Decimal:
    """The quotient: exact where it ends within 12 places, else rounded to these."""
    with exact():
        return (amount / by).quantize(PLACES)


def spread(shares: dict[str, Decimal]) -> dict[str, Decimal]:
    """The same proportions as shares that sum to exactly 1; what does not divide goes to the largest."""
    with exact():
        total = sum(shares.values(), Decimal(0))
        if total == 1:
            return dict(shares)
        parts = {name: divided(share, total) for name, share in shares.items()}
        largest = max(parts, key=lambda name: parts[name])
        parts[largest] += 1 - sum(parts.values(), Decimal(0))
        return parts


def digits(amount: Decimal) -> str:
    """All digits of an amount and no more: `18`, `0.00002`."""
    with exact():
        return f"{amount.normalize():f}" if amount else "0"
