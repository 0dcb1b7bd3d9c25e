"""Killing processes at random, one every few seconds, from a seed.

One that is only starting is spared: on a busy machine a start takes longer than the time between two kills, and if all
died before they had begun, that would prove nothing.
"""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Sequence

from tests.chaos.running import Chaos

from trivet_tasks.errors import ProcessFailed


class Storm:
    """Kills as long as it blows, `most` processes at most. The same seed draws the same victims, in the same order."""

    def __init__(
        self, chaos: Chaos, victims: Sequence[str], *, every_s: float, seed: int, most: int = 1_000_000
    ) -> None:
        self._chaos = chaos
        self._victims = list(victims)
        self._every_s = every_s
        self._most = most
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow, name="chaos-storm", daemon=True)
        self.kills: Counter[str] = Counter()
        """By kind of process."""

    def __enter__(self) -> "Storm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _blow(self) -> None:
        while self.kills.total() < self._most and not self._over.wait(self._every_s):
            victim = self._random.choice(self._victims)
            death = self._chaos.kill(victim) if self._ready(victim) else None
            if death is not None:
                self.kills[death.kind] += 1

    def _ready(self, name: str) -> bool:
        with contextlib.suppress(ProcessFailed):
            self._chaos.local.supervisor.wait_ready(name, 0)
            return True
        return False
