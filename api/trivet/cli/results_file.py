"""A file of results, one JSON line each, that a broken run can be gone on with."""

import os
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

import orjson

from trivet.cli.result_json import result_line
from trivet.client.result import Result
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.seen import Seen

_BEGIN = b'{"id":"'
"""How every line begins."""


class ResultsFile:
    """Appends each result once, over any number of runs; a job that was made to run again gets a further line.

    While lines are added it is called `FILE.part`; it has its name when the block ends without an error, so what has the
    name is whole. Opening it goes on with either, and takes away a last line that was cut off. What is in it is remembered
    in a temporary file (`trivet_tasks.requests.seen`), so it may have any length.

    Raises:
        InvalidRequest: the file cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._known = Seen()
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{path}: is not a regular file.")
        if path.exists() and self._part.exists():
            raise InvalidRequest(
                f"{path} is there, and so is {self._part.name} of a run that was broken off.",
                hint="Remove the one that is not wanted.",
            )
        self._whole = path.exists()
        beginning = path if self._whole else self._part
        try:
            self._file = beginning.open("r+b" if beginning.exists() else "w+b")
        except OSError as error:
            raise InvalidRequest(f"{path}: cannot be written: {error.strerror}.") from None
        try:
            self._read()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            if error is None and not self._whole:
                self._part.replace(self.path)
            elif not self._whole and self._part.stat().st_size == 0:
                self._part.unlink()
        finally:
            self._close()

    def __contains__(self, result: Result) -> bool:
        key, value = _end_of(result.id, result.status, result.latency_s)
        return self._known.get(key) == value

    def write(self, result: Result) -> None:
        """Append a result, unless it is there."""
        if result not in self:
            if self._whole:
                self.path.rename(self._part)
                self._whole = False
            self._file.write(result_line(result))
            self._known.earlier(*_end_of(result.id, result.status, result.latency_s))

    def _close(self) -> None:
        self._known.close()
        self._file.close()

    def _read(self) -> None:
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n") and (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
                break  # cut off by a break
            self._known.earlier(*self._end_in(line, number))
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()

    def _end_in(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        try:
            result = orjson.loads(line)
            return _end_of(result["id"], result["status"], result["latency_s"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise InvalidRequest(
                f"{self.path}: line {number} is not a result of a job.", hint="Choose another file for the results."
            ) from None


def _end_of(job_id: str, status: str, latency_s: float) -> tuple[bytes, bytes]:
    """What tells one end of a job from another, in two halves; ValueError when that is no job's id."""
    digest = blake2b(bytes.fromhex(job_id) + f"{status} {float(latency_s)!r}".encode(), digest_size=16).digest()
    return digest[:8], digest[8:]
