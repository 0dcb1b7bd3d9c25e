"""A JSON Lines file of requests, one a line: checked whole first, then read a second time, row by row.

Both passes hold one line at a time; digests of the keys seen so far are in a temporary file (`Seen`). They reach the
same result on each line: times count from the moment of the check, and a file that changed in between is an error. Files
compressed with gzip are read directly; `sources` makes folders and standard input such a file.
"""

import gzip
import os
import sqlite3
import stat
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias, cast

import orjson

from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest, Problem
from trivet_tasks.jobs import JobSpec
from trivet_tasks.requests.reading import RequestReader
from trivet_tasks.requests.request_json import MAX_BODY_BYTES, read_json

CACHE_KIB = 16_000
"""Maximum memory for the digests of keys, in KiB; the rest is on disk, about 26 bytes for each key."""

MAX_LINE_BYTES = MAX_BODY_BYTES + 1024 * 1024
"""Maximum length of a line: the largest body, and Trivet's own fields."""

TELL_EVERY = 200
"""Lines between two reports of the check's progress."""

_PROBLEMS_KEPT = 20
"""Maximum number of a file's problems that are kept; all are counted."""
BOM = b"\xef\xbb\xbf"
"""The byte order mark with which a file may begin."""
_GZIP = b"\x1f\x8b"
"""First bytes of a gzip file; no line of JSON begins with them."""
_PIECE = 1024 * 1024
Shape: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Changes a request before it is read."""


class SourceName(str):
    """Name of a source in messages. The copy of a folder names the files of the folder, and their own line numbers.

    Example:
        SourceName("mails/*.jsonl", [("mails/a.jsonl", 1), ("mails/b.jsonl", 720)]).where(731) == "mails/b.jsonl, line 12"
    """

    parts: Sequence[tuple[str, int]]

    def __new__(cls, name: str, parts: Sequence[tuple[str, int]] = ()) -> "SourceName":
        """Make a name.

        Args:
            parts: files of a folder in order, each with the number of its first line in the copy.
        """
        made = super().__new__(cls, name)
        made.parts = parts
        return made

    def where(self, line: int) -> str:
        """Return the place of a line, for a `Problem`."""
        if not self.parts:
            return f"line {line}"
        file, first = self.parts[bisect_right(self.parts, line, key=itemgetter(1)) - 1]
        return f"{file}, line {line - first + 1}"

    def said(self, problem: Problem) -> str:
        """Return a problem with the file that has it: `mails/b.jsonl, line 12: messages: must not be empty.`"""
        return str(problem) if self.parts else f"{self}, {problem}"


class Seen:
    """Digests of 8 bytes, each with another 8 bytes that it came with.

    They lie in a database of SQLite's that has no name and is gone when it is closed, in the folder for temporary files
    (`TMPDIR`). A dict holds 136 bytes for each key; this takes 8 microseconds instead of one, and no more memory.
    """

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "Seen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of the key, or None."""
        if self._database is None:
            return None
        row = self._database.execute("SELECT value FROM seen WHERE key = ?", (_number(key),)).fetchone()
        return None if row is None else int(row[0]).to_bytes(8, "big", signed=True)

    def earlier(self, key: bytes, value: bytes) -> bytes | None:
        """Return the value that the key came with first; None where it is new. It is remembered from now on.

        Raises:
            InvalidRequest: the folder for temporary files is full.
        """
        return None if self._put("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", key, value) else self.get(key)

    def replace(self, key: bytes, value: bytes) -> None:
        """Remember the value in place of an earlier one.

        Raises:
            InvalidRequest: the folder for temporary files is full.
        """
        self._put("INSERT OR REPLACE INTO seen VALUES (?, ?)", key, value)

    def close(self) -> None:
        """Forget everything."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _put(self, statement: str, key: bytes, value: bytes) -> int:
        """Return the number of rows that were written."""
        database = self._database or self._open()
        try:
            return database.execute(statement, (_number(key), _number(value))).rowcount
        except sqlite3.Error as error:
            raise InvalidRequest(
                f"The keys of the file cannot be kept in a temporary file: {error}.",
                hint="Let TMPDIR name a folder with more room.",
            ) from None

    def _open(self) -> sqlite3.Connection:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        self._database.execute("BEGIN")
        return self._database


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """Result of the check of a whole file; `read_file` goes on from it."""

    path: Path
    name: SourceName
    """Name of the file in messages."""
    rows: int
    """Number of requests that can be accepted."""
    bad: int
    """Number of lines that cannot."""
    problems: tuple[Problem, ...]
    """The first of them, as many as were asked for; `where` is `line 731`, of a folder `mails/b.jsonl, line 12`."""
    repeated: int
    """Number of rows that repeat the key and the request of an earlier row: both become one job."""
    dedupe: bool
    """True if a key is one of its tenant's, and not of the file."""
    digest: str
    """Digest of the file's text, decompressed: the same for the same lines, whatever the file is called."""
    checked_at: float
    """Seconds since the epoch: the moment from which `deadline` and `not_before` count."""
    size: int
    """Bytes."""
    modified_ns: int


