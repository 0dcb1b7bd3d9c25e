"""Sources of a bulk's requests: a file, a folder of files, standard input or a pipe, made readable twice."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.jsonl import BOM, SourceName, opened, unpacked

STANDARD_INPUT = Path("-")
ENDINGS = (".jsonl", ".jsonl.gz")
"""Endings of the files that are taken of a folder."""
_PIECE = 1024 * 1024


def is_read_once(path: Path) -> bool:
    """Return whether this is standard input (`-`) or a pipe."""
    try:
        return path == STANDARD_INPUT or path.is_fifo()
    except ValueError:  # not a path at all: opening it says so
        return False


@contextmanager
def readable_twice(path: Path) -> Iterator[tuple[Path, SourceName]]:
    """Yield a path that can be read twice, with the name that messages are to use for it and its lines.

    A file is itself. Standard input (`-`), a pipe, and the files of a folder by name are copied to a temporary file
    (`TMPDIR`), which is removed afterwards.

        with readable_twice(Path("mails")) as (path, name):
            check_file(path, settings, {}, now=now, name=name)

    Raises:
        InvalidRequest: it cannot be read, the folder has no `.jsonl` file, or that for temporary files is full.
    """
    folder = _is_folder(path)
    if not folder and not is_read_once(path):
        yield path, SourceName(str(path))
        return
    name = "standard input" if path == STANDARD_INPUT else str(path / "*.jsonl") if folder else str(path)
    files = _files(path) if folder else []
    parts: list[tuple[str, int]] = []
    line = 1
    with tempfile.NamedTemporaryFile(prefix="trivet-", suffix=".jsonl") as copy:
        try:
            if path == STANDARD_INPUT:
                shutil.copyfileobj(sys.stdin.buffer, copy, _PIECE)
            elif not folder:
                with path.open("rb") as pipe:
                    shutil.copyfileobj(pipe, copy, _PIECE)
            for file in files:
                parts.append((str(file), line))
                line += _append(file, copy)
            copy.flush()
        except OSError as error:
            raise InvalidRequest(
                f"{name}: cannot be copied to {copy.name}: {error.strerror}.",
                hint="Let TMPDIR name a folder with more room, or name a file.",
            ) from None
        yield Path(copy.name), SourceName(name, parts)


def _is_folder(path: Path) -> bool:
    try:
        return path != STANDARD_INPUT and path.is_dir()
    except (OSError, ValueError):  # opening it says so
        return False


def _files(folder: Path) -> list[Path]:
    try:
        found = sorted(file for file in folder.iterdir() if file.name.endswith(ENDINGS) and file.is_file())
    except OSError as error:
        raise InvalidRequest(f"{folder}: cannot be read: {error.strerror}.") from None
    if not found:
        raise InvalidRequest(f"{folder}: has no file that ends with .jsonl or .jsonl.gz.")
    return found


def _append(file: Path, copy: IO[bytes]) -> int:
    """Append the lines of a file, decompressed, each ended. Returns their number."""
    last, lines = b"\n", 0
    for piece in _pieces(file):
        copy.write(piece)
        lines += piece.count(b"\n")
        last = piece[-1:]
    if last != b"\n":
        copy.write(b"\n")
        lines += 1
    return lines


def _pieces(file: Path) -> Iterator[bytes]:
    with opened(file, str(file)) as (source, _):
        lines = unpacked(source)
        piece = lines.read(_PIECE).removeprefix(BOM)
        while piece:
            yield piece
            piece = lines.read(_PIECE)
