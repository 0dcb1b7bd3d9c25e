"""URLs as they are used and as they may be shown."""

import re
from pathlib import Path

_PASSWORD = re.compile(r"(?P<before>://[^/@:]*:).*(?P<after>@)")  # up to the last @: a password may hold anything
_PASSWORD_IN_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|sslpassword|sentinel_password|oauth_client_secret|scram_(?:client|server)_key)=)[^&]*",
    re.IGNORECASE,
)
_SQLITE = "sqlite:///"


def masked(url: str) -> str:
    """The URL with its password replaced by stars."""
    return _PASSWORD_IN_QUERY.sub(r"\g<before>***", _PASSWORD.sub(r"\g<before>***\g<after>", url))


def absolute_sqlite_url(url: str, base: Path) -> str:
    """A SQLite URL with its path made absolute, counted from `base`; any other URL unchanged."""
    if not url.startswith(_SQLITE):
        return url
    return _SQLITE + str((base / url.removeprefix(_SQLITE)).absolute())


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, or None for another database."""
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None
