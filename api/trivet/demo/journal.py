"""What happened, a line at a time: what the demo did to the providers, and what Trivet made of it."""

from collections.abc import Iterator
from dataclasses import dataclass

SETTLED_S = 1.0
"""How old a line is before it is printed for good: by then the jobs it moved are counted."""


@dataclass(slots=True)
class Line:
    """One thing that happened, `at_s` seconds into the run. `who` is `demo` or `trivet`."""

    at_s: float
    who: str
    text: str
    moved: int = 0
    """Jobs that failed over because of it; grows while it lasts."""

    def __str__(self) -> str:
        jobs = "1 job" if self.moved == 1 else f"{self.moved:,} jobs"
        return self.text + (f" → {jobs} failed over" if self.moved else "")


class Journal:
    """All lines so far, oldest first."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._printed = 0

    def add(self, at_s: float, who: str, text: str) -> Line:
        """Write a line; the caller may go on counting in it."""
        line = Line(at_s, who, text)
        self.lines.append(line)
        return line

    @property
    def all_printed(self) -> bool:
        """Whether `unprinted` has handed out every line."""
        return self._printed == len(self.lines)

    def unprinted(self, now_s: float) -> Iterator[Line]:
        """The lines not handed out here before that have settled by now."""
        while self._printed < len(self.lines) and self.lines[self._printed].at_s <= now_s - SETTLED_S:
            self._printed += 1
            yield self.lines[self._printed - 1]
