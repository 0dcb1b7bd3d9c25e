"""Amounts as people type them: `10M` tokens, a share as `0.6` or `60%`, a mix of routes, a hidden cost."""

import re
from collections.abc import Mapping
from decimal import Decimal

from trivet.plan.charges import Charge, Per
from trivet_tasks.errors import InvalidRequest

_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kmbg]?)")
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_SHARE = re.compile(r"(\d*\.?\d+)\s*(%?)")
_CHARGE = re.compile(
    r"(?:(?P<route>[^:=]+):)?(?P<name>[^:=]+)=\s*\$?(?P<usd>\d*\.?\d+)\s*/\s*"
    r"(?P<units>\d[\d_,.]*[kmb]?)?\s*(?P<per>calls?|requests?|gb|months?)",
    re.IGNORECASE,
)
_MOST_DIGITS = 30


def count(option: str, given: str, *, above: int = 0) -> Decimal:
    """A number such as `10M`, `2.5k`, `1_000` or `1,000`, which must be above `above`.

    Raises:
        InvalidRequest: it is not one, or not above it.
    """
    found = _COUNT.fullmatch(given.strip().lower().replace("_", "").replace(",", ""))
    number = Decimal(found[1]) * _TIMES[found[2]] if found and len(given) <= _MOST_DIGITS else None
    if number is None:
        raise _wrong(option, f"{given!r} is not a number.", "Use 2000, 2k, 10M or 1.5B.")
    if number <= above:
        raise _wrong(option, f"must be above {above}, is {given}.", "")
    return number


def share(option: str, given: str) -> Decimal:
    """A part of a whole, from 0 to 1: `0.6` or `60%`.

    Raises:
        InvalidRequest: it is not one.
    """
    found = _SHARE.fullmatch(given.strip())
    part = Decimal(found[1]) / (100 if found[2] else 1) if found and len(given) <= _MOST_DIGITS else None
    if part is None or part > 1:
        raise _wrong(option, f"{given!r} is not a share.", "Use a number from 0 to 1, or per cent: 0.6 or 60%.")
    return part


def mix(given: str) -> dict[str, Decimal]:
    """Shares of routes: `bedrock-us-east-1=0.7,anthropic=0.3`.

    Raises:
        InvalidRequest: it does not read so, or names a route twice.
    """
    shares: dict[str, Decimal] = {}
    for pair in given.split(","):
        name, equals, part = (word.strip() for word in pair.partition("="))
        if not equals or not name:
            raise _wrong(
                "--mix", f"{pair.strip()!r} must read ROUTE=SHARE.", "As in bedrock-us-east-1=0.7,anthropic=0.3."
            )
        if name in shares:
            raise _wrong("--mix", f"{name} is named twice.", "")
        shares[name] = share(f"--mix: {name}", part)
    return shares


def charge(given: str, routes: Mapping[str, object]) -> Charge:
    """A hidden cost: `[ROUTE:]NAME=USD/UNIT`, e.g. `audit logging=2/100000 calls`, `endpoint=21.90/month`, `nat=0.045/GB`.

    Raises:
        InvalidRequest: it does not read so, or names a route that is not configured.
    """
    found = _CHARGE.fullmatch(given.strip())
    if not found:
        raise _wrong(
            "--cost",
            f"{given!r} must read NAME=USD/UNIT, the unit being calls, GB or month.",
            "As in 'audit logging=2/100000 calls', 'nat=0.045/GB' or 'anthropic:gateway=21.90/month'.",
        )
    route = found["route"].strip() if found["route"] else None
    if route is not None and route not in routes:
        raise _wrong("--cost", f"no route is called {route!r}.", f"Configured are {', '.join(routes)}.")
    unit = found["per"][0].lower()
    return Charge(
        name=found["name"].strip(),
        per=Per.GB_OUT if unit == "g" else Per.MONTH if unit == "m" else Per.CALL,
        usd=Decimal(found["usd"]),
        units=count("--cost", found["units"]) if found["units"] else Decimal(1),
        route=route,
    )


def _wrong(option: str, message: str, hint: str) -> InvalidRequest:
    field = option.partition(":")[0].lstrip("-").replace("-", "_")
    return InvalidRequest(f"{option}: {message}", field=field, hint=hint)
