"""Choose the events that a job's reader is shown: one attempt's, in order, or an honest error; never a splice.

The events of an attempt are held back until it brings content. If it fails before, or another begins, nothing of it was
seen: a failover goes unnoticed. From the first content on only that attempt counts. Its last event, `message_stop`, is
shown once the job has ended with its answer: what a reader saw whole is the result that is stored.
"""

from typing import Any, NamedTuple

import orjson

from trivet_routing.answer_stream import AttemptEnd, EntryKind, StreamEntry
from trivet_routing.message_events import MESSAGE_STOP, Event, message_events
from trivet_tasks.outcomes import Outcome

_CONTENT = frozenset({"content_block_delta", "message_delta"})
"""Types of event with which an attempt counts as having brought something."""
GAP = "the events of its answer did not all arrive here"
ANEW = "the call that had begun to answer was given up, and the job went on with another"


class Cut(NamedTuple):
    """The end of what can be shown: the outcome of the attempt, and the reason."""

    outcome: str
    message: str


class AnswerReading:
    """The events of one job's answer, from the entries of its stream to its reader. Pure: no server, no clock."""

    def __init__(self) -> None:
        self.shown = ""
        """The attempt of which events were shown; empty before the first."""
        self.cut: Cut | None = None
        """Set once nothing more can be shown, though what was shown is not the whole answer."""
        self.complete = False
        """True once the whole answer, `message_stop` included, was shown."""
        self._attempt = ""
        self._next = 0
        self._over: set[str] = set()
        self._held: list[Event] = []
        self._ready: list[Event] = []
        self._whole = False
        """True if all events of the shown attempt but `message_stop` are there."""

    @property
    def over(self) -> bool:
        """Return whether no more events come."""
        return self.complete or self.cut is not None

    def events(self) -> list[Event]:
        """Return the events that may be shown now, each once."""
        ready, self._ready = self._ready, []
        return ready

    def take(self, entry: StreamEntry) -> None:
        """Take the next entry of the job's stream."""
        if self.over or self._whole or entry.attempt in self._over:
            return
        if entry.attempt != self._attempt:
            if self.shown:
                self._break(Cut(Outcome.INCOMPLETE.value, ANEW))
                return
            self._drop()
            self._attempt, self._next = entry.attempt, 0
        if entry.number < self._next:  # written twice, because the connection broke after the first time
            return
        if entry.number > self._next:
            self._lose(Cut(Outcome.INCOMPLETE.value, GAP))
            return
        self._next += 1
        try:
            if entry.kind is EntryKind.EVENTS:
                for data in entry.data.split(b"\n"):
                    self._add(data)
            else:
                self._end(AttemptEnd.of(entry.data))
        except (ValueError, TypeError, KeyError):  # what cannot be read is missing: nothing after it counts
            self._lose(Cut(Outcome.INCOMPLETE.value, GAP))

    def given_up(self) -> None:
        """Note that the job is not, or no more, with the attempt that was shown."""
        if self.shown:
            self._break(Cut(Outcome.INCOMPLETE.value, ANEW))

    def conclude(self, attempt: str | None, message: dict[str, Any] | None, *, patient: bool = False) -> bool:
        """Show the rest, now that the job has ended; False where the rest of its events may still arrive.

        Args:
            attempt: id of the attempt whose answer is the job's; None: it was no attempt of its own (the cache).
            message: the job's answer; None: it ended without one, and `cut` stays as it is.
            patient: wait for events that have not arrived.
        """
        if self.over or message is None:
            return True
        if not self.shown:
            self._held = []
            self._ready += message_events(message)
            self.complete = True
        elif attempt != self.shown:
            self.given_up()
        elif self._whole:
            self._ready.append(MESSAGE_STOP)
            self.complete = True
        elif patient:
            return False
        else:
            self._break(Cut(Outcome.INCOMPLETE.value, GAP))
        return True

    def _add(self, data: bytes) -> None:
        kind = orjson.loads(data)["type"]
        if kind == "ping":
            return
        if kind in _CONTENT and not self.shown:
            self.shown = self._attempt
            self._ready += self._held
            self._held = []
        if kind == "message_stop":
            self._whole = bool(self.shown)
        elif self.shown:
            self._ready.append(Event(data, kind))
        else:
            self._held.append(Event(data, kind))

    def _end(self, end: AttemptEnd) -> None:
        if end.outcome != Outcome.SUCCEEDED.value:
            self._lose(Cut(end.outcome, end.message))
        elif self.shown:
            self._whole = True

    def _lose(self, cut: Cut) -> None:
        """Give the current attempt up: unseen, if nothing of it was shown."""
        if self.shown:
            self._break(cut)
        else:
            self._drop()

    def _drop(self) -> None:
        if self._attempt:
            self._over.add(self._attempt)
        self._attempt, self._held = "", []

    def _break(self, cut: Cut) -> None:
        if not self.over:
            self.cut = cut
