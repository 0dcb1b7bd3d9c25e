"""A route's key, as its reference says now: a file is read again when it changed, so no restart is needed."""

import os

from trivet_tasks.config.secret_refs import SecretRef
from trivet_tasks.errors import ConfigError


class RouteKey:
    """The secret behind a reference."""

    def __init__(self, reference: SecretRef) -> None:
        self._reference = reference
        self._stamp: tuple[int, int, int] | None = None
        self._value = ""

    def current(self) -> str:
        """The key now. ConfigError when there is none. A look at the file costs one stat."""
        stamp = self._stamp_now()
        if stamp is None or stamp != self._stamp:
            self._value = self._reference.resolve()
            self._stamp = stamp
        return self._value

    def forget(self) -> None:
        """Read the key again at the next call, changed or not: the provider refused it."""
        self._stamp = None

    def _stamp_now(self) -> tuple[int, int, int] | None:
        if self._reference.scheme != "file":
            return None
        try:
            state = os.stat(self._reference.target)  # noqa: PTH116  a Path costs more than the look itself
        except OSError as error:
            raise ConfigError(f"the file {self._reference.target} cannot be read: {error.strerror}.") from None
        return state.st_mtime_ns, state.st_size, state.st_ino
