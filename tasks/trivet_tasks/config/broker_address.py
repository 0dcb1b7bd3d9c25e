"""Address of the embedded broker: one Unix socket, derived by everybody from the data directory alone.

The starter of the broker (`trivet.local.embedded`) and its users (clients, workers, Flower) derive the address by the
same rule, so nothing has to be stored or passed on, and none of them needs the broker's package.
"""

import hashlib
import os
import re
import stat
from pathlib import Path

from trivet_tasks.errors import ConfigError

SOCKET_NAME = "valkey.sock"
MAX_SOCKET_PATH_BYTES = 100
"""`sun_path` holds 108 bytes on Linux (unix(7)) and 104 on macOS (unix(4)), with the final zero."""

_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
# Kombu un-quotes the path of a `redis+socket://` URL, Flower 2.2 does not: only a path without need of it suits both.
SHORT_PARENT = Path("/tmp")
# Not `tempfile.gettempdir()`: that follows TMPDIR, and a producer run by cron would look elsewhere than `trivet up`.


def socket_path(data_dir: Path) -> Path:
    """Return the Unix socket of this data directory's embedded broker; nothing is created.

    `valkey.sock` in the data directory; where that path is too long for a socket or has characters that a URL would
    have to quote, in a directory of this user's own under `/tmp`, named after the data directory.

    Raises:
        ConfigError: that directory under `/tmp` exists and is not this user's own.
    """
    beside = data_dir.resolve() / SOCKET_NAME
    if len(os.fsencode(beside)) <= MAX_SOCKET_PATH_BYTES and _PLAIN.fullmatch(str(beside)):
        return beside
    user = os.getuid()
    digest = hashlib.sha256(b"%d:%s" % (user, os.fsencode(beside.parent))).hexdigest()[:16]
    private = SHORT_PARENT / f"trivet-{user}-{digest}"
    _refuse_foreign(private, user)
    return private / SOCKET_NAME


def celery_url(data_dir: Path) -> str:
    """The address in Kombu's form, for Celery and Flower: `redis+socket:///path/valkey.sock` (database 0)."""
    return f"redis+socket://{socket_path(data_dir)}"


def redis_url(data_dir: Path) -> str:
    """The address in redis-py's form: `unix:///path/valkey.sock?db=0`."""
    return f"unix://{socket_path(data_dir)}?db=0"


def _refuse_foreign(private: Path, user: int) -> None:
    try:
        found = private.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        raise ConfigError(
            f"{private} is where the embedded broker's socket belongs, and it is not a directory of this user's own.",
            hint="Remove it, or set [broker] url, or keep the data in a directory with a shorter, plain path.",
        )
