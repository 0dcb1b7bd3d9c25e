"""The message that goes on with a `generate` task when its job or batch has ended: the same task, without its arguments.

It carries all that Celery needs to go on as if the task had never stopped: id, chain, chord, group, callbacks, errbacks,
queue, priority, stamps. It does not carry the prompt.
"""

from collections.abc import Mapping
from typing import Any

from celery import Task
from celery.app.task import Context

DELIVERY = "trivet_delivery"
"""Header of the message: the name of its delivery, which is the task's id. The first message of a task has none."""
_OF_THE_FIRST = ("expires", "eta", "countdown", "redelivered")
"""Options of the first message alone: the task has begun, and the wait for its job is no reason to drop it."""


def resuming(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signature of the message that resumes the present run of a task.

    Args:
        options: keyword arguments of the resumed run: small values, no prompts.
    """
    sent = task.signature_from_request(task.request, args=(), kwargs={}).options
    message = {name: value for name, value in sent.items() if name not in _OF_THE_FIRST and value is not None}
    message["headers"] = {**(message.get("headers") or {}), DELIVERY: task.request.id}
    message["declare"] = []  # the queue exists: the first message came from it, and its owner alone knows its arguments
    message |= {"argsrepr": "(its result)", "kwargsrepr": "{}"}
    return {
        "task": task.name,
        "args": [],
        "kwargs": dict(options),
        "options": message,
        "subtask_type": None,
        "immutable": False,
    }


def delivery_of(request: Context) -> str | None:
    """Return the name of the delivery that resumed this run; None of a first run."""
    name = (request.headers or {}).get(DELIVERY)
    return name if isinstance(name, str) else None
