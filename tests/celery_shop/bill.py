"""The audit of a run of the shop: its jobs against the provider's own log of calls."""

from collections import Counter

from tests.databases import rows

from trivet.testing import RunningTrivet

_JOBS = """
    SELECT id, key FROM jobs WHERE tenant = :tenant
"""
_ATTEMPTS = """
    SELECT a.id, a.job_id, a.outcome FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.tenant = :tenant
"""


def faults_of(trivet: RunningTrivet, tenant: str, documents: int) -> list[str]:
    """Return the faults of a tenant, each of whose documents should be one job with one paid and settled call.

    A call whose worker was killed has no known end, and another is made: it is on record as `unknown`.
    """
    jobs = rows(trivet.settings, _JOBS, tenant=tenant)
    attempts = rows(trivet.settings, _ATTEMPTS, tenant=tenant)
    calls = {call.attempt for call in trivet.simulator.iter_calls(running=True)}
    settled = Counter(attempt.job_id for attempt in attempts if attempt.outcome == "succeeded")
    found = [f"{len(jobs)} jobs for {documents} documents"] if len(jobs) != documents else []
    found += [f"job {job.key}: {settled[job.id]} settled calls" for job in jobs if settled[job.id] != 1]
    found += [
        f"job {attempt.job_id}: a call ended as {attempt.outcome}"
        for attempt in attempts
        if attempt.outcome not in ("succeeded", "unknown", "cancelled")
    ]
    paid = {attempt.id for attempt in attempts if attempt.outcome == "succeeded"}
    if paid - calls:
        found.append(f"{len(paid - calls)} settled calls are not in the provider's log")
    return found


def unknown_calls(trivet: RunningTrivet, tenant: str) -> int:
    """Return the number of calls without a known end, which kills of Trivet's workers left."""
    return sum(attempt.outcome == "unknown" for attempt in rows(trivet.settings, _ATTEMPTS, tenant=tenant))
