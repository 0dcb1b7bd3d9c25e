"""Reading of an answer's headers: request id, when to come back, Anthropic's limits."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from trivet_tasks.foreign_text import clean
from trivet_worker.adapters.protocol import LimitReading, LimitWindow

Headers = Mapping[str, str]
"""Headers by lower-case name."""

_REQUEST_IDS = ("request-id", "x-amzn-requestid", "x-goog-request-id", "x-request-id")
_LIMITS = "anthropic-ratelimit-"
MAX_WAIT_S = 3_600.0
"""Maximum pause that a provider can ask for: a minute limit is over by then, and a longer one is tried again."""
_MAX_COUNT = 10**12
"""Maximum limit of an account that is believed."""
_ID = 200
"""Maximum length of a request id, in characters."""


def plain(headers: httpx2.Headers) -> Headers:
    """Return the headers as a plain dict: httpx2 searches its list anew for every name asked for."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers.raw}


def request_id(headers: Headers) -> str | None:
    """Return the provider's own id of the call, or None."""
    for name in _REQUEST_IDS:
        if (value := headers.get(name)) and (known := clean(value, _ID)):
            return known
    return None


def retry_after_s(headers: Headers) -> float | None:
    """Return the seconds until the provider wants the next call; None when it names none. `capped` bounds them.

    Read in this order: `retry-after-ms`, `retry-after` (seconds, whole or not, or an HTTP date), then the latest reset
    of the limits that have nothing left. A moment that has passed is 0.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is not None:
        seconds = _number(value)
        if seconds is None:
            seconds = _seconds_until(_moment(value), _clock(headers))
        if seconds is not None:
            return seconds
    return _spent_until(limits(headers))


def capped(seconds: float | None) -> float | None:
    """Return at most `MAX_WAIT_S` of the wait that a provider asks for."""
    return None if seconds is None else min(seconds, MAX_WAIT_S)


def limits(headers: Headers) -> LimitReading | None:
    """Read the `anthropic-ratelimit-*` headers; None where there are none."""
    requests, input_tokens, output_tokens = (
        _window(headers, f"{_LIMITS}{kind}-") for kind in ("requests", "input-tokens", "output-tokens")
    )
    if requests is None and input_tokens is None and output_tokens is None:
        return None
    return LimitReading(requests, input_tokens, output_tokens)


def _spent_until(reading: LimitReading | None) -> float | None:
    if reading is None:
        return None
    windows = (reading.requests, reading.input_tokens, reading.output_tokens)
    resets = [w.reset_s for w in windows if w is not None and w.remaining == 0 and w.reset_s is not None]
    return max(resets, default=None)


def _window(headers: Headers, prefix: str) -> LimitWindow | None:
    limit, remaining = headers.get(f"{prefix}limit"), headers.get(f"{prefix}remaining")
    reset = headers.get(f"{prefix}reset")
    if limit is None and remaining is None and reset is None:
        return None
    reset_s = _seconds_until(_moment(reset, datetime.fromisoformat), _clock(headers)) if reset else None
    return LimitWindow(_whole(limit), _whole(remaining), capped(reset_s))


def _clock(headers: Headers) -> datetime:
    """Return the provider's time where it shows it, so that a wrong clock here does no harm; else ours."""
    date = headers.get("date")
    return (date and _moment(date)) or datetime.now(UTC)


def _seconds_until(moment: datetime | None, now: datetime) -> float | None:
    try:
        return None if moment is None else max(0.0, (moment - now).total_seconds())
    except OverflowError:
        return None


def _moment(text: str, parse: Callable[[str], datetime] = parsedate_to_datetime) -> datetime | None:
    """Return the moment of an HTTP date, or of what `parse` reads; None where it is none."""
    try:
        moment = parse(text)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _whole(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else int(min(number, _MAX_COUNT))
