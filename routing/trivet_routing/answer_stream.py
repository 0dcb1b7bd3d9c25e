"""The Redis stream of one job's answer while it comes: its key, its entries, their seal.

A worker adds the events of each attempt to the stream `trivet:stream:JOB` and publishes an empty message on the channel of
that name. Anybody with write access to Redis may add to it, so an entry counts only if a worker of this installation signed
it (HMAC-SHA256) for this job, this attempt and this place in it.

    a  id of the attempt           k  kind: events, end
    n  its number in the attempt   d  events: one or several, as JSON, a line each; end: outcome and words, as JSON
    m  the MAC of all these
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import orjson

from trivet_tasks.shared_state import PREFIX

STREAMS = f"{PREFIX}stream:"
"""Beginning of the key, and of the channel, of a job's stream; its id follows."""
_PURPOSE = b"trivet streamed answers 1"
_ATTEMPT = re.compile(rb"[0-9a-zA-Z-]{1,64}")
_DIGITS = 9


class EntryKind(StrEnum):
    """Kind of an entry."""

    EVENTS = "events"
    """Events of the answer."""
    END = "end"
    """The end of the attempt."""


class StreamEntry(NamedTuple):
    """One entry of a job's stream."""

    attempt: str
    number: int
    """Its number in the attempt, from 0."""
    kind: EntryKind
    data: bytes


class AttemptEnd(NamedTuple):
    """The end of an attempt, e.g. `AttemptEnd("incomplete", "the stream ended in the middle of its message")`."""

    outcome: str
    """`succeeded`, or the outcome of the failure."""
    message: str
    """The reason of the failure, cleaned; never a prompt."""

    def data(self) -> bytes:
        """Return it as the data of an entry."""
        return orjson.dumps([self.outcome, self.message])

    @classmethod
    def of(cls, data: bytes) -> "AttemptEnd":
        """Read the data of a sealed entry."""
        outcome, message = orjson.loads(data)
        return cls(str(outcome), str(message))


class StreamSeal:
    """Signs entries and checks them. Safe to share between threads.

    Args:
        key: the installation's.
    """

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, _PURPOSE, "sha256")

    def fields(self, job_id: str, entry: StreamEntry) -> dict[str, str | bytes | int]:
        """Return the fields of an entry, for XADD."""
        head = f"{job_id}\n{entry.attempt}\n{entry.number}\n{entry.kind}\n".encode()
        mac = self._mac(head, entry.data)
        return {"a": entry.attempt, "n": entry.number, "k": entry.kind.value, "d": entry.data, "m": mac}

    def open(self, job_id: str, fields: Mapping[bytes, bytes]) -> StreamEntry | None:
        """Return the entry of these fields; None where this installation did not write it for this job."""
        attempt, number, kind, data, mac = (fields.get(name, b"") for name in (b"a", b"n", b"k", b"d", b"m"))
        if not _ATTEMPT.fullmatch(attempt) or not (number.isdigit() and len(number) <= _DIGITS):
            return None
        if kind not in (b"events", b"end"):
            return None
        head = b"%b\n%b\n%b\n%b\n" % (job_id.encode(), attempt, number, kind)
        if not hmac.compare_digest(mac, self._mac(head, data)):
            return None
        return StreamEntry(attempt.decode(), int(number), EntryKind(kind.decode()), data)

    def _mac(self, head: bytes, data: bytes) -> bytes:
        mac = hmac.new(self._key, head, hashlib.sha256)
        mac.update(data)
        return mac.digest()


def stream_of(job_id: str) -> str:
    """Return the key of a job's stream, which is the name of its channel, too."""
    return STREAMS + job_id
