"""Dialect of a route: the provider's wire, the endpoint on it, and the version of the API.

Sources (November 2026): AWS, "Inference using Anthropic Messages API" (InvokeModel: `bedrock-2023-05-31` in the body;
Messages endpoints: header `anthropic-version: 2023-06-01`); Google, "Use Claude models" (`vertex-2023-10-16` in the
body); platform.claude.com/docs/en/api/versioning and migration-2026-10-21. The vendor's page on Bedrock models up to
Opus 4.6 warns that they answer 400 to `2026-10-21`, which the SDK sends to every wire unless it is told otherwise.
"""

import re
from typing import NamedTuple

from trivet_tasks.catalog import Endpoint, Provider

VERSION = re.compile(r"(?:[a-z][a-z0-9]*-)?(\d{4}-\d{2}-\d{2})")
"""A version of the API: a date, on the clouds with a name before it."""

_DEFAULTS: dict[tuple[Provider, Endpoint], str] = {
    ("anthropic", "invoke"): "2026-10-21",
    ("vertex", "invoke"): "vertex-2023-10-16",
    ("bedrock", "invoke"): "bedrock-2023-05-31",
    ("bedrock", "messages"): "2023-06-01",
    ("bedrock", "mantle"): "2023-06-01",
    ("bedrock", "platform"): "2026-10-21",
}


class Dialect(NamedTuple):
    """Format of a route's calls."""

    provider: Provider
    endpoint: Endpoint
    version: str

    @property
    def answers_as(self) -> Provider:
        """Operator of the API: Anthropic operates Claude Platform on AWS itself."""
        return "anthropic" if self.endpoint == "platform" else self.provider

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a table of features may list it under: its wire's, and on Bedrock the endpoint's own.

        Anthropic operates Claude Platform on AWS itself, so it is no part of `bedrock` here but a wire of its own.
        """
        if self.provider != "bedrock":
            return (self.provider,)
        return ("platform",) if self.endpoint == "platform" else ("bedrock", f"bedrock-{self.endpoint}")

    @property
    def dated(self) -> str:
        """The date of the version, for comparison; the oldest there is where the version names none."""
        found = VERSION.fullmatch(self.version)
        return found[1] if found else "0000-00-00"


def default_version(provider: Provider, endpoint: Endpoint) -> str:
    """The version that a route speaks unless its settings say otherwise."""
    return _DEFAULTS[provider, endpoint]
