"""Groups of a route's settings: which may change while it runs, which decide where a prompt goes, which are a process's own.

Every field of `RouteSettings` is in exactly one group.
"""

from collections.abc import Mapping
from hashlib import blake2b

import orjson

OPERATIONAL = frozenset(
    {
        "requests_per_minute",
        "input_tokens_per_minute",
        "output_tokens_per_minute",
        "output_token_factor",
        "max_concurrency",
        "limits",
        "priority",
        "weight",
        "costs",
        "windows",
        "idle_probe_s",
    }
)
"""May change while it runs. SQL holds the version in force, and every process follows it within a second."""
PLACE = frozenset(
    {
        "provider",
        "region",
        "project",
        "base_url",
        "endpoint",
        "workspace_id",
        "api_version",
        "api_versions",
        "models",
        "residency",
        "compliance",
        "betas",
        "body_fields",
    }
)
"""Decide where a prompt goes and what may go there. A worker takes them from its own file alone, and SQL holds what the
workers that serve the route agree on."""
UNORDERED = frozenset({"residency", "compliance", "betas", "body_fields"})
"""Lists of a place whose order and repetitions have no meaning."""
OWN = frozenset({"api_key", "admin_api_key", "environment", "stream"})
"""Settings of a process's own: credentials, and the way it makes its calls. Other processes never see them."""


def digest_of(values: Mapping[str, object]) -> str:
    """Return a short digest of JSON-ready settings, the same in whatever order they were written."""
    return blake2b(orjson.dumps(values, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
