"""Sentences about routes: why one is not healthy, jobs that wait, what blocks them, limits set by hand, events."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.text import Text

from trivet.admin import (
    AppDeliveries,
    ClusterStatus,
    Control,
    DrainedRoute,
    Drop,
    Dropped,
    Event,
    FoldedEvent,
    ImpairmentKind,
    ModelStatus,
    RouteStatus,
    folded,
    idle_words,
    pause_notes,
)
from trivet.cli.output import GAP, Cell, Column, said_lines, table_lines
from trivet.times import ago, moment, seconds
from trivet_tasks.config.route_overrides import Override
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.states import RouteState

LONGEST_CAUSE = 140
"""Characters of a cause; `trivet routes events` and `--json` have the whole."""
DROPPED_S = 3_600.0
"""Seconds for which the table mentions a dropped message after the last one; `--json` always does."""
CALLBACKS_S = 10.0
"""Age in seconds from which the table mentions a callback that was not sent, or not confirmed; `--json` always does."""
_DROPPED = {
    Drop.UNREADABLE: "elements of queues that are no messages of Trivet's: something else writes to the broker",
    Drop.FORGED: "messages that contradict the database: somebody else may write to the broker",
    Drop.MISFIT: "jobs that the configuration of its worker does not allow there; they wait for another route",
    Drop.ANSWER: "cached answers that this installation did not sign",
}
STYLES: dict[str, str] = {
    RouteState.HEALTHY: "green",
    RouteState.LIMITED: "yellow",
    RouteState.RECOVERING: "yellow",
    RouteState.OPEN: "red",
    RouteState.PROBING: "red",
    RouteState.UNSERVED: "red",
    RouteState.UNSCHEDULED: "red",
    RouteState.DRAINED: "cyan",
    RouteState.UNPROVEN: "blue",
    RouteState.UNKNOWN: "magenta",
}
LEAST_FOR_CAUSES = 30
"""Columns that the causes of events need beside the rest; with fewer they get a line of their own."""
_OF_THE_WHOLE = (ImpairmentKind.SCHEDULER, ImpairmentKind.LANE)


def remarks(status: ClusterStatus, room: int | None) -> list[Text]:
    """Return the reasons for which routes and workers do not work normally, for a terminal of so many columns."""
    if not status.routes:
        said = ["No route is known yet: schedulers and workers make theirs known when they start."]
        said += [one.text for one in status.impairments]
        return [line for words in said for line in said_lines(words, hang=2, room=room)]
    said = [one.text for one in status.impairments if one.kind in _OF_THE_WHOLE]
    said += [line for route in status.routes for line in _of_route(route, status.now)]
    forgotten = next((model for route in status.routes for model in route.models if model.forgotten), None)
    if forgotten is not None:
        said.append(f"Calls are paused: {forgotten.cause}. It takes a second; if this stays, no scheduler runs.")
    said += [one.text for one in status.impairments if one.kind in (ImpairmentKind.SILENT, ImpairmentKind.IDLE)]
    said += [idle_words(one, status.now) for one in status.stopping]
    said += [f"worker {worker} takes no work of {route}: {reason}" for worker, route, reason in status.impaired]
    said += [_dropped(one, status.now) for one in status.dropped if status.now - one.last_at < DROPPED_S]
    return [line for words in said for line in said_lines(words, "yellow", hang=2, room=room)]


def _dropped(one: Dropped, now: float) -> str:
    """Return the counter as a sentence. Counters of messages and answers hint at somebody else who writes to the broker."""
    times = f"{one.times:,} {'time' if one.times == 1 else 'times'}, last {ago(max(0.0, now - one.last_at))} ago"
    return f"{one.route or 'broker'}: dropped {_DROPPED[one.kind]} ({times})"


def summary(status: ClusterStatus, room: int | None) -> list[Text]:
    """Return the waiting jobs and the reasons that block them."""
    lines = said_lines(_waiting(status), room=room)
    for said in control_words(status.controls):
        lines += said_lines(said, "yellow", hang=2, room=room)
    for said in filter(None, (_callbacks(one, status.now) for one in status.callbacks)):
        lines += said_lines(said, "yellow", hang=2, room=room)
    for reason in status.blocked:
        lines += said_lines(reason.sentence(named=True), "bold yellow", hang=2, room=room)
    for budget in status.budgets:
        if budget.holding and budget.jobs_held:
            said = f"The budget {budget.name} ({budget.scope}) is used up: {budget.jobs_held:,} jobs wait for it (`trivet budgets`)."
            lines += said_lines(said, "bold yellow", hang=2, room=room)
    return lines


def _callbacks(one: AppDeliveries, now: float) -> str:
    """Return the state of an application's callbacks as a sentence; empty while they are sent as they come."""
    age_s = max(0.0, now - one.oldest_at) if one.oldest_at else 0.0
    if not one.error and age_s < CALLBACKS_S:
        return ""
    parts = [f"{one.due:,} to send"] if one.due else []
    parts += [f"{one.unconfirmed:,} not confirmed yet"] if one.unconfirmed else []
    said = f"Callbacks to {one.app}: {', '.join(parts) or 'none'}"
    said += f", the oldest of an end {ago(age_s)} ago." if one.oldest_at else "."
    if one.error:
        since = f" for {ago(now - one.failing_since)}" if one.failing_since else ""
        return f"{said} Sending fails{since}: {one.error}"
    return f"{said} No scheduler with [celery_apps.{one.app}] sends them." if one.due else said


