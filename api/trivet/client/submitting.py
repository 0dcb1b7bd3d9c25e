"""Submitting: one job, or a stream of them in groups that can be resumed."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from shlex import quote
from typing import TYPE_CHECKING, Self

from trivet_store.controls import pause_of_new
from trivet_store.database.engine import BULK_BYTES, BULK_ROWS, Connection
from trivet_store.jobs import batches, deliveries
from trivet_store.jobs.batches import Loading
from trivet_store.jobs.enqueue import Accepted, BatchRef, DirectDispatch, insert
from trivet_tasks.callbacks import Callback
from trivet_tasks.config.budgets import labels_of
from trivet_tasks.errors import BrokerUnavailable, InvalidRequest, KeyConflict, TrivetError, place_of
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.requests.prompt_cache import Sharing, marked
from trivet_tasks.tenant_scope import TenantScope

if TYPE_CHECKING:
    from trivet.client.connections import Connections

log = logging.getLogger("trivet")

GROUP_ROWS = {"sqlite": 400, "postgresql": 1_000}
"""Jobs of one transaction, by database. On SQLite all who write wait for it, 12 ms; on PostgreSQL those who submit for the same
owner."""


def submit_one(connections: "Connections", spec: JobSpec, on_done: Callback | None = None) -> Accepted:
    """Record one job; a realtime or interactive one is dispatched in the same transaction, if a route can take it.

    Raises:
        BrokerUnavailable: a realtime job needs the broker now. Nothing was written.
        InvalidRequest: no route will ever take the realtime or interactive job; names each and why.
        KeyConflict: the key is taken by a different request.
    """
    if spec.prefixes:
        spec = marked(spec, spec.prefixes[0])
    if spec.latency.lane is not Lane.REALTIME or (spec.not_before or 0) > connections.store.clock.reckoned():
        accepted = _insert_one(connections, spec, on_done)
        connections.tell_work()
        _tell_callback(connections, accepted, on_done)
        return accepted
    try:
        direct, reasons = _route_now(connections, spec)
    except BrokerUnavailable as error:
        if spec.latency is Latency.REALTIME:
            raise
        direct, reasons = None, error.message
    labels = connections.asked_labels.now()
    with connections.store.write() as connection:
        paused = pause_of_new(connection, spec.tenant, spec.latency)
        if paused is not None:
            direct, reasons = None, f"the {paused.words(named=False)}"
        elif direct is not None:
            held = connections.dispatcher.held_by_budget(connection, spec, labels_of(spec, labels), direct)
            direct, reasons = (direct, None) if held is None else (None, held)
        (accepted,) = insert(
            connections.store,
            connection,
            [spec],
            classes=connections.settings.classes,
            direct=direct,
            waits_because=reasons,
            labels=labels,
        )
        _add(connections, connection, accepted, on_done)
    if direct is not None and accepted.claim:
        send_accepted(connections, [(spec, accepted.id, direct)])
    elif not accepted.existed:
        connections.tell_work()
    _tell_callback(connections, accepted, on_done)
    return accepted


def send_accepted(connections: "Connections", sent: Sequence[tuple[JobSpec, str, DirectDispatch]]) -> None:
    """Publish jobs that were inserted as dispatched: each with its id and route.

    Raises nothing, since they are accepted: an error would have them submitted, and paid, twice. Where publishing fails
    a scheduler finds them, or they expire.
    """
    if not sent:
        return
    try:
        connections.dispatcher.send_direct(*sent)
    except Exception as error:
        reason = str(error) if isinstance(error, TrivetError) else place_of(error)
        log.warning("%d accepted jobs wait for a scheduler, the first of them is %s: %s", len(sent), sent[0][1], reason)


def _route_now(connections: "Connections", spec: JobSpec) -> tuple[DirectDispatch | None, str | None]:
    """Return the route to which the job goes at once, else why it waits. Raises as `submit_one` does."""
    with connections.requires_redis():
        (choice,) = connections.dispatcher.choices_for([spec])
        direct = connections.dispatcher.direct(choice, spec.latency)
        if direct is None:
            connections.redis.ping()  # without a route nothing may have shown yet that there is no broker
    if choice.refusals and choice.hopeless:
        raise InvalidRequest(f"No route can take this job: {choice.reasons()}.", hint="`trivet routes` lists them.")
    if direct is None:
        return None, choice.reasons() or "no worker has made a route known yet (`trivet routes`)"
    return direct, None


def _insert_one(connections: "Connections", spec: JobSpec, on_done: Callback | None) -> Accepted:
    labels = connections.asked_labels.now()
    with connections.store.write() as connection:
        (accepted,) = insert(connections.store, connection, [spec], classes=connections.settings.classes, labels=labels)
        _add(connections, connection, accepted, on_done)
    return accepted


def _add(connections: "Connections", connection: Connection, accepted: Accepted, on_done: Callback | None) -> None:
    if on_done is not None:
        deliveries.add(connections.store, connection, on_done, job_id=accepted.id)


def _tell_callback(connections: "Connections", accepted: Accepted, on_done: Callback | None) -> None:
    """Wake the schedulers for the callback of a job that may have ended before."""
    if on_done is not None and accepted.existed:
        connections.tell_finished([accepted.id])


def fill_batch(
    connections: "Connections",
    name: str,
    specs: Iterable[JobSpec],
    *,
    dedupe: bool = False,
    on_done: Callback | None = None,
    scope: TenantScope | None = None,
) -> int:
    """Stream jobs into a batch, in groups of one transaction each, and open it at the end. Returns its row id.

    A batch of this name that was begun before is resumed: the requests it has taken are read again and compared, and
    the rest is added.

    Args:
        dedupe: see `batches.Loading`.
        on_done: sent when all jobs of the batch have ended.
        scope: see `batches.begin_loading`.

    Raises:
        InvalidRequest: a request is wrong, or not the one that was there before. The requests taken so far
            stay, and none of them runs until the batch is resumed or accepted as it is.
    """
    store = connections.store
    with store.write() as connection:
        loading = batches.begin_loading(store, connection, name, dedupe=dedupe, scope=scope)
        if on_done is not None:
            deliveries.add(store, connection, on_done, batch_id=loading.id)
    stream, sharing = iter(specs), Sharing()
    _skip_taken(loading, stream)
    writer = _Writer(connections, loading)
    try:
        with writer:
            for group in _groups(stream, GROUP_ROWS["sqlite" if store.sqlite else "postgresql"]):
                writer.put(sharing.marked(group))
    except InvalidRequest as error:
        loading = writer.loading
        if error.field == "name":  # another process has the batch now: it is not ours to mark
            raise
        with store.write() as connection:
            batches.mark_incomplete(connection, loading.id, error.message)
        stands = (
            f"The batch {name!r} holds the {loading.taken} requests before it and does not run. Fix the request and submit "
            f"again under the same name, run it as it is: `trivet batch accept {quote(name)}`, or delete it: `trivet batch "
            f"discard {quote(name)}`."
        )
        error.hint = f"{error.hint} {stands}".strip()
        raise
    with store.write() as connection:
        batches.open_batch(store, connection, loading.id)
        if on_done is not None:
            deliveries.due_if_done(store, connection, loading.id, on_done.name)
    connections.tell_work()
    if on_done is not None and loading.taken:
        connections.tell_finished([], [loading.id])
    return loading.id


class _Writer:
    """Writes groups of requests into a batch, in order; on PostgreSQL each while the next one is read and checked.

    All groups put in are written when the block ends, whatever ends it; the next call raises the first error of a write.
    On SQLite the two would only get into each other's way: its driver asks for Python's lock at every row.
    """

    def __init__(self, connections: "Connections", loading: Loading) -> None:
        self._connections = connections
        self._thread = None if connections.store.sqlite else ThreadPoolExecutor(1, "trivet-writer")
        self._writing: Future[None] | None = None
        self.loading = loading
        """Position of the batch after the requests that have been written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        try:
            self._finish()
        finally:
            self._thread.shutdown()

    def put(self, group: Sequence[JobSpec]) -> None:
        """Write a group, or begin to, when the one before it is written."""
        if self._thread is None:
            self._write(group)
            return
        self._finish()
        prepared = threading.Event()
        self._writing = self._thread.submit(self._write, group, prepared.set)
        self._writing.add_done_callback(lambda _: prepared.set())
        prepared.wait()

    def _finish(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, group: Sequence[JobSpec], prepared: Callable[[], None] = lambda: None) -> None:
        try:
            self.loading = _take_in(self._connections, self.loading, group, prepared)
        except KeyConflict as error:
            if error.index:
                self.loading = _take_in(self._connections, self.loading, group[: error.index])
            raise


