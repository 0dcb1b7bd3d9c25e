"""Signing of cached answers: HMAC-SHA256 over the cache key, the tenant, the expiry and the answer.

Anybody with write access to Redis may have written an entry. An answer counts only if a worker of this installation
signed it for this cache key, and only until it expires, whatever Redis says of its time to live.

    entry = MAC in hex, line feed, head (JSON), line feed, answer
"""

import hashlib
import hmac
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, auto
from typing import NamedTuple

import orjson

_PURPOSE = b"trivet cached answers 1"
_MAC_CHARS = 64


class Kept(NamedTuple):
    """An answer and where it came from."""

    message: bytes
    """The provider's, JSON."""
    stop_reason: str
    route: str
    cost_usd: Decimal | None
    """Cost of the call that brought it, in USD; None where it has no price."""
    tenant: str | None = None
    """Tenant whose jobs it may serve; None: those of all."""

    def __repr__(self) -> str:
        """Return a text without the answer."""
        return f"Kept({len(self.message)} bytes, {self.stop_reason}, {self.route})"


class Unusable(Enum):
    """Reason for which an entry brings no answer."""

    FOREIGN = auto()
    """This installation did not write it for this cache key."""
    EXPIRED = auto()
    """This installation wrote it, and it has expired."""


class AnswerSeal:
    """Seals and opens entries of the cache. Safe to share between threads.

    Args:
        key: the installation's.
        now: the database's time, seconds since the epoch.
    """

    def __init__(self, key: bytes, now: Callable[[], float]) -> None:
        self._key = hmac.digest(key, _PURPOSE, "sha256")
        self._now = now

    def seal(self, cache_key: str, answer: Kept, lives_s: float) -> bytes:
        """Return the entry of an answer that expires after this many seconds."""
        cost = None if answer.cost_usd is None else format(answer.cost_usd, "f")
        head = orjson.dumps([answer.stop_reason, answer.route, cost, answer.tenant, self._now() + lives_s])
        entry = head + b"\n" + answer.message
        return self._mac(cache_key, entry) + b"\n" + entry

    def open(self, cache_key: str, sealed: bytes) -> Kept | Unusable:
        """Return the answer of an entry, or why there is none."""
        mac, entry = sealed[:_MAC_CHARS], sealed[_MAC_CHARS + 1 :]
        if not hmac.compare_digest(mac, self._mac(cache_key, entry)):
            return Unusable.FOREIGN
        head, _, message = entry.partition(b"\n")
        stop_reason, route, cost, tenant, expires_at = orjson.loads(head)
        if expires_at <= self._now():
            return Unusable.EXPIRED
        return Kept(message, stop_reason, route, None if cost is None else Decimal(cost), tenant)

    def _mac(self, cache_key: str, entry: bytes) -> bytes:
        mac = hmac.new(self._key, cache_key.encode() + b"\n", hashlib.sha256)
        mac.update(entry)
        return mac.hexdigest().encode()
