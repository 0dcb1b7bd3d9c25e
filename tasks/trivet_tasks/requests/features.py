"""Features that some wires have and others do not: the one table of them, and those that a request needs.

A route that speaks a dialect (`trivet_tasks.catalog.Dialect`) without a feature of a job is not eligible for that job. The
source of a row is, unless it says otherwise, the availability table in `anthropics/skills`
(skills/claude-api/shared/platform-availability.md, 2026), Anthropic's own list for its API, Claude Platform on AWS,
Bedrock and Vertex; of versions of the API, platform.claude.com/docs/en/api/migration-2026-10-21.

All wires have, and so nothing here names: PDF and base64 images, prompt caching for 5 minutes and 1 hour,
structured outputs, strict tools, thinking and effort, citations, search result blocks, tool search, context editing
(`context_management`, a beta), bash, text editor, memory and single computer-use tools, and messages of role system
within the conversation (platform.claude.com, mid-conversation-system-messages; AWS' guide has a page of its own on them).

Two kinds of features have no row: `beta:NAME`, a beta that the request names (`CLOUDS` says who takes
it), and `field:NAME`, a field of the body that Trivet does not know (`extra_body`), which only the Anthropic API
is taken to have. A route takes more of either by its settings `betas` and `body_fields`.

Betas: the API turns them on by names such as `context-management-2025-06-27` (`betas` of a request). A provider that does
not know a name answers 400 (`invalid beta flag` on Bedrock), so a route whose provider is not in the row of a beta is not
eligible, unless its `betas` setting lists it. A beta that is not in the table goes to the Anthropic API alone. Sources
(November 2026): `anthropic` 2.12 (`types/anthropic_beta_param.py`; `lib/bedrock`: body, `lib/vertex`: header); LiteLLM
1.110.2, `anthropic_beta_headers_config.json`, columns `bedrock` (InvokeModel), `vertex_ai` and `vertex_ai_header_only`.
Where AWS's user guide is more generous than that table, as with interleaved-thinking-2025-05-14, the narrower of the two
counts: a wrong guess would fail calls, and `betas` of the route puts it right.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trivet_tasks.catalog import Dialect, Provider
from trivet_tasks.requests.request_body import BODY_FIELDS
from trivet_tasks.requests.request_messages import content_blocks

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

WIRES = frozenset(("anthropic", "platform", "bedrock", "vertex"))
"""Every kind of wire. `bedrock` stands for all three endpoints that AWS operates; `bedrock-invoke`, `bedrock-messages`
and `bedrock-mantle` for one of them; `platform` for Claude Platform on AWS (`Dialect.names`)."""


def takes_beta(provider: Provider, beta: str) -> bool:
    """Return whether the provider takes a beta."""
    return provider == "anthropic" or provider in CLOUDS.get(beta, ())


def wire_betas(betas: Iterable[str], provider: Provider) -> tuple[str, ...]:
    """The betas by the provider's names, each once. One that is not in the table keeps its own."""
    return tuple(dict.fromkeys(CLOUDS.get(beta, {}).get(provider, beta) for beta in betas))


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature that a request may need of a wire, and the signs of that need."""

    name: str
    wires: frozenset[str]
    """The wires that have it, by the names of `Dialect.names`."""
    before: str = ""
    """The first version of the API, by its date, that no longer takes it."""
    fields: tuple[str, ...] = ()
    """Top-level fields of the body, or `field.key` inside one, whose presence asks for it."""
    tools: tuple[str, ...] = ()
    """Beginnings of a tool's `type`."""
    blocks: tuple[str, ...] = ()
    """Types of content blocks."""
    sources: tuple[str, ...] = ()
    """Types of the source of an image or document."""
    above_bytes: int | None = None
    """Needed by bodies larger than this."""
    note: str = ""
    """Source or reason; `unconfirmed`: no cloud has it only because nothing says that one does."""


_FIRST_ONLY = frozenset(("anthropic",))
_FIRST = frozenset(("anthropic", "platform"))
_NOT_BEDROCK = frozenset(("anthropic", "platform", "vertex"))
_NOT_INVOKE = _NOT_BEDROCK | {"bedrock-messages", "bedrock-mantle"}
_SINCE_2026_10_21 = "2026-10-21"

