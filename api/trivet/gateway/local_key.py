"""The local key: the admin key that the first start of a gateway writes beside the database, so that one command is enough.

It is made only where there never was a key, in `.trivet/gateway.key`, readable by this user alone.
"""

from pathlib import Path
from typing import NamedTuple

from trivet.admin import Keys
from trivet_tasks.config.installation_key import write_secret
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.gateway_keys import Token, id_of, matches, new_token
from trivet_tasks.states import KeyState

FILE_NAME = "gateway.key"
KEY_NAME = "local"


class LocalKey(NamedTuple):
    """The key in the file. Its `repr` does not show the secret."""

    path: Path
    token: Token
    state: KeyState | None
    """None: the database has other keys and does not know this one."""
    made: bool
    """True if this start wrote it."""

    def __repr__(self) -> str:
        return f"LocalKey({str(self.path)!r}, {self.token!r}, {self.state!r})"

    @property
    def works(self) -> bool:
        """True if the gateway takes it."""
        return self.state in (KeyState.ACTIVE, KeyState.REPLACED)

    def exports(self, base_url: str) -> tuple[str, str]:
        """Return the lines for a shell that point an Anthropic client at this gateway.

        The secret stays in its file: the lines may end up in a log.

        Args:
            base_url: as in `http://127.0.0.1:8080`.
        """
        quoted = "'" + str(self.path).replace("'", "'\\''") + "'"
        return f"export ANTHROPIC_BASE_URL={base_url}", f'export ANTHROPIC_API_KEY="$(cat {quoted})"'

    def fault(self) -> str:
        """Return why the gateway does not take it, and what to do; empty where it does."""
        if self.works:
            return ""
        why = "is not a key of this database" if self.state is None else f"was {_PAST[self.state]}"
        return (
            f"The key in {self.path} {why}, so it does not work here. `trivet keys create NAME` makes another; "
            "remove the file if it is not needed."
        )


_PAST = {KeyState.REVOKED: "revoked", KeyState.EXPIRED: "rotated or has expired"}


def ensure_local_key(settings: Settings, keys: Keys) -> LocalKey | None:
    """Return the local key; it is made where there never was any key. Safe where several processes start at once.

    A key in the file that was revoked is not made again: `LocalKey.fault` says so.

        admin = Admin(settings=settings)
        local = ensure_local_key(settings, admin.keys)

    Returns:
        None: there are keys, and no file.

    Raises:
        ConfigError: the file cannot be read or written, or has no key in it.
        StoreUnavailable: the database is away.
    """
    path = settings.data_dir / FILE_NAME
    made = False
    try:
        if not path.exists():
            if keys.exist() and not path.exists():  # else another process has just made it
                return None
            made = write_secret(path, new_token().text)
        token = _read(path)
    except FileNotFoundError:  # a gateway on another machine was first, and another process of this one has removed it
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise ConfigError(
            f"{path}: the local key of the gateway cannot be kept there: {reason}.",
            hint="`trivet keys create NAME` makes a key without a file.",
        ) from None
    keys.adopt(token, KEY_NAME, by="the first start of a gateway")
    found = keys.find(token.key_id)
    if found is None or not matches(token.text, found.key.digest):
        if made:  # a gateway on another machine was first
            path.unlink(missing_ok=True)
            return None
        return LocalKey(path, token, None, made)
    return LocalKey(path, token, found.key.state(found.now), made)


def _read(path: Path) -> Token:
    text = path.read_text(encoding="ascii").strip()
    key_id = id_of(text)
    if key_id is None:
        raise ConfigError(
            f"{path}: has no gateway key in it.",
            hint="Remove the file: the next start writes a new one if there never was a key; else `trivet keys create`.",
        )
    return Token(key_id, text)
