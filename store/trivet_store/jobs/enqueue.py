"""Enqueueing: one transaction writes a group of jobs with their requests, ranks and flows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import orjson
from sqlalchemy import Connection, text
from uuid_utils import uuid7

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.locking import lock_flows
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_store.jobs.ranking import places
from trivet_tasks.config.budgets import Labels, labels_of
from trivet_tasks.errors import KeyConflict
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import ClassSettings, Latency
from trivet_tasks.requests.prompt_cache import CacheWrite, cache_write_of
from trivet_tasks.states import JobState

_FlowTerms: TypeAlias = tuple[
    Latency, str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], str | None, str, CacheWrite
]
"""Terms that the jobs of a flow share: class, model, residency, compliance, features; a prefix, where one job warms it
for all; labels; and what they write to the provider's prompt cache."""


class Accepted(NamedTuple):
    """An accepted job. `existed`: it was there before, under the same key."""

    id: str
    existed: bool
    claim: int = 0


@dataclass(frozen=True, slots=True)
class BatchRef:
    """The batch that a group of jobs belongs to."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class DirectDispatch:
    """The route to which a realtime job is dispatched in the transaction that inserts it."""

    route: str
    until: float


_OPEN_FLOW = text(
    """
    INSERT INTO flows (signature, batch_id, latency, model, residency, compliance, features, prefix, labels, cache_write,
                       held, active)
    VALUES (:signature, :batch_id, :latency, :model, :residency, :compliance, :features, :prefix, :labels, :cache_write,
            :held, true)
    ON CONFLICT (signature) DO UPDATE SET active = true
    RETURNING id
    """
)
_BY_KEY = RowsStatement(
    schema.jobs, "SELECT key, tenant, id, fingerprint FROM jobs WHERE key IN (SELECT r.key FROM {rows})"
)
_INSERT_JOBS = RowsStatement(
    schema.jobs,
    """
    INSERT INTO jobs (id, batch_id, flow_id, key, fingerprint, state, rank, created_at, not_before, deadline_at,
                      input_estimate, max_tokens, claim, route, dispatched_until, tenant, last_error, tags, cache_key)
    SELECT r.id, r.batch_id, r.flow_id, r.key, r.fingerprint, r.state, r.rank, r.created_at, r.not_before, r.deadline_at,
           r.input_estimate, r.max_tokens, r.claim, r.route, r.dispatched_until, r.tenant, r.last_error, r.tags,
           r.cache_key
      FROM {rows}
     WHERE true
    ON CONFLICT (key, coalesce(tenant, '')) WHERE key IS NOT NULL DO NOTHING
    """,
)
_Key: TypeAlias = tuple[str, str | None]
"""A key and the tenant that it belongs to: the same word is another's own."""
_UNSENT = {"claim": 0, "route": None, "dispatched_until": None}
_FIX = "Use another key, or send the same request."
_INSERT_REQUESTS = RowsStatement(
    schema.job_requests, "INSERT INTO job_requests (job_id, body) SELECT r.job_id, r.body FROM {rows}"
)
_COUNT_IN = text("UPDATE batches SET total = total + :jobs WHERE id = :batch_id")


def insert(
    store: Store,
    connection: Connection,
    specs: Sequence[JobSpec],
    *,
    classes: Mapping[Latency, ClassSettings],
    batch: BatchRef | None = None,
    direct: DirectDispatch | None = None,
    waits_because: str | None = None,
    first: int | None = None,
    labels: Labels = frozenset(),
    prepared: Callable[[], None] = lambda: None,
) -> list[Accepted]:
    """Insert a group of jobs, in order; a job whose key its tenant used already is not inserted again.

    Args:
        specs: few enough that others do not wait long for the lock.
        batch: their batch, whose totals are raised. Its flows are held until the batch is opened.
        direct: dispatch them in the same transaction (realtime).
        waits_because: the error of a job that expires before it has another one.
        labels: the labels that budgets ask for (`budgets.AskedLabels`).
        first: the number of the first of them among all that are submitted together, for errors; None: it is single.
        prepared: called when from here on nearly all is the database's work.

    Returns:
        One entry per spec, in order.

    Raises:
        KeyConflict: a key is taken by a different request; nothing of the group is inserted then.
    """
    now = store.now(connection)
    known = _known_keys(connection, [spec.key for spec in specs if spec.key])
    # a job that is dispatched directly takes no place in line
    name = batch.name if batch else None
    lines = [(spec.latency, spec.tenant, name) for spec in specs]
    ranks = [0.0] * len(specs) if direct else places(connection, lines, classes)
    terms = [_flow_terms(spec, labels) for spec in specs]
    flows = _flows(connection, terms, batch)
    # the columns that nearly all rows have in common
    common: dict[str, Any] = {
        "batch_id": batch.id if batch else None,
        "created_at": now,
        "not_before": None,
        "state": (JobState.DISPATCHED if direct else JobState.WAITING).value,
        "claim": 1 if direct else 0,
        "route": direct.route if direct else None,
        "dispatched_until": direct.until if direct else None,
        "last_error": waits_because,
        "tags": None,
    }
    first_with: dict[_Key, int] = {}
    accepted: list[Accepted] = []
    rows: list[dict[str, Any]] = []
    for index, (spec, rank) in enumerate(zip(specs, ranks, strict=True)):
        key = _key_of(spec)
        if key in known:
            accepted.append(Accepted(_same_request(spec, *known[key], index, first), existed=True))
            continue
        if key in first_with:
            earlier = first_with[key]
            _same_as_earlier(spec, specs[earlier], earlier, index, first)
            accepted.append(Accepted(accepted[earlier].id, existed=True))
            continue
        job_id = uuid7().hex
        if key:
            first_with[key] = index
        row = {
            **common,
            "id": job_id,
            "flow_id": flows[terms[index]],
            "key": spec.key,
            "fingerprint": spec.fingerprint,
            "rank": rank,
            "deadline_at": spec.deadline_at,
            "input_estimate": spec.input_estimate,
            "max_tokens": spec.max_tokens,
            "tenant": spec.tenant,
            "cache_key": spec.cache_key,
            "job_id": job_id,
            "body": spec.body,
        }
        if spec.tags:
            row["tags"] = orjson.dumps(dict(spec.tags)).decode()
        if spec.not_before is not None and spec.not_before > now:
            row |= {"not_before": spec.not_before, "state": JobState.DELAYED.value, **_UNSENT}
        accepted.append(Accepted(job_id, existed=False, claim=row["claim"]))
        rows.append(row)
    if rows:
        prepared()
        # in one order everywhere, so that two groups with the same keys wait for each other instead of locking up
        in_order = sorted(rows, key=lambda row: (row["key"] or "", row["tenant"] or "")) if first_with else rows
        execute_rows(connection, _INSERT_JOBS, in_order)
        rows, accepted = _drop_lost_races(connection, specs, rows, accepted, first)
    if rows:
        execute_rows(connection, _INSERT_REQUESTS, rows)
        if batch:
            connection.execute(_COUNT_IN, {"jobs": len(rows), "batch_id": batch.id})
    return accepted