def _take_in(
    connections: "Connections", loading: Loading, group: Sequence[JobSpec], prepared: Callable[[], None] = lambda: None
) -> Loading:
    """Write the jobs and the batch's position in one transaction."""
    store, labels = connections.store, connections.asked_labels.now()
    batch = BatchRef(loading.id, loading.name, loading.dedupe)
    with store.write() as connection:
        insert(
            store,
            connection,
            group,
            classes=connections.settings.classes,
            batch=batch,
            first=loading.taken,
            labels=labels,
            prepared=prepared,
        )
        loading = batches.note_tenants(connection, loading, {spec.tenant for spec in group})
        after = batches.advance(connection, loading, [spec.fingerprint for spec in group])
        deliveries.goes_on(connection, [], loading.id)
        return after


def _skip_taken(loading: Loading, stream: Iterator[JobSpec]) -> None:
    """Read over what the batch has taken before, and make sure it is the same. InvalidRequest when it is not."""
    digest, left = "", loading.taken
    while left:
        fingerprints = []
        for _ in range(min(left, BULK_ROWS)):
            spec = next(stream, None)
            if spec is None:
                break
            fingerprints.append(spec.fingerprint)
        if not fingerprints:
            break
        digest = batches.chain(digest, fingerprints)
        left -= len(fingerprints)
    if digest != loading.digest:
        raise InvalidRequest(
            f"The batch {loading.name!r} took {loading.taken} requests before, and the first {loading.taken} given now are not the same.",
            field="name",
            hint="Submit the same requests in the same order to resume it, or choose another name.",
        )


def _groups(stream: Iterator[JobSpec], rows: int) -> Iterator[list[JobSpec]]:
    """Yield groups of one transaction each. Requests read before an error are yielded first."""
    group: list[JobSpec] = []
    size = 0
    try:
        for spec in stream:
            group.append(spec)
            size += len(spec.body) + len(spec.metadata or "")
            if len(group) >= rows or size >= BULK_BYTES:
                yield group
                group, size = [], 0
    except InvalidRequest:
        if group:
            yield group
        raise
    if group:
        yield group
