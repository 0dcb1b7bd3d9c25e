"""What is shown while the demo runs: on a terminal a live screen, elsewhere a plain line every few seconds."""

from dataclasses import dataclass
from typing import Protocol

from trivet.demo.journal import Journal
from trivet.demo.readings import Reading
from trivet.demo.watch import Watch


@dataclass(frozen=True, slots=True)
class State:
    """All there is to show. `elapsed_s` counts from the first submit; `submitted` are jobs accepted so far."""

    elapsed_s: float
    jobs: int
    submitted: int
    reading: Reading | None
    watch: Watch
    journal: Journal


class View(Protocol):
    """Something that shows states."""

    def starting(self, what: str) -> None:
        """Say what is being started or stopped, before and after there is anything to show."""

    def show(self, state: State) -> None:
        """Show how it stands; called a few times a second."""

    def finish(self, state: State | None) -> None:
        """Nothing more will be shown; leave behind what is worth keeping. None: it was broken off."""
