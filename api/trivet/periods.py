"""Spans of past time as people name them: from `7d` ago, or from a moment, to another."""

from datetime import UTC, datetime

from trivet.times import moment
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.spans import span_s

_FORMS = "Use 7d, 24h, 30m, 90s or a moment such as 2026-11-01."


def since(given: str, now: float, *, option: str = "--since") -> float:
    """Return the moment that `--since` means, in seconds since the epoch. A moment without a time zone is UTC.

    >>> since("1h", 7_200.0), since("1970-01-02", 0.0)
    (3600.0, 86400.0)

    Args:
        now: the database's time: a span counts back from it.
        option: its name in errors.

    Raises:
        InvalidRequest: it is neither a span nor a moment, or a number without a unit.
    """
    seconds = span_s(given)
    if seconds is not None:
        if seconds and given.strip()[-1].isdigit():
            raise _wrong(option, f"{given!r} needs a unit: days, hours, minutes?", _FORMS)
        return max(0.0, now - seconds)
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise _wrong(option, f"{given!r} is not a time.", _FORMS) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def period(
    given_since: str, given_until: str | None, now: float, *, options: tuple[str, str] = ("--since", "--until")
) -> tuple[float, float]:
    """Return the beginning and the end that `--since` and `--until` name; the end is now where none is given.

    Args:
        options: the names of both in errors.

    Raises:
        InvalidRequest: one of them is not a time, or it ends before it begins.
    """
    start = since(given_since, now, option=options[0])
    end = now if given_until is None else since(given_until, now, option=options[1])
    if end < start:
        raise _wrong(
            options[1],
            f"{moment(end)} is before {options[0]}, {moment(start)}.",
            "A span counts back from now: since 14d until 7d is the week before last.",
        )
    return start, end


def _wrong(option: str, fault: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{option}: {fault}", field=option.lstrip("-"), hint=hint)