def control_words(controls: Sequence[Control]) -> Iterator[str]:
    """Yield sentences on what operators paused or gave a priority."""
    yield from pause_notes(one for one in controls if one.paused_at)
    if first := [f"{one.kind} {one.value} {one.priority:+d}" for one in controls if one.priority]:
        yield f"Priorities: {', '.join(first)}."


def override_words(name: str, overrides: Iterable[Override], now: float) -> Iterator[str]:
    """Yield the limits that were set by hand, with author, time and duration."""
    overrides = list(overrides)
    clashes = {one.models: one.clashes_with for one in overrides}
    for models, ours in groupby(overrides, key=lambda one: one.models):
        of = "" if models == WHOLE_ROUTE else f" {models}"
        for (by, at, until), same in groupby(ours, key=lambda one: (one.set_by, one.set_at, one.until)):
            figures = ", ".join(f"{one.figure} {one.value:,}" for one in same)
            end = f"until {moment(until)}" if until else f"until `trivet route limit {name} --reset`"
            group = clashes[models]
            idle = f", has no effect: {group} has some of these models (`trivet route limit {name} --model '{group}'`)"
            yield f"{name}{of}: {figures}, set by {by} {ago(now - at)} ago, {end}{idle if group else ''}"


def drained_words(drained: DrainedRoute) -> Iterator[str]:
    """Yield sentences on a drained route and on what becomes of its jobs."""
    before = "was drained before" if drained.was_drained else "is drained"
    yield f"{drained.route} {before}: no job is sent there until it is restored."
    parts = []
    if queued := drained.queued:
        parts.append(f"{queued:,} queued {'goes' if queued == 1 else 'go'} back to waiting within two seconds")
    if running := drained.running:
        parts.append(f"{running:,} running {'ends' if running == 1 else 'end'} there")
    yield f"Of its jobs {', '.join(parts)}." if parts else "It has no jobs."


def event_lines(found: Sequence[Event], room: int | None) -> list[Text]:
    """Return one event a line with its cause beside it, or below it on a narrow terminal. Repeated pauses are one line."""
    entries = folded(found)
    rows: list[list[Cell]] = [
        [
            moment(entry.event.at), entry.event.route or "",
            entry.event.model if entry.event.model not in (None, "*") else "",
            Text(kind := entry.event.kind.removeprefix("route "), style=STYLES.get(kind, "")),
        ]
        for entry in entries
    ]  # fmt: skip
    heading, *lines = table_lines([Column("AT"), Column("ROUTE"), Column("MODEL"), Column("WHAT")], rows, room=None)
    wide = max(line.cell_len for line in [heading, *lines]) + GAP
    if room is not None and room - wide < LEAST_FOR_CAUSES:
        shown = []
        for line, entry in zip(lines, entries, strict=True):
            line.truncate(room, overflow="ellipsis")
            shown += [line, *said_lines(_cause(entry), indent=4, room=room)]
        return shown
    shown = [heading + Text(" " * (wide - heading.cell_len) + "CAUSE", style="bold")]
    for line, entry in zip(lines, entries, strict=True):
        first, *more = said_lines(_cause(entry), room=None if room is None else room - wide)
        shown += [line + Text(" " * (wide - line.cell_len)) + first, *(Text(" " * wide) + part for part in more)]
    return shown


