"""Spans of time in words, for people."""


def ago(seconds: float) -> str:
    """Return a duration in its largest unit."""
    seconds = max(0.0, seconds)
    for size, unit in ((172_800, "d"), (7_200, "h"), (120, "min")):
        if seconds >= size:
            return f"{int(seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit])} {unit}"
    return f"{int(seconds)} s"