def check_file(
    path: Path | str,
    settings: Settings,
    defaults: Mapping[str, object],
    *,
    skip_bad: bool = False,
    now: float,
    dedupe: bool = False,
    tell: Callable[[int, float], None] = lambda _rows, _share: None,
    each: Callable[[JobSpec, int], None] | None = None,
    name: str = "",
    shape: Shape | None = None,
) -> FileCheck:
    """Validate every line of a file before any is taken.

    UTF-8, with or without a byte order mark, plain or compressed with gzip; blank lines are passed over and counted in
    line numbers. A key that an earlier line has with a different request is a problem of the later line.

    Args:
        skip_bad: return the check also when there are bad lines, for `read_file` to leave them out.
        now: the moment of the submit, seconds since the epoch.
        dedupe: a key is one of its tenant's: lines of two tenants may have the same.
        tell: called every `TELL_EVERY` lines, with the requests found so far and the share of the file that was read.
        each: is given every job of the file once with the number of its line, as it is read: valid rows, without those
            that repeat an earlier one.
        name: the file's name in messages, also a `SourceName`; empty: its path.
        shape: changes each line's request before it is read, or refuses it with InvalidRequest.

    Raises:
        InvalidRequest: the file cannot be read, has no request, or has a bad line and `skip_bad` is False. The message
            reads `contracts.jsonl, line 731: messages: must not be empty.`, one line for each of `.problems`.
    """
    path = Path(path)
    name = name if isinstance(name, SourceName) else SourceName(name or str(path))
    rows = bad = repeated = 0
    problems: list[Problem] = []
    with opened(path, name) as (file, status), Seen() as keys:
        lines = _Rows(unpacked(file), RequestReader(settings, defaults), now, keys, name, dedupe=dedupe, shape=shape)
        for number, found in enumerate(lines, start=1):
            if number % TELL_EVERY == 0:
                tell(rows, file.tell() / max(1, status.st_size))
            if isinstance(found, Problem):
                bad += 1
                if len(problems) < _PROBLEMS_KEPT:
                    problems.append(found)
            else:
                rows += 1
                if each is not None and lines.repeated == repeated:
                    each(found, lines.line)
                repeated = lines.repeated
        _same(name, status, os.fstat(file.fileno()))
    if bad and not skip_bad:
        raise _refused(name, problems, bad)
    if not rows:
        what = f"none of its {bad:,} lines is a valid request" if bad else "holds no request"
        raise InvalidRequest(f"{name}: {what}.", problems=tuple(problems))
    size, modified_ns = status.st_size, status.st_mtime_ns
    digest = lines.digest.hexdigest()
    return FileCheck(path, name, rows, bad, tuple(problems), repeated, dedupe, digest, now, size, modified_ns)


def read_file(
    check: FileCheck, settings: Settings, defaults: Mapping[str, object], *, shape: Shape | None = None
) -> Iterator[JobSpec]:
    """The valid rows of a checked file in their order, each validated again as it is read. Bad lines are left out.

    Use the settings, the defaults and the shape of the check.

    Raises:
        InvalidRequest: the file is not the one that was checked (its size or time of change differs), before the first
            row; or it changed while it was read, after the last.
    """
    with opened(check.path, check.name) as (file, status), Seen() as keys:
        if (status.st_size, status.st_mtime_ns) != (check.size, check.modified_ns):
            raise _changed(check.name)
        reader = RequestReader(settings, defaults)
        lines = _Rows(unpacked(file), reader, check.checked_at, keys, check.name, dedupe=check.dedupe, shape=shape)
        for found in lines:
            if isinstance(found, JobSpec):
                yield found
        _same(check.name, status, os.fstat(file.fileno()))