TABLE: tuple[Feature, ...] = (
    Feature("sampling", WIRES, before=_SINCE_2026_10_21, fields=("temperature", "top_p", "top_k"),
            note="400 even at the default values"),
    Feature("assistant_documents", WIRES, before=_SINCE_2026_10_21,
            note="a document block that stands directly in a message of the assistant; within another block it is taken"),
    Feature("user_citations", WIRES, before=_SINCE_2026_10_21,
            note="citations that are not empty on a text block of the user's, also within a search result"),
    Feature("service_tier", _FIRST, fields=("service_tier",),
            note="the clouds name their tiers differently"),
    Feature("inference_geo", _FIRST, fields=("inference_geo",),
            note="elsewhere the endpoint or inference profile decides (platform.claude.com, data residency)"),
    Feature("fast_mode", _FIRST_ONLY, fields=("speed",), note="research preview of the Claude API"),
    Feature("files", _FIRST, sources=("file",), blocks=("container_upload",),
            note="a file id is known to one account only"),
    Feature("url_sources", _FIRST, sources=("url",),
            note="platform.claude.com, vision: base64 only on Bedrock and Google; for documents taken to be the same"),
    Feature("web_search", _NOT_BEDROCK, tools=("web_search_20250305",), blocks=("web_search_tool_result",)),
    Feature("web_search_filtered", _FIRST, tools=("web_search_",),
            note="versions after 20250305 (dynamic filtering): Vertex has the basic tool only"),
    Feature("web_fetch", _FIRST, tools=("web_fetch_",), blocks=("web_fetch_tool_result",)),
    Feature("code_execution", _FIRST, tools=("code_execution_",),
            blocks=("code_execution_tool_result", "bash_code_execution_tool_result",
                    "text_editor_code_execution_tool_result")),
    Feature("programmatic_tools", _FIRST, note="a tool whose allowed_callers name more than direct"),
    Feature("advisor", _FIRST, tools=("advisor_",), note="beta"),
    Feature("toolset_20260801", _FIRST, tools=("browser_toolset_", "computer_toolset_"),
            note="unconfirmed; computer use is in beta on all three; this form of it is newer than the list"),
    Feature("container", _FIRST, fields=("container",), note="containers and Agent Skills"),
    Feature("mcp", _FIRST, fields=("mcp_servers",), tools=("mcp_toolset",), blocks=("mcp_tool_use", "mcp_tool_result"),
            note="beta"),
    Feature("fallbacks", _FIRST, fields=("fallbacks",), note="beta"),
    Feature("diagnostics", _FIRST_ONLY, fields=("diagnostics",), note="cache diagnostics, beta"),
    Feature("task_budget", _FIRST, fields=("output_config.task_budget",),
            note="unconfirmed; beta"),
    Feature("compaction", _FIRST, fields=("compaction",),
            note="unconfirmed; beta compact-2026-09-04; compaction as an edit of context_management is on all three"),
    Feature("thread", _FIRST, fields=("thread",),
            note="unconfirmed; beta; the state stays with one account"),
    Feature("billing_policy", _FIRST, fields=("billing_policy",),
            note="unconfirmed; beta"),
    Feature("automatic_caching", _NOT_INVOKE, fields=("cache_control",),
            note="unconfirmed; Bedrock's InvokeModel answers 400 to cache_control at the top level for Opus 4.6 and earlier, "
                 "of later models nothing is said; marks on blocks work everywhere"),
    Feature("body_over_20_mb", _NOT_BEDROCK, above_bytes=20_000_000,
            note="docs.aws.amazon.com, Anthropic Claude Messages API, request and response: at most 20 MB"),
    Feature("body_over_30_mb", _FIRST, above_bytes=30_000_000,
            note="unconfirmed; Vertex is said to take 30 MB; no page at hand states it"),
)  # fmt: skip
"""Every feature. Of several tool beginnings that fit, the longest counts."""

BETA, FIELD = "beta:", "field:"
"""Prefix of the name of a feature that is a beta, or a field of the body that Trivet does not know."""

_FIELDS = BODY_FIELDS.keys() | {"anthropic_beta", "extra_headers"}
"""Fields of a body as it is stored that are judged by the table, or go to every wire."""
_BY_NAME: Mapping[str, Feature] = {feature.name: feature for feature in TABLE}
_BY_FIELD = {field: feature.name for feature in TABLE for field in feature.fields if "." not in field}
_BY_INNER = [(*field.split("."), feature.name) for feature in TABLE for field in feature.fields if "." in field]
_WITH_INNER = frozenset(field for field, _, _ in _BY_INNER)
_BY_BLOCK = {block: feature.name for feature in TABLE for block in feature.blocks}
_BY_SOURCE = {source: feature.name for feature in TABLE for source in feature.sources}
_BY_TOOL = sorted(((start, one.name) for one in TABLE for start in one.tools), key=lambda pair: -len(pair[0]))
_BY_SIZE = [(feature.above_bytes, feature.name) for feature in TABLE if feature.above_bytes is not None]
_LARGE = min(limit for limit, _ in _BY_SIZE)


