"""Enqueueing: one transaction writes a group of jobs with their requests, ranks and flows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import orjson
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from uuid_utils import uuid7

from trivet_store import controls, schema
from trivet_store.database.engine import Store
from trivet_store.database.locking import lock_flows
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_store.jobs import transitions
from trivet_store.jobs.batches import changed_elsewhere
from trivet_store.jobs.flows import FlowTerms, flow_terms, open_flow, signature_of
from trivet_tasks.config.budgets import Labels
from trivet_tasks.errors import KeyConflict
from trivet_tasks.jobs import DispatchedJob, JobSpec
from trivet_tasks.latency import ClassSettings, Latency
from trivet_tasks.states import JobState


class Accepted(NamedTuple):
    """An accepted job. `existed`: it was there before, under the same key."""

    id: str
    existed: bool
    claim: int = 0


@dataclass(frozen=True, slots=True)
class BatchRef:
    """The batch that a group of jobs belongs to. `dedupe`: their keys are those of their tenants (`batches.Loading`)."""

    id: int
    name: str
    dedupe: bool = False


@dataclass(frozen=True, slots=True)
class DirectDispatch:
    """The route to which a realtime job is dispatched in the transaction that inserts it."""

    route: str
    until: float


_BY_KEY = RowsStatement(
    schema.jobs,
    """
    SELECT key, key_owner, id, fingerprint FROM jobs
     WHERE key IS NOT NULL AND (key, key_owner) IN (SELECT r.key, r.key_owner FROM {rows})
    """,
)
_Key: TypeAlias = tuple[str, str]
"""A key and its owner (`key_owner`): the same word is another's own."""
_UNSENT = {"claim": 0, "route": None, "dispatched_until": None}
_INSERT_REQUESTS = RowsStatement(
    schema.job_requests, "INSERT INTO job_requests (job_id, body) SELECT r.job_id, r.body FROM {rows}"
)
_VIRTUAL_NOW = text("SELECT rank FROM virtual_clock WHERE id = 1")
_ADVANCE_SHARE = text(
    """
    INSERT INTO shares (key, finish) VALUES (:key, :now + :span)
    ON CONFLICT (key) DO UPDATE
       SET finish = CASE WHEN shares.finish > :now THEN shares.finish ELSE :now END + :span
    RETURNING finish
    """
)
_COUNT_IN = text("UPDATE batches SET total = total + :jobs WHERE id = :batch_id")


class Way(NamedTuple):
    """Beginning of a job: dispatched to a route at once, or waiting, perhaps for a reason."""

    direct: DirectDispatch | None = None
    reasons: str | None = None
    """The error of a job that expires before it has another one."""


class ProbeRequest(NamedTuple):
    """The request of a probe. `input_estimate` is tokens."""

    prompt: str
    input_estimate: int
    max_tokens: int

    def request(self) -> dict[str, Any]:
        """Return it as a request of the Messages API."""
        return {"messages": [{"role": "user", "content": self.prompt}], "max_tokens": self.max_tokens}


PING = ProbeRequest("ping", 10, 1)
"""The cheapest complete call: about ten tokens in, one out."""


