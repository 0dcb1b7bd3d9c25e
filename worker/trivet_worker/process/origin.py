"""Identity of a worker as a witness: processes that share machine, file and network settings have one origin.

Two processes that go out through the same dead proxy, with the same key, say the same thing; only a worker elsewhere, or
one that is set up otherwise, can confirm it.
"""

import hashlib
import os
import socket
from pathlib import Path

from trivet_tasks.config.environment_faults import PROXIES
from trivet_tasks.config.settings import Settings

_DIGITS = 12
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OF_NETWORK = (*PROXIES, "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


def origin_of(settings: Settings) -> str:
    """Return the origin of this process, a digest of nothing secret: of keys it takes the references, never the values."""
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