def _cause(entry: FoldedEvent) -> str:
    if entry.times == 1:
        return entry.event.text
    return f"{entry.event.text} ({entry.times:,} times, the last at {moment(entry.last_at)[11:]})"


def _of_route(route: RouteStatus, now: float) -> Iterator[str]:
    if not route.known:
        yield f"{route.name}: is in the configuration; no scheduler or worker has made it known yet"
        return
    if route.drained:
        yield _drained(route, now)
    yield from override_words(route.name, route.overrides, now)
    if not route.slots:
        yield f"{route.name}: no living worker serves it"
    for lane in route.lacking if route.slots else ():
        yield f"{route.name}: no {lane} worker serves it"
    said: dict[str, list[str]] = {}
    for model in route.models:
        for words in _of_model(model):
            said.setdefault(words, []).append(model.model)
    for words, models in said.items():
        every = len(models) == len(route.models)  # the cause is the account's, or there is but one model
        yield f"{route.name}{'' if every else ' ' + ', '.join(models)}: {words}"


def _drained(route: RouteStatus, now: float) -> str:
    since = f" {ago(now - route.drained_at)} ago" if route.drained_at else ""
    why = f" ({route.drained_why})" if route.drained_why else ""
    left = ""
    if route.queued or route.running:
        left = f"; {route.queued:,} queued go back to waiting, {route.running:,} running end there"
    return f"{route.name}: drained{since}{why}{left}; back with: trivet route restore {route.name}"


def _of_model(model: ModelStatus) -> Iterator[str]:
    cause = _in_brackets(model.cause)
    if model.forgotten:
        return  # said once, of all
    match model.state:
        case RouteState.OPEN | RouteState.PROBING:
            when = f"in {_wait(model)}" if model.wait_s >= 1 else "now"
            yield f"{model.state}{cause}, next probe {when}"
        case RouteState.LIMITED:
            yield f"limited{cause}, next headroom in {_wait(model)}"
        case RouteState.RECOVERING:
            yield f"recovering: gets {model.share:.0%} of its work, {_at_once(model)}"
        case RouteState.UNKNOWN if model.cause:
            yield model.cause
    if model.doubt:
        yield f"a probe checks whether it answers{_in_brackets(model.doubt)}"
    if model.narrowed and model.state in (RouteState.HEALTHY, RouteState.UNPROVEN):
        yield f"{_at_once(model)}, learned from its refusals"


def _in_brackets(cause: str) -> str:
    return f" ({textwrap.shorten(cause, LONGEST_CAUSE, placeholder=' …').rstrip('.')})" if cause else ""


def _at_once(model: ModelStatus) -> str:
    return f"{model.places:,} of {model.quota.max_concurrency:,} calls at once"


def _wait(model: ModelStatus) -> str:
    return ago(model.wait_s + 0.5)


def _waiting(status: ClusterStatus) -> str:
    if not any(row.total for row in status.waiting):
        return "No job waits."
    parts = []
    for row in status.waiting:
        kinds = (
            (row.delayed, "for their next try"),
            (row.held, "held"),
            (row.coalesced, "for an equal one's answer"),
            (row.paused, "paused"),
        )
        more = [f"{count:,} {word}" for count, word in kinds if count]
        parts.append(f"{row.total:,} {row.latency}" + (f" ({', '.join(more)})" if more else ""))
    oldest = seconds(max(0.0, status.now - min(row.oldest_at for row in status.waiting)))
    return f"Waiting: {', '.join(parts)}; the oldest for {oldest}."