def insert(
    store: Store,
    connection: Connection,
    specs: Sequence[JobSpec],
    *,
    classes: Mapping[Latency, ClassSettings],
    batch: BatchRef | None = None,
    direct: DirectDispatch | None = None,
    waits_because: str | None = None,
    ways: Sequence[Way] = (),
    first: int | None = None,
    labels: Labels = frozenset(),
    prepared: Callable[[], None] = lambda: None,
) -> list[Accepted]:
    """Insert a group of jobs, in order; a job whose key is in use with its owner already is not inserted again.

    Args:
        specs: few enough that others do not wait long for the lock.
        batch: their batch, whose totals are raised. Its flows are held until the batch is opened.
        direct: dispatch them in the same transaction (realtime).
        waits_because: the error of a job that expires before it has another one.
        ways: for each spec, instead of these two. One call for all: their rows are locked in one order everywhere.
        labels: the labels that budgets ask for (`budgets.AskedLabels`).
        first: the number of the first of them among all that are submitted together, for errors; None: it is single.
        prepared: called when from here on nearly all is the database's work.

    Returns:
        One entry per spec, in order.

    Raises:
        KeyConflict: a key is taken by a different request; nothing of the group is inserted then.
        InvalidRequest: the batch was discarded.
    """
    now = store.now(connection)
    keys = [_key_of(spec, batch) for spec in specs]
    known = _known_keys(connection, [key for key in keys if key])
    # a job that is dispatched directly takes no place in line
    name = batch.name if batch else None
    lines = [(spec.latency, spec.tenant, name) for spec in specs]
    ways = ways or [Way(direct, waits_because)] * len(specs)
    waiting = [line for line, way in zip(lines, ways, strict=True) if way.direct is None]
    in_line = iter(ranks_of(connection, waiting, classes) if waiting else ())
    ranks = [next(in_line) if way.direct is None else 0.0 for way in ways]
    controlled = controls.controlled_tenants(connection) if any(spec.tenant for spec in specs) else frozenset()
    terms = [flow_terms(spec, labels, controlled) for spec in specs]
    flows = _flows(connection, terms, batch)
    # the columns that nearly all rows have in common
    common: dict[str, Any] = {
        "batch_id": batch.id if batch else None,
        "created_at": now,
        "not_before": None,
        "tags": None,
        "batch_index": None,
        "streamed": False,
    }
    of_way = {way: {**common, **_columns_of(way)} for way in set(ways)}
    first_with: dict[_Key, int] = {}
    accepted: list[Accepted] = []
    rows: list[dict[str, Any]] = []
    for index, (spec, rank, key) in enumerate(zip(specs, ranks, keys, strict=True)):
        if key in known:
            job_id, fingerprint = known[key]
            _same_request(spec, fingerprint, f"job {job_id}, whose request", index, first)
            accepted.append(Accepted(job_id, existed=True))
            continue
        if key in first_with:
            earlier = first_with[key]
            _same_request(spec, specs[earlier].fingerprint, f"request {(first or 0) + earlier}, which", index, first)
            accepted.append(Accepted(accepted[earlier].id, existed=True))
            continue
        job_id = uuid7().hex
        if key:
            first_with[key] = index
        row = {
            **of_way[ways[index]],
            "id": job_id,
            "flow_id": flows[terms[index]],
            "key": spec.key,
            "key_owner": key[1] if key else None,
            "fingerprint": spec.fingerprint,
            "rank": rank,
            "deadline_at": spec.deadline_at,
            "input_estimate": spec.input_estimate,
            "max_tokens": spec.max_tokens,
            "tenant": spec.tenant,
            "cache_key": spec.cache_key,
            "metadata": spec.metadata,
            "job_id": job_id,
            "body": spec.body,
        }
        if batch:
            row["batch_index"] = (first or 0) + index
        if spec.streamed:
            row["streamed"] = True
        if spec.tags:
            row["tags"] = orjson.dumps(dict(spec.tags)).decode()
        if spec.not_before is not None and spec.not_before > now:
            row |= {"not_before": spec.not_before, "state": JobState.DELAYED.value, **_UNSENT}
        accepted.append(Accepted(job_id, existed=False, claim=row["claim"]))
        rows.append(row)
    if rows:
        prepared()
        # in one order everywhere, so that two groups with the same keys wait for each other instead of locking up
        in_order = sorted(rows, key=lambda row: (row["key"] or "", row["key_owner"] or "")) if first_with else rows
        if transitions.insert(connection, in_order) < len(rows):
            rows, accepted = _drop_lost_races(connection, specs, keys, rows, accepted, first)
    if rows:
        execute_rows(connection, _INSERT_REQUESTS, rows)
        if batch:
            connection.execute(_COUNT_IN, {"jobs": len(rows), "batch_id": batch.id})
    return accepted


def _columns_of(way: Way) -> dict[str, Any]:
    direct = way.direct
    if direct is None:
        return {"state": JobState.WAITING.value, "last_error": way.reasons, **_UNSENT}
    sent = {"claim": 1, "route": direct.route, "dispatched_until": direct.until}
    return {"state": JobState.DISPATCHED.value, "last_error": way.reasons, **sent}


def insert_probe(
    store: Store,
    connection: Connection,
    *,
    route: str,
    model: str,
    latency: Latency,
    taken_within_s: float,
    request: ProbeRequest = PING,
) -> DispatchedJob:
    """Insert a probe as dispatched to its route; the caller sends the message.

    A probe is a tiny job of Trivet's own for one route, fenced, settled and priced like any other. Its flow is held, so
    that no dispatcher looks at it: it is never tried elsewhere.

    Args:
        latency: decides the queue and so the kind of worker.
        taken_within_s: a probe that no worker claimed within this time is given up.
    """
    now = store.now(connection)
    signature = blake2b(f"probe {latency} {model}".encode(), digest_size=16).hexdigest()
    terms: FlowTerms = (latency, model, ((), (), ()), None, "{}", "", None)
    job_id = uuid7().hex
    row: dict[str, Any] = {
        **dict.fromkeys(("batch_id", "batch_index", "key", "key_owner", "not_before", "tenant")),
        **dict.fromkeys(("last_error", "tags", "metadata", "cache_key")),
        "id": job_id,
        "flow_id": open_flow(connection, terms, signature, held=True, probe=True),
        "fingerprint": "",
        "state": JobState.DISPATCHED.value,
        "rank": 0.0,
        "created_at": now,
        "deadline_at": now + taken_within_s,
        "input_estimate": request.input_estimate,
        "max_tokens": request.max_tokens,
        "claim": 1,
        "route": route,
        "dispatched_until": now + taken_within_s,
        "streamed": False,
    }
    transitions.insert(connection, [row])
    execute_rows(connection, _INSERT_REQUESTS, [{"job_id": job_id, "body": orjson.dumps(request.request())}])
    return DispatchedJob(job_id, 1, request.input_estimate, request.max_tokens)


