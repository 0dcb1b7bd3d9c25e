"""Flows: rows that jobs with the same terms share. They are opened with the first of them."""

from hashlib import blake2b
from typing import TypeAlias

import orjson
from sqlalchemy import Connection, text

from trivet_tasks.config.budgets import Labels, labels_of
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.prompt_cache import CacheWrite, cache_write_of

FlowTerms: TypeAlias = tuple[
    Latency, str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], str | None, str, CacheWrite, str | None
]
"""Terms that the jobs of a flow share: class, model, residency, compliance, features; a prefix, where one job warms it
for all; labels; what they write to the provider's prompt cache; and the tenant, where an operator controls it."""

_OPEN_FLOW = text(
    """
    INSERT INTO flows (signature, batch_id, latency, model, residency, compliance, features, prefix, labels, cache_write,
                       tenant, held, active, probe)
    VALUES (:signature, :batch_id, :latency, :model, :residency, :compliance, :features, :prefix, :labels, :cache_write,
            :tenant, :held, true, :probe)
    ON CONFLICT (signature) DO UPDATE SET active = true
    RETURNING id
    """
)


def open_flow(
    connection: Connection,
    terms: FlowTerms,
    signature: str,
    *,
    batch_id: int | None = None,
    held: bool,
    probe: bool = False,
) -> int:
    """Return the id of the flow with these terms, made active; it is opened where there is none.

    Args:
        signature: of the terms, or a probe's own.
    """
    given = dict(zip(("prefix", "labels", "cache_write", "tenant"), terms[3:], strict=True))
    flow = {**_columns(terms), **given, "batch_id": batch_id, "held": held, "probe": probe, "signature": signature}
    return int(connection.execute(_OPEN_FLOW, flow).scalar_one())


def flow_terms(spec: JobSpec, asked: Labels, controlled: frozenset[str]) -> FlowTerms:
    """Return the terms of a job.

    Args:
        asked: the labels that budgets ask for.
        controlled: tenants that an operator controls, whose jobs have flows of their own.
    """
    requirements = (spec.residency, spec.compliance, spec.features)
    tenant = spec.tenant if spec.tenant in controlled else None
    return spec.latency, spec.model, requirements, spec.line, labels_of(spec, asked), cache_write_of(spec.body), tenant


def signature_of(terms: FlowTerms, batch_id: int | None) -> str:
    """Return the signature that the flow with these terms has, alone or of a batch."""
    return blake2b(orjson.dumps([batch_id, *_columns(terms).values(), *terms[3:]]), digest_size=16).hexdigest()


def _columns(terms: FlowTerms) -> dict[str, str]:
    latency, model, (residency, compliance, features), *_ = terms
    return {
        "latency": latency.value,
        "model": model,
        "residency": orjson.dumps(residency).decode(),
        "compliance": orjson.dumps(compliance).decode(),
        "features": orjson.dumps(features).decode(),
    }
