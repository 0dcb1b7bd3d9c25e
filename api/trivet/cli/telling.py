"""For commands that wait: say on standard error, once, what holds up what they wait for, and once that it goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.admin.blocked import Blocked

FIRST_LOOK_S = 3.0
"""Most of what is waited for ends sooner, and is then not looked at."""
LOOK_EVERY_S = 2.0


class Teller:
    """Looks from a thread of its own while a command waits."""

    def __init__(self, look: "Callable[[], Blocked]") -> None:
        self._look = look
        self._told: frozenset[tuple[str, str]] = frozenset()
        self._held = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trivet-telling", daemon=True)

    @property
    def held(self) -> bool:
        """Return True if something wrong held it up at the last look."""
        return self._held

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Say nothing more."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        from trivet_tasks.errors import TrivetError

        pause_s = FIRST_LOOK_S
        while not self._done.wait(pause_s):
            pause_s = LOOK_EVERY_S
            try:
                found = self._look()
            except TrivetError:  # the command itself meets it, and says so
                continue
            if not self._done.is_set():
                self._tell(found)

    def _tell(self, found: "Blocked") -> None:
        from trivet.cli.tables import print_error

        if found.wrong:
            about = frozenset(one.key for one in found.impairments) or frozenset({("routes", "")})
            if not about <= self._told:
                print_error(f"Held up: {' '.join(found.notes)}", style="yellow")
            self._told |= about
        elif self._held:
            print_error("It goes on.", style="yellow")
            self._told = frozenset()
        self._held = found.wrong


@contextmanager
def telling(look: "Callable[[], Blocked]") -> Iterator[Teller]:
    """Tell while the block waits.

    Args:
        look: reads what holds it up. Called in another thread; a TrivetError that it raises is left to the block.
    """
    teller = Teller(look)
    teller.start()
    try:
        yield teller
    finally:
        teller.close()
