"""A file that has its name only once it is whole."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trivet_tasks.errors import InvalidRequest


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
