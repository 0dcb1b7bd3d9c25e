"""Key of an installation: its workers sign their entries in Redis with it, so that no foreign entry is accepted.

On one machine, where Redis is the embedded one or listens on loopback or a Unix socket, the key is made when it is first needed
and kept beside the data. Where Redis is on another machine every worker needs the same key, so the configuration names it.
"""

import ipaddress
import os
import secrets
from contextlib import suppress
from pathlib import Path

from trivet_tasks.config.server_urls import masked, read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError

FILE_NAME = "security.key"
LEAST_CHARS = 32
_BYTES = 32


def read_key(settings: Settings) -> bytes | None:
    """Return the key. On one machine it is made if there is none.

    None: the cache is off by default, and there is no key for requests that ask for it: none is named and Redis is on
    another machine, or none can be written here.

    Raises:
        ConfigError: none is named where one must be; it is not there, or too short; none can be written here.
    """
    check_key(settings)
    if settings.security.key is not None:
        return _checked(settings, settings.security.key.resolve("[security]"))
    if not is_made_here(settings):
        return None
    path = settings.data_dir / FILE_NAME
    try:
        make_key_file(path)
        return _checked(settings, path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        if not settings.cache.enabled:
            return None
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise ConfigError(
            f"{path}: the key that signs cached answers cannot be kept there: {reason}.",
            hint='Set [security] key to "file:PATH" or "env:NAME", or turn the cache off: [cache] enabled = false.',
        ) from None


def check_key(settings: Settings) -> None:
    """Check that the configuration names a key if it has to.

    Raises:
        ConfigError: it does not.
    """
    if settings.security.key is None and settings.cache.enabled and not is_made_here(settings):
        raise ConfigError(
            f"{settings.source}: [security] key: is needed, because cached answers are kept on another machine, in "
            f"{masked(settings.redis_url)}: workers sign them, so that nobody else can put any there.",
            hint=f'Name one secret of {LEAST_CHARS} characters or more for all workers, as key = "env:NAME" or "file:PATH" '
            "(`trivet config init` makes a file), or turn the cache off: [cache] enabled = false.",
        )


def is_made_here(settings: Settings) -> bool:
    """Return whether a key is made where none is named: only processes of this machine reach Redis by its URL."""
    return all(host == "localhost" or _is_loopback(host) for host, _ in read_server_url(settings.redis_url).hosts)


def make_key_file(path: Path) -> bool:
    """Write a new key that only this user can read. Returns whether there was none. OSError when it cannot be written."""
    return not path.exists() and write_secret(path, secrets.token_hex(_BYTES))


def write_secret(path: Path, text: str) -> bool:
    """Write a new file that only this user can read. Returns whether there was none. OSError when it cannot be written.

    Of several processes that do so at once one succeeds, and none reads half a file.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    file = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.write(f"{text}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(written, path)
            return True
        return False
    finally:
        written.unlink()


def _checked(settings: Settings, key: str) -> bytes:
    if len(key) < LEAST_CHARS:
        where = settings.security.key or settings.data_dir / FILE_NAME
        raise ConfigError(
            f"{settings.source}: [security] key: {where} holds {len(key)} characters; a key has {LEAST_CHARS} or more.",
            hint="`openssl rand -hex 32` makes one.",
        )
    return key.encode()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
