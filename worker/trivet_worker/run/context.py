"""The settings, servers and state that the parts of one worker process share, and its origin."""

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import redis

from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE, ProcessImpairments
from trivet_routing.route_directory import RouteDirectory
from trivet_store.database.engine import Store
from trivet_tasks.config.environment_faults import PROXIES
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.shared_state import unavailable_text
from trivet_worker.run.local_faults import Witness
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.process_state import Drops, InProgress, RouteImpairments, Slots
from trivet_worker.run.served_routes import ServedRoutes

_DIGITS = 12
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OF_NETWORK = (*PROXIES, "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Settings, servers and state of one worker process. Safe to share between threads."""

    settings: Settings
    store: Store
    client: redis.Redis
    directory: RouteDirectory
    served: ServedRoutes
    witness: Witness
    pricing: Pricing
    slots: Slots
    in_progress: InProgress
    drops: Drops
    impairments: RouteImpairments
    """Impairments of single routes."""
    process_impairments: ProcessImpairments
    """Impairments of the whole process."""

    def note_database(self, place: str, error: StoreUnavailable, for_s: float | None = None) -> None:
        """Note that the database does not answer, as seen from a place of the process."""
        self.process_impairments.note(DATABASE, place, str(error), for_s)

    def note_shared_state(self, place: str, error: redis.RedisError, for_s: float | None = None) -> None:
        """Note that the shared state does not answer, as seen from a place of the process."""
        why = unavailable_text(self.settings.redis_url, error)
        self.process_impairments.note(SHARED_STATE, place, why, for_s)


def origin_of(settings: Settings) -> str:
    """Return the origin of this process: its identity as a witness against routes.

    Processes that share machine, file and network settings have one origin. Two that go out through the same dead proxy,
    with the same key, say the same thing; only a worker elsewhere, or one that is set up otherwise, can confirm it. The
    origin is a digest of nothing secret: of keys it takes the references, never the values.
    """
    network = [f"{name}={os.environ.get(name, '').rpartition('@')[2]}" for name in _OF_NETWORK]
    keys = [f"{name}={route.api_key or ''}" for name, route in sorted(settings.routes.items())]
    parts = [socket.gethostname(), _boot_id(), settings.source, *network, *keys]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]


def _boot_id() -> str:
    """Return the id of this run of the machine: two machines may have one name."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return ""
