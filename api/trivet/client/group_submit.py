"""Submitting single jobs together: those that arrive within one moment share a look at the routes, a transaction, a pipeline.

Each is accepted, or refused, for itself.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from trivet.client.submitting import send_accepted, submit_one
from trivet_store.controls import pause_of_new
from trivet_store.database.engine import Connection
from trivet_store.jobs.enqueue import Accepted, Way, insert
from trivet_tasks.errors import (
    BrokerUnavailable,
    InvalidRequest,
    KeyConflict,
    StoreUnavailable,
    TrivetError,
    place_of,
)
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.requests.prompt_cache import marked

if TYPE_CHECKING:
    from trivet.client.connections import Connections

log = logging.getLogger("trivet")

Submitted: TypeAlias = Accepted | TrivetError
"""An accepted job, or the reason for which the request was refused."""


def submit_together(connections: "Connections", specs: Sequence[JobSpec]) -> list[Submitted]:
    """Record single jobs; the realtime and interactive ones are dispatched in the same transaction, if a route can take them.

    Args:
        specs: not more than a transaction should have.

    Returns:
        One entry per spec, in order.

    Raises:
        StoreUnavailable: nothing was recorded.
    """
    specs = [marked(spec, spec.prefixes[0]) if spec.prefixes else spec for spec in specs]
    if len(specs) == 1 or connections.directory.known().budgets:  # a budget's headroom is counted job by job
        return _submit_each(connections, specs)
    ways = _ways(connections, specs)
    try:
        with connections.store.write() as connection:
            begun = [
                (index, way)
                for index, way in enumerate(_unpaused(connection, specs, ways))
                if not isinstance(way, TrivetError)
            ]
            inserted = insert(
                connections.store,
                connection,
                [specs[index] for index, _ in begun],
                classes=connections.settings.classes,
                ways=[way for _, way in begun],
                labels=connections.asked_labels.now(),
            )
    except KeyConflict:  # of one of them: nothing was written
        return _submit_each(connections, specs)
    accepted = {index: one for (index, _), one in zip(begun, inserted, strict=True)}
    sent = [
        (specs[index], accepted[index].id, way.direct)
        for index, way in begun
        if way.direct is not None and accepted[index].claim
    ]
    send_accepted(connections, sent)
    if len(sent) < sum(not one.existed for one in inserted):
        connections.tell_work()
    return [accepted[index] if index in accepted else _error(way) for index, way in enumerate(ways)]


def _submit_each(connections: "Connections", specs: Sequence[JobSpec]) -> list[Submitted]:
    """Submit each in a transaction of its own. Raises nothing: an error of one says nothing about those before it."""
    submitted: list[Submitted] = []
    for spec in specs:
        before = submitted[-1] if submitted else None
        # the rest of the group would wait for the database one after the other
        submitted.append(before if isinstance(before, StoreUnavailable) else _submit_alone(connections, spec))
    return submitted


def _submit_alone(connections: "Connections", spec: JobSpec) -> Submitted:
    try:
        return submit_one(connections, spec)
    except TrivetError as error:
        return error
    except Exception as error:
        log.error("a request was not accepted by a fault of Trivet's own: %s", place_of(error))
        return TrivetError("The request was not accepted by a fault of Trivet's own; the log has its place.")


def _ways(connections: "Connections", specs: Sequence[JobSpec]) -> list[Way | TrivetError]:
    """Return how each job begins, or why it cannot."""
    now = connections.store.clock.reckoned()
    at_once = [spec for spec in specs if spec.latency.lane is Lane.REALTIME and (spec.not_before or 0) <= now]
    if not at_once:
        return [Way()] * len(specs)
    try:
        with connections.requires_redis():
            choices = connections.dispatcher.choices_for(at_once)
    except BrokerUnavailable as error:
        unsent: dict[Latency, Way | TrivetError] = {
            Latency.REALTIME: error,
            Latency.INTERACTIVE: Way(reasons=error.message),
        }
        return [unsent.get(spec.latency, Way()) if (spec.not_before or 0) <= now else Way() for spec in specs]
    begun: dict[int, Way | TrivetError] = {}
    alike: dict[tuple[str, Latency], Way] = {}
    taken: Counter[str] = Counter()
    for spec, choice in zip(at_once, choices, strict=True):
        direct = connections.dispatcher.direct(choice, spec.latency, taken)
        if direct is not None:
            taken[direct.route] += 1
            begun[id(spec)] = alike.setdefault((direct.route, spec.latency), Way(direct))
        elif choice.refusals and choice.hopeless:
            hint = "`trivet routes` lists them."
            begun[id(spec)] = InvalidRequest(f"No route can take this job: {choice.reasons()}.", hint=hint)
        else:
            reasons = choice.reasons() or "no worker has made a route known yet (`trivet routes`)"
            begun[id(spec)] = Way(reasons=reasons)
    return [begun.get(id(spec), Way()) for spec in specs]


def _unpaused(
    connection: Connection, specs: Sequence[JobSpec], ways: Sequence[Way | TrivetError]
) -> list[Way | TrivetError]:
    """Return the ways, without those that an operator's pause holds."""
    kinds = {
        (spec.tenant, spec.latency)
        for spec, way in zip(specs, ways, strict=True)
        if isinstance(way, Way) and way.direct
    }
    pauses = {kind: pause_of_new(connection, *kind) for kind in kinds}
    held = {kind: Way(reasons=f"the {pause.words(named=False)}") for kind, pause in pauses.items() if pause is not None}
    return [
        held.get((spec.tenant, spec.latency), way) if isinstance(way, Way) else way
        for spec, way in zip(specs, ways, strict=True)
    ]


def _error(way: Way | TrivetError) -> TrivetError:
    assert isinstance(way, TrivetError)
    return way