def ranks_of(
    connection: Connection,
    jobs: Sequence[tuple[Latency, str | None, str | None]],
    classes: Mapping[Latency, ClassSettings],
) -> list[float]:
    """Return the rank of each of these jobs, in order, behind those of the same owner.

    A rank is a place in the one order that all waiting jobs share: start-time fair queueing over tenants, or batches
    where there is no tenant, each with the weight of its class. A job starts when its owner's last one finished, but
    never in the past.

    The owners' rows stay locked until the commit, in one order everywhere; they come before flows, jobs and batches.

    Args:
        jobs: the latency class, the tenant and the name of the batch of each.
    """
    now = connection.execute(_VIRTUAL_NOW).scalar() or 0.0
    by_line: dict[tuple[Latency, str | None, str | None], list[int]] = {}
    for index, line in enumerate(jobs):
        by_line.setdefault(line, []).append(index)
    by_share: dict[tuple[str, Latency], list[int]] = {}
    for (latency, tenant, batch), indexes in by_line.items():
        owner = f"tenant {tenant}" if tenant else f"batch {batch}" if batch else ""
        by_share.setdefault((owner, latency), []).extend(indexes)
    ranks = [0.0] * len(jobs)
    for (owner, latency), indexes in sorted(by_share.items()):
        step = 1.0 / classes[latency].share
        span = step * len(indexes)
        finish = connection.execute(
            _ADVANCE_SHARE, {"key": f"{latency} {owner}", "now": now, "span": span}
        ).scalar_one()
        for position, index in enumerate(indexes):
            ranks[index] = finish - span + step * position
    return ranks


def key_owner(tenant: str | None) -> str:
    """Return the owner of the keys of a tenant's single jobs, and of its lines in batches with `dedupe`."""
    return f"tenant {tenant or ''}"


def _key_of(spec: JobSpec, batch: BatchRef | None) -> _Key | None:
    if not spec.key:
        return None
    return spec.key, f"batch {batch.id}" if batch and not batch.dedupe else key_owner(spec.tenant)


def _known_keys(connection: Connection, keys: Sequence[_Key]) -> dict[_Key | None, tuple[str, str]]:
    if not keys:
        return {}
    rows = query_rows(connection, _BY_KEY, [{"key": key, "key_owner": owner} for key, owner in keys])
    return {(key, owner): (job_id, fingerprint) for key, owner, job_id, fingerprint in rows}


def _same_request(spec: JobSpec, fingerprint: str, other: str, index: int, first: int | None) -> None:
    """Raise unless the request is the one that has taken its key."""
    if fingerprint != spec.fingerprint:
        of = "" if first is None and index == 0 else f" of request {(first or 0) + index}"
        taken = f"key: {spec.key!r}{of} is taken by {other} is a different one."
        raise KeyConflict(taken, index=index, hint="Use another key, or send the same request.")


def _flows(connection: Connection, jobs: Sequence[FlowTerms], batch: BatchRef | None) -> dict[FlowTerms, int]:
    """Return the ids of the jobs' flows, made active, by terms; their rows are locked in one order everywhere."""
    if batch:
        lock_flows(connection, batch.id)  # all of them, because what is being filled is held as a whole
    batch_id = batch.id if batch else None
    by_signature = {signature_of(terms, batch_id): terms for terms in set(jobs)}
    try:
        return {
            terms: open_flow(connection, terms, signature, batch_id=batch_id, held=batch is not None)
            for signature, terms in sorted(by_signature.items())
        }
    except IntegrityError:  # the batch that they refer to is gone
        if batch is None:
            raise
        raise changed_elsewhere(batch.name) from None


def _drop_lost_races(
    connection: Connection,
    specs: Sequence[JobSpec],
    keys: Sequence[_Key | None],
    rows: list[dict[str, Any]],
    accepted: list[Accepted],
    first: int | None,
) -> tuple[list[dict[str, Any]], list[Accepted]]:
    """Drop jobs whose key another process has committed since we looked: its job counts."""
    owners = _known_keys(connection, [(row["key"], row["key_owner"]) for row in rows if row["key"]])
    ours = {row["id"] for row in rows if not row["key"] or owners[row["key"], row["key_owner"]][0] == row["id"]}
    settled = []
    for index, (spec, key, entry) in enumerate(zip(specs, keys, accepted, strict=True)):
        owner, fingerprint = owners.get(key, (entry.id, spec.fingerprint))
        if owner != entry.id:
            _same_request(spec, fingerprint, f"job {owner}, whose request", index, first)
        settled.append(entry if owner == entry.id else Accepted(owner, existed=True))
    return [row for row in rows if row["id"] in ours], settled
