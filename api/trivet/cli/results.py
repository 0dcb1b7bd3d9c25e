"""Results: printed for a person, and written as JSON Lines or as a table."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import orjson
import typer

from trivet.cli import output
from trivet.cli.output import FAILED, print_error, print_line
from trivet.cli.result_forms import Form
from trivet.client.result import Result
from trivet.json_objects import result_line
from trivet.times import seconds
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.jsonl import Seen
from trivet_tasks.states import JobState

_BEGIN = b'{"id":"'
"""Beginning of every line."""
_ENDED: dict[str, str] = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "expired",
    JobState.CANCELLED: "was cancelled",
}


def print_result(result: Result, *, as_json: bool) -> None:
    """Print the text of a result and where it came from. Exits with 1 when there is none."""
    if as_json:
        sys.stdout.write(output.shown_json(result_line(result).decode()))
    elif result.succeeded:
        print(output.shown(result.text))  # noqa: T201
        print_line(came_from(result), style="dim")
    elif result.pruned:
        print_error(f"trivet: job {result.id} {_ENDED[result.status]}; its result was pruned.")
        print_error(f"{came_from(result)} · trivet job show {result.id}", style="dim")
    else:
        said = f"{result.error.outcome}: {result.error.message}" if result.error and result.error.outcome else ""
        said = said or (result.error.message if result.error else "")
        print_error(f"trivet: job {result.id} {_ENDED[result.status]}: {said}")
        if result.attempts:
            print_error(f"{came_from(result)} · trivet job show {result.id}", style="dim")
    if not result.succeeded:
        raise typer.Exit(FAILED)


@contextmanager
def sink(out: Path | None, form: Form, *, with_request: bool = False) -> Iterator[Callable[[Result], object]]:
    """Open a file for results and yield the function that writes one; without a file, to standard output.

    The file appears when it is whole. InvalidRequest when it cannot be written.
    """
    if out is None:
        yield _writer(sys.stdout.buffer, form, with_request=with_request)
        sys.stdout.buffer.flush()
        return
    with whole_file(out) as file:
        if form is not Form.PARQUET:
            yield _writer(file, form, with_request=with_request)
            return
        from trivet.cli.parquet_file import parquet_file

        with parquet_file(file, with_request=with_request) as table:
            yield table.write


def _writer(file: BinaryIO, form: Form, *, with_request: bool) -> Callable[[Result], object]:
    if form is Form.CSV:
        from trivet.cli.result_table import csv_writer

        return csv_writer(file, with_request=with_request)
    return lambda result: file.write(result_line(result, with_request=with_request))


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a new file beside this name, as `NAME.PID.part`; when the block ends it takes the name and is on disk.

    When the block is broken off, what had the name still has it, and the other is removed. A pipe or a device is written
    to as it is.

    Raises:
        InvalidRequest: it cannot be written.
    """
    beside: Path | None = None
    try:
        if path.exists() and not path.is_file():  # not resolved: /dev/stdout may lead to a pipe, which has no path
            with path.open("wb") as file:
                yield file
            return
        target = path.resolve()
        beside = target.with_name(f"{target.name}.{os.getpid()}.part")
        with beside.open("wb") as file:
            if target.exists():  # what it may be read by stays so
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be written: {error.strerror or error}.") from None
    finally:
        if beside is not None:
            with suppress(OSError):
                beside.unlink()


class ResultsFile:
    """A file of results that an interrupted run can be continued with.

    Each result is appended once, over any number of runs. While lines are added the file is called `FILE.part`; it takes its
    name when the block ends without an error, so `FILE` appears only when it is complete. It then has one line a job: of a
    job that ran again the last one, for which the file is written anew. Opening it continues with either, and removes a last
    line that was cut off. The end of each job in it is remembered in a temporary file (`trivet_tasks.requests.jsonl`), so it
    may have any length.

    Args:
        with_request: its lines have the requests of their jobs.

    Raises:
        InvalidRequest: the file cannot be written, or holds something else.
    """

    def __init__(self, path: Path, *, with_request: bool = False) -> None:
        self.path = path
        self.with_request = with_request
        self._outdated = False
        """True if a line is not the last one of its job."""
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
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as fault:
                if error is None:
                    raise self._unwritable(fault) from None
            if error is None and self._outdated:
                self._drop_outdated()
            if error is None and not self._whole:
                self._part.replace(self.path)
            elif not self._whole and self._part.stat().st_size == 0:
                self._part.unlink()
        finally:
            self._close()

    def __contains__(self, result: Result) -> bool:
        job, end = _end_of(result.id, result.status, result.latency_s)
        return self._known.get(job) == end

    def write(self, result: Result) -> None:
        """Append a result, unless it is there.

        Raises:
            InvalidRequest: the file cannot be written, e.g. because the disk is full.
        """
        if result not in self:
            try:
                if self._whole:
                    self.path.rename(self._part)
                    self._whole = False
                self._file.write(result_line(result, with_request=self.with_request))
            except OSError as fault:
                raise self._unwritable(fault) from None
            self._remember(*_end_of(result.id, result.status, result.latency_s))

    def _unwritable(self, fault: OSError) -> InvalidRequest:
        return InvalidRequest(
            f"{self._part}: cannot be written: {fault.strerror or fault}.",
            hint="Jobs and results are safe in the database. Make room, run the same command again, and it writes the rest.",
        )

    def _remember(self, job: bytes, end: bytes) -> None:
        if self._known.earlier(job, end) is not None:
            self._known.replace(job, end)
            self._outdated = True

    def _drop_outdated(self) -> None:
        """Write the file anew with the last line of each job."""
        self._file.seek(0)
        with whole_file(self.path if self._whole else self._part) as file:
            for number, line in enumerate(self._file, start=1):
                job, end = self._end_in(line, number)
                if self._known.get(job) == end:
                    file.write(line)

    def _close(self) -> None:
        self._known.close()
        with suppress(OSError):  # of what could not be written before; the file is closed all the same
            self._file.close()

    def _read(self) -> None:
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n") and (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
                break  # cut off by a break
            self._remember(*self._end_in(line, number))
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()

    def _end_in(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        try:
            result = orjson.loads(line)
            end = _end_of(result["id"], result["status"], result["latency_s"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise InvalidRequest(
                f"{self.path}: line {number} is not a result of a job.", hint="Choose another file for the results."
            ) from None
        if ("request" in result) is not self.with_request:
            how = "without" if self.with_request else "with"
            raise InvalidRequest(
                f"{self.path} was written {how} --with-request.",
                hint="Go on with it in the same way, or choose another file for the results.",
            )
        return end


def came_from(result: Result) -> str:
    """Return where a result came from, in one line: route, calls, time and cost."""
    calls = len(result.attempts)
    parts = [
        result.route if not result.cached else "cache",
        result.model,
        seconds(result.latency_s),
        output.usd_and_estimate(result.cost_usd, result.estimated_usd),
        f"{calls} attempt{'' if calls == 1 else 's'}",
    ]
    if result.stop_reason not in (None, "end_turn", "stop_sequence"):
        parts.append(f"stopped by {result.stop_reason}")
    return " · ".join(part for part in parts if part)


def _end_of(job_id: str, status: str, latency_s: float) -> tuple[bytes, bytes]:
    """Return digests of a job and of its end, which is another each time it runs; ValueError when that is no job's id."""
    job, end = bytes.fromhex(job_id), f"{status} {float(latency_s)!r}".encode()
    return blake2b(job, digest_size=8).digest(), blake2b(job + end, digest_size=8).digest()
