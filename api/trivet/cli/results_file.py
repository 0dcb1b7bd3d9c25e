"""A file of results, one JSON line each, that a broken run can be gone on with."""

import os
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

import orjson

from trivet.cli.result_json import result_line
from trivet.result import Result
from trivet_tasks.errors import InvalidRequest

_BEGIN = b'{"id":"'
"""How every line begins."""


class ResultsFile:
    """Appends each result once, over any number of runs; a job that was made to run again gets a further line.

    Opening it reads what is there and takes away a last line that was cut off. It holds 16 bytes for each line.

    Raises:
        InvalidRequest: the file cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("r+b" if path.exists() else "w+b")
        except OSError as error:
            raise InvalidRequest(f"{path}: cannot be written: {error.strerror}.") from None
        try:
            self._known = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, result: Result) -> bool:
        return _end_of(result.id, result.status, result.latency_s) in self._known

    def write(self, result: Result) -> None:
        """Append a result, unless it is there."""
        if result not in self:
            self._file.write(result_line(result))
            self._known.add(_end_of(result.id, result.status, result.latency_s))

    def close(self) -> None:
        """Put everything on disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _read(self) -> set[bytes]:
        known: set[bytes] = set()
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n") and (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
                break  # cut off by a break
            known.add(self._end_in(line, number))
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()
        return known

    def _end_in(self, line: bytes, number: int) -> bytes:
        try:
            result = orjson.loads(line)
            return _end_of(result["id"], result["status"], result["latency_s"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise InvalidRequest(
                f"{self.path}: line {number} is not a result of a job.", hint="Choose another file for the results."
            ) from None


def _end_of(job_id: str, status: str, latency_s: float) -> bytes:
    """What tells one end of a job from another; ValueError when that is no job's id."""
    return blake2b(bytes.fromhex(job_id) + f"{status} {float(latency_s)!r}".encode(), digest_size=16).digest()
