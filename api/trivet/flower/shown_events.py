"""Tasks as Flower may know them: our own description of its chunk, and nothing else a worker might send along.

Flower's `format_task` shapes its HTML pages only, not its API, and shows the task as it is where it raises. So what is
not to be shown is taken out when the event comes in: then it is in no page, no API answer and no memory.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flower.events import Events

from trivet_tasks.latency import Latency
from trivet_tasks.messages import queue_name

HIDDEN = "(not shown)"

_FIELD = re.compile(r"(route|class|model|jobs)=([^,()=]{1,120})")
_EXCEPTION_NAME = re.compile(r"[A-Za-z_][\w.]*")


class ShownEvents(Events):  # type: ignore[misc]  # Flower ships no types
    """Flower's record of events, fed with what may be shown."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take one event from the broker. Called in Flower's receiving thread."""
        super().on_event(shown(event))


def shown(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with its arguments, result and errors reduced to what may be shown; worker events as they are.

    The queue is added, as `routing_key`: Celery's events do not say it.
    """
    clean = dict(event)
    if not str(event.get("type", "")).startswith("task-"):
        return clean
    chunk = _chunk(str(clean.get("args") or ""))
    if chunk:
        clean["routing_key"] = queue_name(chunk["route"], Latency(chunk["class"]))
    for key, show in _SHOW.items():
        if clean.get(key) is not None:
            clean[key] = show(str(clean[key]))
    return clean


def _chunk(text: str) -> dict[str, str]:
    """The fields of `str(trivet_tasks.messages.Chunk)`; nothing where the text is anything but that."""
    if not (text.startswith("(") and text.endswith(")")):
        return {}
    matches = [_FIELD.fullmatch(part) for part in text[1:-1].split(", ")]
    fields = {match[1]: match[2] for match in matches if match}
    whole = len(matches) == len(fields) == 4 and fields["jobs"].isdecimal() and fields["class"] in set(Latency)
    return fields if whole else {}


def _arguments(text: str) -> str:
    """The chunk with its number of jobs first: Flower cuts the column off at some fifty letters."""
    chunk = _chunk(text)
    return ", ".join(f"{name}={chunk[name]}" for name in ("jobs", "class", "route", "model")) if chunk else HIDDEN


def _exception(text: str) -> str:
    name = _EXCEPTION_NAME.match(text)
    return f"{name[0]}: see the worker's log" if name else HIDDEN


_SHOW: Mapping[str, Callable[[str], str]] = {
    "args": _arguments,
    "kwargs": lambda text: text if text == "{}" else HIDDEN,
    "result": lambda text: text if text.isdecimal() or text == "None" else HIDDEN,  # number of jobs that were run
    "exception": _exception,
    "traceback": lambda _: "It is in the worker's log.",
}
