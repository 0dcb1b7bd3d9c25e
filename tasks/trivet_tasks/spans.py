"""Spans of time as people write them: `90s`, `5m`, `24h`."""

import re

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def span_s(given: str) -> float | None:
    """Return the seconds of a span such as `10m` or `90`; None when it is not one."""
    found = _SPAN.fullmatch(given.strip().lower())
    return float(found[1]) * _UNIT_S[found[2]] if found else None
