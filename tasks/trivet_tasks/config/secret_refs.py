"""References to secrets: the configuration names where a secret is, never the secret."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from trivet_tasks.errors import ConfigError


class MalformedSecret(ConfigError):
    """The value that a reference leads to can be no key."""


def fault_of(secret: str) -> str:
    """Return the fault of a key or token that no HTTP header may carry, without the secret; empty when it is fit."""
    if "\n" in secret or "\r" in secret:
        return "a line break"
    if not secret.isascii():
        return "a character that is not ASCII"
    if not secret.isprintable():
        return "a control character"
    if " " in secret:
        return "a space"
    return ""


@dataclass(frozen=True, slots=True)
class SecretRef:
    """`env:NAME` or `file:PATH`. Its repr is the reference, which is no secret."""

    scheme: str
    target: str

    @classmethod
    def parse(cls, text: str) -> "SecretRef":
        """Read a reference. ValueError when it is not one; its text, which may be a secret, is kept out."""
        scheme, separator, target = text.partition(":")
        if not separator or scheme not in ("env", "file") or not target:
            raise ValueError("must be a reference, env:NAME or file:PATH, never the secret itself")
        return cls(scheme, target)

    def resolve(self, user: str = "a route") -> str:
        """The secret as it is now: files and variables are read anew. ConfigError when there is none.

        Args:
            user: what takes its key from here, for the error.
        """
        if self.scheme == "env":
            value = os.environ.get(self.target, "")
            where = f"the environment variable {self.target}"
        else:
            where = f"the file {self.target}"
            try:
                value = Path(self.target).read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{where} cannot be read: {error.strerror}.") from None
            except UnicodeDecodeError:
                raise MalformedSecret(f"{where} is not text, but {user} takes its key from there.") from None
        if not value.strip():
            raise ConfigError(f"{where} is empty or not set, but {user} takes its key from there.")
        if fault := fault_of(value.strip()):
            raise MalformedSecret(f"{where} holds {fault}, and no key does.", hint="Was more copied than the key?")
        return value.strip()

    def __str__(self) -> str:
        return f"{self.scheme}:{self.target}"


def _read(value: object) -> object:
    if isinstance(value, str):
        return SecretRef.parse(value) if value else None
    return value


OptionalSecret: TypeAlias = Annotated[SecretRef | None, BeforeValidator(_read)]
"""A setting that names a secret; empty: none."""
