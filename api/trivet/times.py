"""Times and spans of time in words, for people."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def ago(seconds: float) -> str:
    """Return a duration in its largest unit."""
    seconds = max(0.0, seconds)
    for size, unit in ((172_800, "d"), (7_200, "h"), (120, "min")):
        if seconds >= size:
            return f"{int(seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit])} {unit}"
    return f"{int(seconds)} s"


def moment(at: float | None) -> str:
    """Return a time, in seconds since the epoch, as people read it, in UTC."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def zone_moment(at: float | None, timezone: str) -> str:
    """Return a time, in seconds since the epoch, in a time zone: `2026-12-01 06:30 +0100`. Empty for None."""
    return "" if at is None else datetime.fromtimestamp(at, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M %z")


def iso(at: float) -> str:
    """Return a time, in seconds since the epoch, in ISO 8601 and UTC, for JSON."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float | None) -> str:
    """Return a duration, in seconds, as people read it; empty for None."""
    if value is None:
        return ""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
