"""Way that the calls of this process take to a host: directly, or through a proxy of the environment."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from trivet_tasks.config.environment_faults import proxy_of

DIRECTLY = "directly"


def way_out(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the way to a URL for a person: `directly`, or the proxy, without user and password, and its variable."""
    parts = urlsplit(url)
    named = proxy_of(parts.scheme, environment)
    without = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if named is None or _is_exempt(parts.hostname or "", without):
        return DIRECTLY
    variable, proxy = named
    scheme, _, rest = proxy.partition("://")
    return f"through the proxy {scheme}://{rest.rpartition('@')[2]} ({variable})"


def _is_exempt(host: str, without: str) -> bool:
    """Return whether a list of hosts and domains by comma names this host."""
    names = (name.strip().lower().lstrip(".") for name in without.split(","))
    return any(name == "*" or host == name or host.endswith(f".{name}") for name in names if name)
