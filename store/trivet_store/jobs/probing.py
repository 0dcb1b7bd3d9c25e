"""Probes: tiny jobs of Trivet's own, each for one route. They wait for nobody and are never tried elsewhere.

A probe is a job like any other, so that it is fenced, settled and priced like any other. Its flow is held: no dispatcher
looks at it, and one that was not claimed in time expires.
"""

from hashlib import blake2b

import orjson
from sqlalchemy import Connection, text
from uuid_utils import uuid7

from trivet_store.database.engine import Store
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency

PROBE_REQUEST = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
"""The cheapest complete call: about ten tokens in, one out."""
INPUT_ESTIMATE = 10

_OPEN_FLOW = text(
    """
    INSERT INTO flows (signature, latency, model, residency, compliance, features, held, active, probe)
    VALUES (:signature, :latency, :model, '[]', '[]', '[]', true, true, true)
    ON CONFLICT (signature) DO UPDATE SET active = true
    RETURNING id
    """
)
_INSERT = text(
    """
    INSERT INTO jobs (id, flow_id, fingerprint, state, rank, created_at, deadline_at, input_estimate, max_tokens,
                      claim, route, dispatched_until)
    VALUES (:id, :flow_id, '', 'dispatched', 0, :now, :deadline, :input_estimate, 1, 1, :route, :until)
    """
)
_REQUEST = text("INSERT INTO job_requests (job_id, body) VALUES (:id, :body)")


def insert_probe(
    store: Store, connection: Connection, *, route: str, model: str, latency: Latency, taken_within_s: float
) -> DispatchedJob:
    """Insert a probe as dispatched to its route; the caller sends the message.

    Args:
        latency: decides the queue and so the kind of worker.
        taken_within_s: a probe that no worker claimed within this time is given up.
    """
    now = store.now(connection)
    signature = blake2b(f"probe {latency} {model}".encode(), digest_size=16).hexdigest()
    flow_id = connection.execute(
        _OPEN_FLOW, {"signature": signature, "latency": latency.value, "model": model}
    ).scalar_one()
    job_id = uuid7().hex
    connection.execute(
        _INSERT,
        {
            "id": job_id,
            "flow_id": flow_id,
            "now": now,
            "until": now + taken_within_s,
            "deadline": now + taken_within_s,
            "input_estimate": INPUT_ESTIMATE,
            "route": route,
        },
    )
    connection.execute(_REQUEST, {"id": job_id, "body": orjson.dumps(PROBE_REQUEST)})
    return DispatchedJob(job_id, 1, INPUT_ESTIMATE, 1)
