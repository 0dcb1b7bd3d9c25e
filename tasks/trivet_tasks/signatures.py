"""Celery signatures of users, read where a job is submitted: their tasks, their queues, the name of their application.

Celery itself is not imported: a producer that has a signature has loaded it.
"""

import json
from collections.abc import Mapping
from typing import Any

from trivet_tasks.callbacks import Callback
from trivet_tasks.errors import InvalidRequest

_OF_TASKS = (
    "queue", "routing_key", "exchange", "priority", "expires", "serializer", "delivery_mode", "compression", "time_limit",
    "soft_time_limit", "mandatory",
)  # fmt: skip
"""Options that a task may have for all its calls, and a call of its own."""
_OF_QUEUES = (
    "routing_key", "durable", "auto_delete", "exclusive", "no_declare", "expires", "message_ttl", "max_length",
    "max_length_bytes", "max_priority", "queue_arguments",
)  # fmt: skip
_OF_LAST = ("task_id", "link", "link_error")
"""Options of a chain that are not its first task's."""
_UNSUITABLE = ("group", "chord")


def read_callback(on_done: object) -> Callback:
    """Return the callback that `on_done=` of a submit names.

    Args:
        on_done: a callback, or a signature of a task or a chain of an application (`save.s("doc/1")`).

    Raises:
        InvalidRequest: it is neither, or its application has no name.
    """
    if isinstance(on_done, Callback):
        return on_done
    if isinstance(on_done, Mapping) and "task" in on_done and hasattr(on_done, "app"):
        return _of_signature(on_done)
    raise InvalidRequest(
        f"on_done: must be a Celery signature, as in save.s(), or a trivet.Callback, not {type(on_done).__name__}.",
        field="on_done",
    )


def _of_signature(signature: Any) -> Callback:
    first = signature
    while first.get("subtask_type") == "chain" and first["kwargs"]["tasks"]:
        first = first["kwargs"]["tasks"][0]
    kind = first.get("subtask_type")
    if kind in _UNSUITABLE:
        hint = "Let a task of the application start it."
        raise InvalidRequest(f"on_done: must begin with a task, not with a {kind}.", field="on_done", hint=hint)
    _refuse_chords(signature)
    app = first.app if hasattr(first, "app") else signature.app
    if not app.main:
        raise InvalidRequest(
            f"on_done: the Celery application of {first['task']} has no name.",
            field="on_done",
            hint='Name it, as in Celery("shop"), or use trivet.Callback.',
        )
    callback = Callback(first["task"], app.main, signature)
    written = json.loads(callback.to_json())  # a copy: the signature is the caller's
    at = written
    while at.get("subtask_type") == "chain":
        at = at["kwargs"]["tasks"][0]
    at["options"] = _options(app, {**first, "options": {**first["options"], **_of_chain(signature)}})
    return Callback(first["task"], app.main, written)


def _of_chain(signature: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a chain as a whole, which Celery gives to its first task."""
    if signature.get("subtask_type") != "chain":
        return {}
    return {name: value for name, value in signature["options"].items() if name not in _OF_LAST}


def _refuse_chords(signature: Mapping[str, Any]) -> None:
    """Make sure that a scheduler, which has no result backend, can send a chain: a chord needs one."""
    steps = signature["kwargs"]["tasks"] if signature.get("subtask_type") == "chain" else ()
    for place, step in enumerate(steps):
        if step.get("subtask_type") == "chord" or (step.get("subtask_type") == "group" and place + 1 < len(steps)):
            raise InvalidRequest(
                "on_done: a chain must hold no chord, and no task after a group.",
                field="on_done",
                hint="Let a task of the application start it.",
            )
        _refuse_chords(step)


def _options(app: Any, signature: Any) -> dict[str, Any]:
    """Return the options of a call as the application would send it: only the application knows its routes."""
    task = app.tasks.get(signature["task"])
    of_task = {name: getattr(task, name, None) for name in _OF_TASKS} if task is not None else {}
    given = {**{name: value for name, value in of_task.items() if value is not None}, **signature["options"]}
    options = dict(app.amqp.router.route(given, signature["task"], signature["args"], signature["kwargs"]))
    if options.get("queue") is None and options.get("exchange") is None:
        options["queue"] = app.amqp.default_queue
    queue, exchange = options.get("queue"), options.get("exchange")
    if queue is not None and not isinstance(queue, str):
        options["queue"] = _queue(queue)
    if exchange is not None and not isinstance(exchange, str):
        options["exchange"] = exchange.name
    conf = app.conf
    options.setdefault("serializer", conf.task_serializer)
    if conf.task_compression:
        options.setdefault("compression", conf.task_compression)
    if conf.task_default_priority is not None:
        options.setdefault("priority", conf.task_default_priority)
    return options


def _queue(queue: Any) -> dict[str, Any]:
    """Return a queue in the form in which `delivering` declares it: as the application does, or RabbitMQ would refuse it."""
    exchange = queue.exchange
    values = {name: getattr(queue, name, None) for name in _OF_QUEUES}
    return {
        "name": queue.name,
        "exchange": {"name": exchange.name, "type": exchange.type, "durable": exchange.durable} if exchange else None,
        **{name: value for name, value in values.items() if value is not None},
    }
