"""The call log: every call to a provider, in a bounded ring, and as JSON lines in a file when asked. Never a prompt."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

PIECE_CALLS = 2000
FLUSH_BYTES = 1 << 20


@dataclass(slots=True)
class Call:
    """One call. Times are epoch seconds; `finished` None while it runs."""

    provider: str
    model: str
    attempt: str | None
    started: float
    stream: bool = False
    seq: int | None = None
    """Its place in the log, given when it ends."""
    finished: float | None = None
    status: int | None = None
    """The HTTP status sent; None when no header was."""
    fault: str | None = None
    """The fault that hit it, `limit` when a limit refused it, `down` or `stopped` when the server broke it off."""
    complete: bool = False
    """A 200 was answered whole, and its content is a whole answer."""
    client_gone: bool = False
    """The client went away before the answer was out."""
    request_id: str = ""
    usage: dict[str, int] | None = None

    def as_json(self) -> bytes:
        """One line of the log, without its newline."""
        return orjson.dumps(self)


@dataclass(slots=True)
class _Waiter:
    number: int
    provider: str | None
    what: str
    future: asyncio.Future[None]


class CallLog:
    """Holds the last `capacity` finished calls; `dropped` counts those it had to forget."""

    def __init__(self, capacity: int, path: Path | None) -> None:
        self._capacity = capacity
        # kept as lines: half the memory of objects, and nothing for the garbage collector to walk
        self._ring: list[bytes] = []
        self._base = 0
        self._next = 0
        self._running: dict[int, Call] = {}
        self._file: BinaryIO | None = None if path is None else path.open("ab", buffering=FLUSH_BYTES)
        self._waiters: list[_Waiter] = []
        self.started: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()

    @property
    def next_seq(self) -> int:
        """The number the next finished call gets."""
        return self._next

    @property
    def dropped(self) -> int:
        """Calls no longer held because the ring was full."""
        return max(0, self._next - self._base - self._capacity)

    def begin(self, call: Call) -> None:
        """A call has arrived."""
        self._running[id(call)] = call
        self.started[call.provider] += 1
        if self._waiters:
            self._wake()

    def end(self, call: Call) -> None:
        """A call is over; nothing when the log was reset while it ran."""
        if self._running.pop(id(call), None) is None:
            return
        call.seq = self._next
        line = call.as_json()
        if len(self._ring) < self._capacity:
            self._ring.append(line)
        else:
            self._ring[(self._next - self._base) % self._capacity] = line
        self._next += 1
        self.finished[call.provider] += 1
        if self._file is not None:
            self._file.write(line + b"\n")
        if self._waiters:
            self._wake()

    def read(self, since: int, *, running: bool) -> Iterator[bytes]:
        """JSON lines of finished calls numbered `since` and up, in order, in pieces; then those still running."""
        self.flush()
        upto = self._next
        at = max(since, self._base)
        while at < upto:
            at = max(at, self._base + self.dropped)
            stop = min(upto, at + PIECE_CALLS)
            lines = [self._ring[(seq - self._base) % self._capacity] for seq in range(at, stop)]
            if lines:
                yield b"\n".join(lines) + b"\n"
            at = stop
        if running and self._running:
            yield b"".join(call.as_json() + b"\n" for call in list(self._running.values()))

    def count(self, what: str, provider: str | None) -> int:
        """Return the number of calls that have `started` or `finished`, of one provider or of all."""
        counter = self.started if what == "started" else self.finished
        return counter[provider] if provider is not None else counter.total()

    async def wait(self, number: int, provider: str | None, what: str, timeout_s: float) -> bool:
        """Wait until so many calls have started or finished; False when the time is up first."""
        if self.count(what, provider) >= number:
            return True
        waiter = _Waiter(number, provider, what, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.future
        except TimeoutError:
            return False
        finally:
            self._waiters.remove(waiter)
        return True

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.future.done() and self.count(waiter.what, waiter.provider) >= waiter.number:
                waiter.future.set_result(None)

    def reset(self) -> None:
        """Forget all calls; numbers go on counting up. The file keeps what it has."""
        self._ring = []
        self._base = self._next
        self._running.clear()
        self.started.clear()
        self.finished.clear()
        self.flush()

    def flush(self) -> None:
        """Write buffered lines to the file."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def as_json(self) -> dict[str, Any]:
        """Figures for the control port."""
        return {"next_seq": self._next, "held": len(self._ring), "dropped": self.dropped, "running": len(self._running)}
