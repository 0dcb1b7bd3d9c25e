"""What Flower may know of a task: our own description of its chunk, and nothing else a worker might send along.

Flower's `format_task` shapes its HTML pages only, not its API, and shows the task as it is where it raises. So what is
not to be shown is taken out when the event comes in: then it is in no page, no API answer and no memory.
"""

import re
from collections.abc import Mapping
from typing import Any

from flower.events import Events

HIDDEN = "(not shown)"

_CHUNK = re.compile(r"\(route=[^,()]{1,120}, class=\w{1,20}, model=[^,()]{1,120}, jobs=\d+\)")
"""The form of `str(trivet_tasks.messages.Chunk)`."""
_EXCEPTION_NAME = re.compile(r"[A-Za-z_][\w.]*")


class ShownEvents(Events):  # type: ignore[misc]  # Flower ships no types
    """Flower's record of events, fed with what may be shown."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take one event from the broker. Called in Flower's receiving thread."""
        super().on_event(shown(event))


def shown(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with its arguments, result and errors reduced to what may be shown; worker events as they are."""
    clean = dict(event)
    if not str(event.get("type", "")).startswith("task-"):
        return clean
    for key, show in _SHOW.items():
        if clean.get(key) is not None:
            clean[key] = show(str(clean[key]))
    return clean


def _arguments(text: str) -> str:
    return text if _CHUNK.fullmatch(text) else HIDDEN


def _keywords(text: str) -> str:
    return text if text == "{}" else HIDDEN


def _result(text: str) -> str:
    return text if text.isdecimal() or text == "None" else HIDDEN  # how many jobs of the chunk were run


def _exception(text: str) -> str:
    name = _EXCEPTION_NAME.match(text)
    return f"{name[0]}: see the worker's log" if name else HIDDEN


def _traceback(_text: str) -> str:
    return "It is in the worker's log."


_SHOW = {
    "args": _arguments,
    "kwargs": _keywords,
    "result": _result,
    "exception": _exception,
    "traceback": _traceback,
}