def _key_of(spec: JobSpec) -> _Key | None:
    return (spec.key, spec.tenant) if spec.key else None


def _known_keys(connection: Connection, keys: Sequence[str]) -> dict[_Key | None, tuple[str, str]]:
    if not keys:
        return {}
    rows = query_rows(connection, _BY_KEY, [{"key": key} for key in keys])
    return {(key, tenant): (job_id, fingerprint) for key, tenant, job_id, fingerprint in rows}


def _same_request(spec: JobSpec, job_id: str, fingerprint: str, index: int, first: int | None) -> str:
    if fingerprint != spec.fingerprint:
        raise KeyConflict(
            f"{_of_request(spec, index, first)} is taken by job {job_id}, whose request is a different one.",
            index=index,
            hint=_FIX,
        )
    return job_id


def _same_as_earlier(spec: JobSpec, other: JobSpec, earlier: int, index: int, first: int | None) -> None:
    if other.fingerprint != spec.fingerprint:
        raise KeyConflict(
            f"{_of_request(spec, index, first)} is taken by request {(first or 0) + earlier}, which is a different one.",
            index=index,
            hint=_FIX,
        )


def _of_request(spec: JobSpec, index: int, first: int | None) -> str:
    return (
        f"key: {spec.key!r}" if first is None and index == 0 else f"key: {spec.key!r} of request {(first or 0) + index}"
    )


def _flows(connection: Connection, jobs: Sequence[_FlowTerms], batch: BatchRef | None) -> dict[_FlowTerms, int]:
    """Return the ids of the jobs' flows, made active, by terms; their rows are locked in one order everywhere."""
    if batch:
        lock_flows(connection, batch.id)  # all of them, because what is being filled is held as a whole
    batch_id = batch.id if batch else None
    by_signature = {_signature(terms, batch_id): terms for terms in set(jobs)}
    return {
        terms: connection.execute(
            _OPEN_FLOW,
            {
                **_columns(terms),
                "prefix": terms[3],
                "labels": terms[4],
                "cache_write": terms[5],
                "batch_id": batch_id,
                "signature": signature,
                "held": batch is not None,
            },
        ).scalar_one()
        for signature, terms in sorted(by_signature.items())
    }


def _flow_terms(spec: JobSpec, asked: Labels) -> _FlowTerms:
    requirements = (spec.residency, spec.compliance, spec.features)
    return spec.latency, spec.model, requirements, spec.line, labels_of(spec, asked), cache_write_of(spec.body)


def _signature(terms: _FlowTerms, batch_id: int | None) -> str:
    return blake2b(orjson.dumps([batch_id, *_columns(terms).values(), *terms[3:]]), digest_size=16).hexdigest()


def _columns(terms: _FlowTerms) -> dict[str, str]:
    latency, model, (residency, compliance, features), *_ = terms
    return {
        "latency": latency.value,
        "model": model,
        "residency": orjson.dumps(residency).decode(),
        "compliance": orjson.dumps(compliance).decode(),
        "features": orjson.dumps(features).decode(),
    }


def _drop_lost_races(
    connection: Connection,
    specs: Sequence[JobSpec],
    rows: list[dict[str, Any]],
    accepted: list[Accepted],
    first: int | None,
) -> tuple[list[dict[str, Any]], list[Accepted]]:
    """Drop jobs whose key another process has committed since we looked: its job counts."""
    keys = [str(row["key"]) for row in rows if row["key"]]
    if not keys:
        return rows, accepted
    owners = _known_keys(connection, keys)
    ours = {row["id"] for row in rows if not row["key"] or owners[row["key"], row["tenant"]][0] == row["id"]}
    settled = [
        entry
        if _key_of(spec) not in owners or entry.id == owners[_key_of(spec)][0]
        else Accepted(_same_request(spec, *owners[_key_of(spec)], index, first), existed=True)
        for index, (spec, entry) in enumerate(zip(specs, accepted, strict=True))
    ]
    return [row for row in rows if row["id"] in ours], settled