def features_of(
    body: Mapping[str, object], size: int = 0, blocks: Iterable[Mapping[str, object]] | None = None
) -> tuple[str, ...]:
    """The names of the features that a checked Messages API body needs, sorted.

    Args:
        size: its length in bytes.
        blocks: its content blocks, where they are at hand.
    """
    found: set[str] = set()
    if not body.keys() <= _FIELDS:
        found.update(f"{FIELD}{name}" for name in body.keys() - _FIELDS)
    betas = body.get("anthropic_beta")
    if isinstance(betas, list | tuple):
        found.update(f"{BETA}{name}" for name in betas)
    if not _BY_FIELD.keys().isdisjoint(body):
        found.update(name for field, name in _BY_FIELD.items() if body.get(field) is not None)
    if size > _LARGE:
        found.update(name for limit, name in _BY_SIZE if size > limit)
    if not _WITH_INNER.isdisjoint(body):
        for field, key, name in _BY_INNER:
            inner = body.get(field)
            if isinstance(inner, Mapping) and inner.get(key) is not None:
                found.add(name)
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list | tuple) else ():
        if isinstance(tool, Mapping):
            found.update(_of_tool(tool))
    messages = body.get("messages")
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, dict):
            found.update(_of_turn(message))
    for block in content_blocks(body) if blocks is None else blocks:
        kind, source = block.get("type"), block.get("source")
        if isinstance(kind, str) and kind in _BY_BLOCK:
            found.add(_BY_BLOCK[kind])
        wanted = source.get("type") if isinstance(source, dict) else None
        if isinstance(wanted, str) and wanted in _BY_SOURCE:
            found.add(_BY_SOURCE[wanted])
    return tuple(sorted(found)) if found else ()


def _of_tool(tool: Mapping[str, object]) -> Iterable[str]:
    kind, callers = tool.get("type"), tool.get("allowed_callers")
    if isinstance(kind, str):
        yield from [name for start, name in _BY_TOOL if kind.startswith(start)][:1]
    if isinstance(callers, list | tuple) and any(caller != "direct" for caller in callers):
        yield "programmatic_tools"


def _of_turn(message: Mapping[str, object]) -> Iterable[str]:
    """Yield the features that depend on whose message it is."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(content, list | tuple):
        return
    if role == "assistant":
        if any(isinstance(block, dict) and block.get("type") == "document" for block in content):
            yield "assistant_documents"
    elif any(_cites(block) for block in content):
        yield "user_citations"


def _cites(block: object) -> bool:
    if not isinstance(block, dict):
        return False
    kind = block.get("type")
    if kind == "text":
        return isinstance(cited := block.get("citations"), list | tuple) and bool(cited)
    inner = block.get("content") if kind == "search_result" else None
    return isinstance(inner, list | tuple) and any(_cites(one) for one in inner)


def lacks(
    dialect: Dialect, features: Iterable[str], *, betas: Sequence[str] = (), body_fields: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return those of the features that the dialect does not have, in the order given.

    A name that is neither in the table nor a beta or field is lacking.

    Args:
        betas: more betas that the route takes.
        body_fields: fields of the body, unknown to Trivet, that the route takes.
    """
    if not features:
        return ()
    return tuple(name for name in features if not _has(dialect, name, betas, body_fields))


def _has(dialect: Dialect, name: str, betas: Sequence[str], body_fields: Sequence[str]) -> bool:
    if name.startswith(BETA):
        beta = name.removeprefix(BETA)
        return takes_beta(dialect.answers_as, beta) or beta in betas
    if name.startswith(FIELD):
        return dialect.answers_as == "anthropic" or name.removeprefix(FIELD) in body_fields
    feature = _BY_NAME.get(name)
    if feature is None or feature.wires.isdisjoint(dialect.names):
        return False
    return not feature.before or dialect.dated < feature.before


VERSIONED = frozenset(feature.name for feature in TABLE if feature.before)
"""Features that depend on the version of the API alone: another setting of a route would take them."""


def field_of(name: str, body: Mapping[str, object]) -> str:
    """Return where a checked body asks for a feature of `VERSIONED`: a field or block, `messages[1].content[0]`."""
    for field in _BY_NAME[name].fields:
        if body.get(field) is not None:
            return field
    messages = body.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list | tuple) else ()):
        for index, block in enumerate(message["content"] if name in _of_turn(message) else ()):
            if name in _of_turn({**message, "content": [block]}):
                return f"messages[{number}].content[{index}]"
    return "messages"


def refused_since(name: str) -> str:
    """The first version of the API, by its date, that refuses a feature; empty: none does."""
    return _BY_NAME[name].before


def shown_features(features: Iterable[str]) -> str:
    """Features for a person, e.g. `web_fetch, beta context-1m-2025-08-07, body field mood`."""
    return ", ".join(name.replace(BETA, "beta ", 1).replace(FIELD, "body field ", 1) for name in features)
