"""Identity of a worker as a witness: processes that share machine, environment and network settings have one origin.

Two processes that go out through the same dead proxy, with the same key, say the same thing; only a worker elsewhere, or
one that is set up otherwise, can confirm it.
"""

import hashlib
import os
import socket

from trivet_tasks.environment_faults import PROXIES
from trivet_tasks.supervised import READY_FILE_VARIABLE

_DIGITS = 12
_OF_NETWORK = (*PROXIES, "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


def origin_of(source: str) -> str:
    """Return the origin of this process, a digest of nothing secret.

    Args:
        source: the configuration file, which says where keys are.
    """
    # the lanes of one `trivet worker`, and all workers of one `trivet up`, got their environment from one parent
    started_by = os.getppid() if READY_FILE_VARIABLE in os.environ else os.getpid()
    network = [f"{name}={os.environ.get(name, '').rpartition('@')[2]}" for name in _OF_NETWORK]
    parts = [socket.gethostname(), str(started_by), source, *network]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]
