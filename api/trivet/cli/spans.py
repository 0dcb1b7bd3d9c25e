"""Times as people type them: `90`, `30s`, `10m`, `24h`, `7d`, or a moment in ISO 8601."""

import re
from datetime import UTC, datetime

from trivet_tasks.errors import InvalidRequest

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def span_s(given: str) -> float | None:
    """Seconds of a span such as `10m` or `90`; None when it is not one."""
    found = _SPAN.fullmatch(given.strip().lower())
    return float(found[1]) * _UNIT_S[found[2]] if found else None


def span_or_moment(given: str | None) -> float | str | None:
    """A `deadline` or `not_before` as a request has it: a span as seconds, anything else as it is."""
    if given is None:
        return None
    seconds = span_s(given)
    return given if seconds is None else seconds


def age_s(option: str, given: str) -> float:
    """Seconds of an age such as `30d`. Its unit must be named: what is deleted does not hang on a guess.

    Raises:
        InvalidRequest: it is not a span, or a number without a unit.
    """
    seconds = span_s(given)
    if seconds is None or given.strip()[-1].isdigit():
        unit = "" if seconds is None else ": days, hours?"
        raise InvalidRequest(
            f"{option}: {given!r} is not a span of time{unit}.",
            field=option.lstrip("-").replace("-", "_"),
            hint="Use 30d, 12h, 90m or 4w.",
        )
    return seconds


def since(given: str, now: float, *, option: str = "--since") -> float:
    """The moment that `--since` means, in seconds since the epoch. A moment without a time zone is UTC.

    Args:
        now: the database's time: a span counts back from it.

    Raises:
        InvalidRequest: it is neither a span nor a moment.
    """
    seconds = span_s(given)
    if seconds is not None:
        return max(0.0, now - seconds)
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidRequest(
            f"{option}: {given!r} is not a time.",
            field=option.lstrip("-").replace("-", "_"),
            hint="Use 7d, 24h, 30m or a moment such as 2026-11-01.",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
