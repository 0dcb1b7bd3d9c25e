"""Messages of its own that the shop's broker has lost, told from those that Trivet has still to send.

Kombu takes a message from Redis by BRPOP, and notes it in the hash `unacked` by a second command. If the worker is killed
between the two, the message is in neither, whatever the application's settings are.
"""

from collections import Counter
from collections.abc import Sequence
from types import ModuleType

from celery.result import AsyncResult
from tests.celery_shop.running import Shop
from tests.databases import rows
from tests.timing import until

from trivet.testing import RunningTrivet

_DELIVERIES = """
    SELECT d.name, d.done FROM deliveries d JOIN jobs j ON j.id = d.job_id WHERE j.tenant = :tenant
"""


class Losses:
    """The documents of a run whose next message nobody has, found by two looks that agree."""

    def __init__(self, shop: Shop, trivet: RunningTrivet, tenant: str, documents: Sequence[AsyncResult]) -> None:
        """Look at nothing yet.

        Args:
            tenant: of all its jobs; the documents are saved as `TENANT-0`, `TENANT-1`, …
            documents: results of the last tasks of their chains (`app.steps_of`).
        """
        self._shop = shop
        self._trivet = trivet
        self._tenant = tenant
        self._documents = documents
        self._suspected: set[tuple[int, str]] = set()

    def look(self) -> dict[int, str]:
        """Return the task whose message the broker has lost, by number of the document. Empty at the first look."""
        found = set(self._gone().items())
        certain, self._suspected = found & self._suspected, found
        return dict(certain)

    def name(self, number: int) -> str:
        """Return the name under which a document is saved."""
        return f"{self._tenant}-{number}"

    def unsaved(self) -> list[int]:
        """Return the numbers of documents that were not saved yet."""
        return [number for number in range(len(self._documents)) if not self._shop.lines(self.name(number))]

    def send_again(self, tasks: ModuleType, within_s: float) -> Counter[str]:
        """Wait until all is saved, and send again what the broker loses, as the how-to says. Returns the losses by task.

        Raises:
            AssertionError: some was not saved in time.
        """
        lost: Counter[str] = Counter()

        def all_saved() -> bool:
            for number, task in self.look().items():
                lost[task] += 1
                tasks.send_again(self._documents[number], number, self.name(number), self._tenant)
            return not self.unsaved()

        until(all_saved, "every document to be saved", within_s, pause_s=2.0)
        return lost

    def _gone(self) -> dict[int, str]:
        confirmed = {row.name: bool(row.done) for row in rows(self._trivet.settings, _DELIVERIES, tenant=self._tenant)}
        unsaved = self.unsaved()
        in_broker = self._shop.messages() if unsaved else set()
        gone = {}
        for number in unsaved:
            save = self._documents[number]
            generate = save.parent
            if generate.id not in confirmed:  # Trivet has no job of it
                if not {generate.id, generate.parent.id} & in_broker:
                    gone[number] = "generate" if generate.parent.successful() else "load"
            elif confirmed[generate.id] and save.id not in in_broker:
                gone[number] = "save"
        return gone
