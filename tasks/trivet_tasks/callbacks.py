"""Callbacks: Celery signatures that are sent to an application of the user when a job or a batch ends."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trivet_tasks.errors import InvalidRequest
from trivet_tasks.foreign_text import clean

MAX_SIGNATURE_BYTES = 256 * 1024
"""Maximum size of a signature as JSON. What is larger belongs into a store of the user's, with its key in the signature."""
MAX_NAME = 200
"""Maximum number of characters of a callback's name."""
_DEFAULTS: Mapping[str, Any] = {"args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
"""Parts that Celery expects of every signature."""

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL in JSON; not the text of a backslash and `u0000`."""


@dataclass(frozen=True, slots=True)
class Callback:
    """A Celery signature to be sent when a job or a batch ends.

    Example:
        client.submit("Summarise: …", model="claude-sonnet-5-5", max_tokens=300,
                      on_done=Callback("save", "shop", {"task": "shop.save", "args": ["doc/1"]}))
    """

    name: str
    """Name, unique within its job or batch: a second one of the same name adds nothing."""
    app: str
    """Section of the configuration with the application's broker: `[celery_apps.NAME]`."""
    signature: Mapping[str, Any] = field(repr=False)
    """The signature as Celery writes it to JSON (`dict(task.s(…))`)."""
    confirmed: bool = False
    """True: it is sent again until the task has confirmed it. False: it is sent until the broker has taken it."""

    @property
    def task(self) -> str:
        """Name of its task; of a chain, of the first. Shortened to what a person reads."""
        first: Any = self.signature
        if first.get("subtask_type") == "chain":
            steps = (first.get("kwargs") or {}).get("tasks") or [first]
            first = steps[0]
        return clean(first.get("task"), MAX_NAME) or "?"

    def to_json(self) -> str:
        """Return the signature as JSON.

        Raises:
            InvalidRequest: the name is no name, or the signature cannot be JSON, names no task or is too large.
        """
        if not isinstance(self.name, str) or not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise InvalidRequest(
                f"on_done: the name of a callback must be 1 to {MAX_NAME} printable characters.", field="on_done"
            )
        task = self.signature.get("task") if isinstance(self.signature, Mapping) else None
        if not isinstance(task, str) or not task:
            raise InvalidRequest(f"on_done: the callback {self.name!r} has no signature of a task.", field="on_done")
        return _json_of(self.name, {**_DEFAULTS, **self.signature})


def _json_of(name: str, signature: dict[str, Any]) -> str:
    try:
        written = json.dumps(signature, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(written.encode())
    except (TypeError, ValueError, RecursionError):  # the text of the error may hold the user's data
        raise InvalidRequest(
            f"on_done: {_unfit(signature)} of the callback {name!r} cannot be written as JSON.",
            field="on_done",
            hint="Give the task plain values: texts, numbers, lists, dicts.",
        ) from None
    if _NUL.search(written):
        raise InvalidRequest(f"on_done: the callback {name!r} holds a NUL character.", field="on_done")
    if size > MAX_SIGNATURE_BYTES:
        raise InvalidRequest(
            f"on_done: the signature of the callback {name!r} has {size:,} bytes; {MAX_SIGNATURE_BYTES:,} are allowed.",
            field="on_done",
            hint="Keep large data in a store of your own, and its key in the signature.",
        )
    return written


def _unfit(signature: Mapping[str, Any]) -> str:
    """Return the first part that JSON has no form for: `argument 2`, `keyword argument 'when'`, `option 'eta'`."""
    args, kwargs, options = (signature.get(part) for part in ("args", "kwargs", "options"))
    parts: list[tuple[str, object]] = []
    if isinstance(args, list | tuple):
        parts += [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    for kind, values in (("keyword argument", kwargs), ("option", options)):
        if isinstance(values, Mapping):
            parts += [(f"{kind} {key!r}", value) for key, value in values.items()]
    return next((named for named, value in parts if not _fit(value)), "a part of the signature")


def _fit(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True