class _Rows:
    """The lines of a file, each as a job or as what is wrong with it. Runs once."""

    def __init__(
        self,
        file: BinaryIO,
        reader: RequestReader,
        now: float,
        keys: Seen,
        name: SourceName,
        *,
        dedupe: bool,
        shape: Shape | None = None,
    ) -> None:
        self.repeated = 0
        self.digest = blake2b(digest_size=16)
        self.line = 0
        """Number of the line that was read last, from 1."""
        self._file = file
        self._reader = reader
        self._now = now
        self._keys = keys
        self._name = name
        self._dedupe = dedupe
        self._shape = shape

    def __iter__(self) -> Iterator[JobSpec | Problem]:
        while line := self._file.readline(MAX_LINE_BYTES + 1):
            self.line += 1
            self.digest.update(line)
            if self.line == 1:
                line = line.removeprefix(BOM)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                yield self._problem(self._too_long(len(line)))
            elif not line.isspace() and line:
                yield self._row(line)

    def _problem(self, said: str) -> Problem:
        return Problem(self._name.where(self.line), said)

    def _too_long(self, length: int) -> str:
        """Pass over the rest of a line that is not even read."""
        while piece := self._file.readline(_PIECE):
            length += len(piece)
            self.digest.update(piece)
            if piece.endswith(b"\n"):
                break
        most = MAX_BODY_BYTES // 1024**2
        return f"request: has {length / 1024**2:,.1f} MB; the Messages API takes at most {most} MB."

    def _row(self, line: bytes) -> JobSpec | Problem:
        try:
            request = read_json(line)
        except InvalidRequest as error:
            return self._problem(str(error))
        except orjson.JSONDecodeError as error:
            return self._problem(_why_not_json(line, error))
        try:
            if self._shape is not None and isinstance(request, dict):
                request = self._shape(request)
            job = self._reader.read(request, self._now)
        except InvalidRequest as error:
            return self._problem(str(error))
        if job.key is None:
            return job
        owned = f"{job.tenant or ''}\0{job.key}" if self._dedupe else job.key
        key, request_of_key = blake2b(owned.encode(), digest_size=8).digest(), bytes.fromhex(job.fingerprint)[:8]
        earlier = self._keys.earlier(key, request_of_key)
        if earlier is not None:
            if earlier != request_of_key:
                return self._problem("key: an earlier line has the same key with a different request.")
            self.repeated += 1
        return job


def _why_not_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return f"is not UTF-8 text (byte {bad.start + 1} of the line)."
    hint = " One request a line is expected, not one list of all." if line.lstrip().startswith(b"[") else ""
    return f"is not JSON: {error.msg} at character {error.colno} of the line.{hint}"


@contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a file, with its state. InvalidRequest, naming it by `name`, where opening or reading it fails."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InvalidRequest(f"{name}: is {kind}; a file is needed, which is read twice.")
        file = path.open("rb")
    except FileNotFoundError:
        raise InvalidRequest(f"{name}: no such file.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not a path"
        raise InvalidRequest(f"{name}: cannot be read: {reason}.") from None
    with file:
        try:
            yield file, os.fstat(file.fileno())
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise InvalidRequest(
                f"{name}: is compressed with gzip, and cut off or damaged.",
                hint="`gzip --test` says where; copy it again.",
            ) from None
        except OSError as error:
            raise InvalidRequest(f"{name}: cannot be read: {error.strerror}.") from None


def unpacked(file: BinaryIO) -> BinaryIO:
    """Return the text of a file, decompressed where gzip compressed it."""
    compressed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file


def _same(name: str, before: os.stat_result, after: os.stat_result) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(name)


def _changed(name: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: changed while it was being submitted.", hint="Submit it again when it is complete.")


def _refused(name: SourceName, problems: list[Problem], bad: int) -> InvalidRequest:
    lines = [name.said(problem) for problem in problems]
    if bad > len(problems):
        lines.append(f"{name}: {bad - len(problems):,} more bad lines.")
    return InvalidRequest(
        "\n".join(lines),
        problems=tuple(problems),
        hint="Nothing of the file was taken; with skip_bad (--skip-bad) the bad lines are left out.",
    )
