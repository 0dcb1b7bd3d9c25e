"""Which requests one answer may serve."""

from collections.abc import Sequence
from hashlib import blake2b

import orjson

from trivet_tasks.latency import Latency
from trivet_tasks.settings import Settings


def cache_key_of(
    settings: Settings,
    latency: Latency,
    fingerprint: str,
    residency: Sequence[str],
    compliance: Sequence[str],
    tenant: str | None,
) -> str | None:
    """32 hex digits, equal for requests of which one's answer may serve the other; None where the class keeps none.

    Model and whole body are in it by the fingerprint. Where the answer may be made is in it, too: one made elsewhere must not
    serve a job that is bound to a place.
    """
    if not settings.cache.enabled or not settings.of_class(latency).cache_ttl_s:
        return None
    whose = tenant if settings.cache.per_tenant else None
    terms = [fingerprint, sorted(residency), sorted(compliance), whose]
    return blake2b(orjson.dumps(terms), digest_size=16).hexdigest()
