"""Key of the requests that one answer may serve."""

from collections.abc import Sequence
from hashlib import blake2b

import orjson

from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Latency


def cache_terms(
    settings: Settings, latency: Latency, residency: Sequence[str], compliance: Sequence[str], tenant: str | None
) -> bytes | None:
    """Return what requests must have in common beside their words; None where their class keeps no answers.

    A tenant's answers serve nobody else unless the configuration says that all tenants share them. Residency is part of
    the key: an answer made elsewhere must not serve a job that is bound to a place. The version of the API is not: a
    body that two versions take means the same in both, and the body is in the fingerprint.
    """
    if not settings.cache.enabled or not settings.of_class(latency).cache_ttl_s:
        return None
    return orjson.dumps([residency, compliance, None if settings.cache.shared else tenant])


def cache_key_of(fingerprint: str, terms: bytes) -> str:
    """Return 32 hex digits, equal for requests that one answer may serve. Model and whole body are in it by the
    fingerprint."""
    return blake2b(b"%b %b" % (fingerprint.encode(), terms), digest_size=16).hexdigest()
