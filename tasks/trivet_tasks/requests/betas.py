"""Betas of the Messages API: which provider takes which, under which name, and whether as a header or in the body.

The API turns on what is in beta by names such as `context-management-2025-06-27` (`betas` of a request). A provider that
does not know a name answers 400 (`invalid beta flag` on Bedrock), so a route whose provider is not in the row of a beta is
not eligible, unless its `betas` setting lists it. A beta that is not in the table goes to the Anthropic API alone.

Sources (November 2026): `anthropic` 2.12 (`types/anthropic_beta_param.py`; `lib/bedrock`: body, `lib/vertex`: header);
LiteLLM 1.110.2, `anthropic_beta_headers_config.json`, columns `bedrock` (InvokeModel), `vertex_ai` and
`vertex_ai_header_only`. Where AWS's user guide is more generous than that table, as with interleaved-thinking-2025-05-14,
the narrower of the two counts: a wrong guess would fail calls, and `betas` of the route puts it right.
"""

from collections.abc import Iterable, Mapping

from trivet_tasks.catalog import Provider

BATCH_ONLY = frozenset({"output-300k-2026-03-24"})
"""Betas of the Message Batches API, which online calls cannot use."""

_BOTH_CLOUDS = (
    "compact-2026-01-12",
    "compact-2026-09-04",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "dangerous-tool-use-2026-09-03",
    "effort-2025-11-24",
    "fine-grained-tool-streaming-2025-05-14",
    "mid-conversation-output-config-2026-07-01",
    "mid-conversation-tool-changes-2026-07-01",
    "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18",
    "tool-search-tool-2025-10-19",
)
_VERTEX = (
    "claude-code-20250219",
    "extended-cache-ttl-2025-04-11",
    "fallback-credit-2026-06-01",
    "fallback-credit-2026-07-01",
    "inline-tools-2026-09-15",
    "interleaved-thinking-2025-05-14",
    "mid-conversation-system-clear-at-2026-08-21",
    "model-context-window-exceeded-2025-08-26",
    "output-128k-2025-02-19",
    "pdfs-2024-09-25",
    "per-turn-control-2026-07-01",
    "prompt-caching-2024-07-31",
    "prompt-caching-scope-2026-01-05",
    "redact-thinking-2026-02-12",
    "server-side-fallback-2026-06-01",
    "structured-outputs-2025-11-13",
    "structured-outputs-2025-12-15",
    "task-budgets-2026-03-13",
    "thinking-token-count-2026-05-13",
    "token-counting-2024-11-01",
    "token-efficient-tools-2025-02-19",
    "tool-examples-2025-10-29",
    "web-search-2025-03-05",
)

CLOUDS: Mapping[str, Mapping[Provider, str]] = {
    **{name: {"vertex": name} for name in _VERTEX},
    **{name: {"bedrock": name, "vertex": name} for name in _BOTH_CLOUDS},
    # the clouds have of this bundle the tool search alone; programmatic tool calls are a feature of their own
    "advanced-tool-use-2025-11-20": dict.fromkeys(("bedrock", "vertex"), "tool-search-tool-2025-10-19"),
}
"""The clouds that take a beta, and its name there. The Anthropic API takes every name."""


def takes_beta(provider: Provider, beta: str) -> bool:
    """Return whether the provider takes a beta."""
    return provider == "anthropic" or provider in CLOUDS.get(beta, ())


def wire_betas(betas: Iterable[str], provider: Provider) -> tuple[str, ...]:
    """The betas by the provider's names, each once. One that is not in the table keeps its own."""
    return tuple(dict.fromkeys(CLOUDS.get(beta, {}).get(provider, beta) for beta in betas))
