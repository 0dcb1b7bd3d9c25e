"""`/trivet/v1/events`: ends of jobs and batches and events of routes, as they happen (server-sent events)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints
from starlette.responses import Response, StreamingResponse

from trivet.admin import Event, Happening, JobEnd, Progress
from trivet.gateway.context import overloaded
from trivet.gateway.errors import ApiError
from trivet.gateway.event_hub import Listener
from trivet.gateway.principal import AccessError
from trivet.gateway.resources.operation import Answer, BatchName, Call, Operation, Parameters
from trivet.json_objects import as_json, progress_object
from trivet_tasks.errors import TrivetError
from trivet_tasks.tenant_scope import TenantScope

HEARTBEAT_S = 10.0
"""Seconds after which a comment is sent where nothing happens, so that proxies keep the connection."""
OF_ROUTES = "route "
"""Beginning of the kinds of events that every key may see."""


class Kind(StrEnum):
    """Kinds of what is told."""

    JOB = "job"
    """The end of a job."""
    BATCH = "batch"
    """The end of a batch."""
    EVENT = "event"
    """An event of a route."""


class EventsQuery(Parameters):
    """Choice of what to hear of."""

    types: Annotated[str, StringConstraints(max_length=30, pattern=r"^[a-z,]+$")] = "job,batch,event"
    """By comma: job, batch, event."""
    batch: BatchName | None = None
    """Of jobs and batches only those of this batch."""


def operations() -> Sequence[Operation]:
    """Return the operation."""
    return (
        Operation(
            "GET",
            "/trivet/v1/events",
            stream_events,
            "operation",
            {200: Answer("Server-sent events, without an end.", "EventStream", media_type="text/event-stream")},
            query=EventsQuery,
            headers={"last-event-id": "The last id that was heard: later events of routes are told first."},
            errors=(529,),
        ),
    )


async def stream_events(call: Call) -> Response:
    """Tell what happens: `event: job` and `event: batch` at their ends, `event: event` of routes, as server-sent events.

    Of jobs and batches only what the key may see is told, and the cause of a route's event only to an admin key. Ends are
    told once, to those who listen at that moment; after a break ask for their state. The stream ends when its key is
    revoked or changed. Events have ids, and a client that sends `Last-Event-ID` hears what it missed.
    """
    query: EventsQuery = call.query
    types = frozenset(query.types.split(","))
    if unknown := types.difference(Kind):
        raise ApiError(400, f"types: {min(unknown)!r} is none. Use {', '.join(Kind)}.")
    if call.gateway.events.full:
        raise overloaded("This gateway has as many listeners as it takes.")
    if call.request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=_HEADERS)
    wanted = _chooser(types, query.batch, call.scope)
    return StreamingResponse(_stream(call, wanted, _last_id(call)), media_type="text/event-stream", headers=_HEADERS)


_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def _stream(call: Call, wanted: Callable[[Happening], bool], last: int) -> AsyncIterator[bytes]:
    async with call.gateway.events.listening(wanted) as listener:  # first, so that nothing happens unheard meanwhile
        missed = await call.run(lambda: call.gateway.admin.events.past(last)) if last else []
        told = {one.id for one in missed}  # not all up to the last: a smaller id may be committed later
        yield b": listening\n\n" + b"".join(_lines(call, one) for one in missed if wanted(one))
        while (happening := await _next(listener)) is not _END and await _may_hear(call):
            if happening is None:
                yield b": nothing happened\n\n"
            elif happening.id is None or happening.id not in told:
                yield _lines(call, happening)


async def _may_hear(call: Call) -> bool:
    """Return whether the key is still valid and allows what it did. It stands in memory as a rule."""
    try:
        return await call.gateway.access.principal_of(call.request.headers) == call.principal
    except AccessError:
        return False
    except TrivetError:  # the database is away: nothing new is read from it either
        return True


_END = Happening(-1, Event(0.0, "", None, None, ""))


async def _next(listener: Listener) -> Happening | None:
    """Return what happens next; None where nothing does for a while, `_END` where no more is told."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARTBEAT_S):
            happening = await listener.queue.get()
            return _END if happening is None else happening
    return None


def _chooser(types: frozenset[str], batch: str | None, scope: TenantScope | None) -> Callable[[Happening], bool]:
    def wanted(happening: Happening) -> bool:
        match happening.what:
            case JobEnd(batch=of, tenant=tenant):
                return Kind.JOB in types and batch in (None, of) and (scope is None or scope.sees(tenant))
            case Progress(name=name) as progress:
                seen = scope is None or (not progress.mixed and scope.sees(progress.tenant))
                return Kind.BATCH in types and batch in (None, name) and seen
            case Event(kind=kind):
                return Kind.EVENT in types and (scope is None or kind.startswith(OF_ROUTES))

    return wanted


def _lines(call: Call, happening: Happening) -> bytes:
    match happening.what:
        case JobEnd() as end:
            kind, data = Kind.JOB, as_json(end._asdict())
        case Progress() as progress:
            kind, data = Kind.BATCH, as_json(progress_object(progress))
        case Event() as event:
            shown = event if call.principal.admin else event._replace(text="")  # it may name operators and servers
            kind, data = Kind.EVENT, as_json(shown._asdict())
    number = "" if happening.id is None else f"id: {happening.id}\n"
    return f"{number}event: {kind}\ndata: {data}\n\n".encode()


def _last_id(call: Call) -> int:
    """Return the id that the client heard last; 0 where it names none."""
    given = call.request.headers.get("last-event-id", "")
    return int(given) if given.isascii() and given.isdecimal() and len(given) <= 18 else 0
