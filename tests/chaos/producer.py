"""A producer that may be killed at any moment and started again: it submits the same again, and it is accepted once.

    python tests/chaos/producer.py DOOM CONFIG NAME TAG BATCHES SIZE REALTIME PACE_S REPEATED

It submits BATCHES batches of SIZE jobs, one every PACE_S seconds, and between them REALTIME realtime jobs, spread
evenly. Every job that was accepted is a line of `NAME.accepted` beside the configuration; `NAME.done` is there when all
are in. Then it waits to be killed.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import doomed
from tests.faults.ledger import HAIKU

from trivet import Client
from trivet_tasks.errors import TrivetError
from trivet_tasks.processes.startup import announce_ready, follow_parent

RETRY_S = 0.5
MAX_TOKENS = 40
WHOLE_ANSWER = 1_000


@dataclass(frozen=True)
class Plan:
    """The jobs to submit."""

    name: str
    tag: str
    batches: int
    size: int
    realtime: int
    pace_s: float
    repeated: bool = False
    """True if three of ten requests of a batch repeat another one."""

    @classmethod
    def of(cls, words: list[str]) -> "Plan":
        """From the words of a command line."""
        name, tag, batches, size, realtime, pace_s, repeated = words
        return cls(name, tag, int(batches), int(size), int(realtime), float(pace_s), repeated == "True")

    def words(self) -> list[str]:
        """Return it as words of a command line."""
        figures = (self.batches, self.size, self.realtime, self.pace_s, self.repeated)
        return [self.name, self.tag, *(str(n) for n in figures)]

    @property
    def total(self) -> int:
        """Number of these jobs."""
        return self.batches * self.size + self.realtime

    @property
    def terms(self) -> dict[str, Any]:
        """Terms that all jobs share."""
        # what is cut is kept for nobody: answers to what is asked again are to be whole
        most = WHOLE_ANSWER if self.repeated else MAX_TOKENS
        return {"model": HAIKU, "max_tokens": most, "compliance": [self.tag]}

    def requests(self, batch: int) -> Iterator[dict[str, Any]]:
        """The requests of one batch; those of every other one have keys."""
        for number in range(self.size):
            keyed = {"key": f"{self.name}/{batch}/{number}"} if batch % 2 else {}
            asked = number - 5 if self.repeated and number % 10 > 6 else number
            yield {"prompt": f"Page {asked} of {self.name}/{batch}", **keyed}


def accepted_path(config: Path, name: str) -> Path:
    """Return the file that lists the accepted jobs of a producer."""
    return config.with_name(f"{name}.accepted")


def done_path(config: Path, name: str) -> Path:
    """Return the file that exists once all jobs are accepted."""
    return config.with_name(f"{name}.done")


def produce(client: Client, config: Path, plan: Plan, pace: threading.Event) -> None:
    """Submit the plan."""
    per_batch = plan.realtime // plan.batches
    with accepted_path(config, plan.name).open("a", encoding="ascii") as accepted:

        def note(ids: list[str]) -> None:
            accepted.write("".join(f"{job_id}\n" for job_id in ids))
            accepted.flush()

        for batch in range(plan.batches):
            name = f"{plan.name}/{batch}"
            persistently(lambda: client.submit_many(plan.requests(batch), name=name, **plan.terms), pace)  # noqa: B023
            note([job.id for job in persistently(lambda: client.jobs(batch=name, limit=plan.size), pace)])  # noqa: B023
            last = batch == plan.batches - 1
            for number in range(batch * per_batch, plan.realtime if last else (batch + 1) * per_batch):
                key = f"{plan.name}/realtime/{number}"
                job = persistently(
                    lambda: client.submit(f"Now: {key}", key=key, latency="realtime", **plan.terms),  # noqa: B023
                    pace,
                )
                note([job.id])
            pace.wait(plan.pace_s)
    done_path(config, plan.name).touch()


def persistently(submit: Any, pace: threading.Event) -> Any:
    """Submit until it is accepted: database and broker may be away."""
    while True:
        try:
            return submit()
        except TrivetError as error:
            sys.stderr.write(f"again: {error}\n")
            pace.wait(RETRY_S)


def main() -> None:
    """Submit, then wait for the end."""
    follow_parent()
    doom, config, plan = Path(sys.argv[1]), Path(sys.argv[2]), Plan.of(sys.argv[3:])
    doomed.doom_producer(doomed.Doom(doom))
    announce_ready()
    with Client(config) as client:
        produce(client, config, plan, threading.Event())
        signal.pause()


if __name__ == "__main__":
    main()
