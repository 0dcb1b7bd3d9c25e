"""Celery's remote control, without the commands that change anything: work would stop or vanish, and nobody would see why.

Inspection (`celery inspect …`, Flower's pages) answers as ever. Every other command is refused, with an answer that names
Trivet's own, which is written down, holds over restarts and shows in `trivet routes`.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.consumer.control import Control
from celery.worker.control import Panel

log = logging.getLogger("trivet.worker")

_ROUTES = "`trivet route drain NAME` takes a route out of service, `trivet route restore NAME` puts it back"
_POOL = "`[worker] slots` sets how many calls a process makes at once, and more processes make more"
_JOBS = "`trivet job cancel ID` and `trivet batch cancel NAME` stop jobs"
_EVENTS = "workers always send their events"
INSTEAD: Mapping[str, str] = {
    "add_consumer": _ROUTES,
    "cancel_consumer": _ROUTES,
    "pool_grow": _POOL,
    "pool_shrink": _POOL,
    "pool_restart": "SIGTERM stops a worker in order, and its supervisor starts it again",
    "autoscale": _POOL,
    "shutdown": "SIGTERM stops a worker in order",
    "rate_limit": "a route's limits are in the configuration (`[routes.NAME] requests_per_minute`)",
    "time_limit": "the time of calls is in the configuration (`[classes.NAME] attempt_timeout_s`)",
    "revoke": _JOBS,
    "revoke_by_stamped_headers": _JOBS,
    "terminate": _JOBS,
    "enable_events": _EVENTS,
    "disable_events": _EVENTS,
}
"""By command, what does the same in Trivet."""


class InspectionOnly(bootsteps.Step):  # type: ignore[misc] # Celery has no types
    """Consumer step that gives this worker's mailbox handlers of its own; other applications of the process keep theirs."""

    requires = (Control,)

    def create(self, consumer: Any) -> None:
        """Replace the handlers before the mailbox listens. Called before any step starts."""
        for step in consumer.steps:
            if isinstance(step, Control):
                step.box.node.handlers = handlers()


def handlers() -> dict[str, Callable[..., Any]]:
    """Return what a worker does at each remote command."""
    allowed = {name: Panel.data[name] for name, about in Panel.meta.items() if about.type == "inspect"}
    refused = {name: partial(_refuse, name) for name in Panel.data if name not in allowed}
    return {**allowed, **refused, "hello": _hello}


def _refuse(command: str, state: Any, /, **_: Any) -> dict[str, str]:
    del state
    instead = INSTEAD.get(command)
    hint = f": {instead}." if instead else "."
    log.warning("the remote command %s was refused", command)
    return {"error": f"Trivet's workers answer inspection only, and {command} was refused{hint}"}


def _hello(state: Any, /, from_node: str, **_: Any) -> Any:
    """Answer another worker's greeting, without taking over what it says is revoked."""
    return Panel.data["hello"](state, from_node)
