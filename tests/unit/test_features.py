"""The table of features that some wires have, and those that a request needs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet_tasks.catalog import PROVIDERS, Dialect, Endpoint, Provider, default_version
from trivet_tasks.config.settings import Settings
from trivet_tasks.requests.features import TABLE, WIRES, features_of, lacks
from trivet_tasks.requests.reading import parse_request


def body(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    content: Any = list(blocks) or "Hello"
    return {"max_tokens": 10, "messages": [{"role": "user", "content": content}], **fields}


def default_dialect(provider: Provider) -> Dialect:
    """Return the dialect of a route of this provider that is configured with nothing but its credentials."""
    return Dialect(provider, "invoke", default_version(provider, "invoke"))


def wires_with(features: Sequence[str]) -> set[str]:
    """The providers that have all of these features as routes speak by default."""
    return {provider for provider in PROVIDERS if not lacks(default_dialect(provider), features)}


def image(kind: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": kind}}


def test_plain_work_runs_everywhere() -> None:
    cached = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    plain = body(
        cached,
        image("base64"),
        tools=[
            {"name": "own", "input_schema": {}},
            {"type": "bash_20250124", "name": "bash"},
            {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"},
        ],
        thinking={"type": "adaptive"},
        output_config={"effort": "low", "format": {"type": "json_schema"}},
        context_management={"edits": []},
    )
    assert features_of(plain, 10_000) == ()
    assert wires_with(()) == set(PROVIDERS)


@pytest.mark.parametrize(
    ("asked", "feature", "wires"),
    [
        (body(service_tier="auto"), "service_tier", {"anthropic"}),
        (body(inference_geo="us"), "inference_geo", {"anthropic"}),
        (body(speed="fast"), "fast_mode", {"anthropic"}),
        (body(image("file")), "files", {"anthropic"}),
        (body({"type": "container_upload", "file_id": "f"}), "files", {"anthropic"}),
        (body(image("url")), "url_sources", {"anthropic"}),
        (body({"type": "document", "source": {"type": "url"}}), "url_sources", {"anthropic"}),
        (body(tools=[{"type": "web_search_20250305"}]), "web_search", {"anthropic", "vertex"}),
        (body(tools=[{"type": "web_search_20260318"}]), "web_search_filtered", {"anthropic"}),
        (body(tools=[{"type": "web_fetch_20250910"}]), "web_fetch", {"anthropic"}),
        (body(tools=[{"type": "code_execution_20260521"}]), "code_execution", {"anthropic"}),
        (body(tools=[{"name": "t", "allowed_callers": ["direct", "x"]}]), "programmatic_tools", {"anthropic"}),
        (body(container="c"), "container", {"anthropic"}),
        (body(mcp_servers=[{}]), "mcp", {"anthropic"}),
        (body(tools=[{"type": "mcp_toolset"}]), "mcp", {"anthropic"}),
        (body(fallbacks="default"), "fallbacks", {"anthropic"}),
        (body(output_config={"task_budget": {}}), "task_budget", {"anthropic"}),
        (body(cache_control={"type": "ephemeral"}), "automatic_caching", {"anthropic", "vertex"}),
    ],
)
def test_each_feature_is_found(asked: dict[str, Any], feature: str, wires: set[str]) -> None:
    assert features_of(asked) == (feature,)
    assert wires_with([feature]) == wires


ASSISTANT_DOCUMENT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": [{"type": "document", "source": {"type": "text", "data": "x"}}]},
    {"role": "user", "content": "b"},
]
CITED = {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}
OLD, NEW = "2023-06-01", "2026-10-21"


@pytest.mark.parametrize(
    ("asked", "feature"),
    [
        (body(temperature=1.0), "sampling"),
        (body(top_p=0.9), "sampling"),
        (body(top_k=5), "sampling"),
        ({"messages": ASSISTANT_DOCUMENT}, "assistant_documents"),
        (body(CITED), "user_citations"),
        (body({"type": "search_result", "content": [CITED]}), "user_citations"),
    ],
)
def test_what_a_version_of_the_api_refuses_goes_only_where_an_older_one_is_spoken(
    asked: dict[str, Any], feature: str
) -> None:
    assert features_of(asked) == (feature,)
    for provider in PROVIDERS:
        for version, taken in ((OLD, True), (NEW, False), (f"{provider}-{OLD}", True), (f"{provider}-{NEW}", False)):
            assert (lacks(Dialect(provider, "invoke", version), [feature]) == ()) is taken, (provider, version)
    assert wires_with([feature]) == {"bedrock", "vertex"}  # as their vendors document them


@pytest.mark.parametrize(
    "taken",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [CITED]}]},
        body({"type": "text", "text": "x", "citations": []}),
        body({"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}),
        body({"type": "search_result", "content": [{"type": "text", "text": "x"}], "citations": {"enabled": True}}),
        {"messages": [{"role": "assistant", "content": [
            {"type": "web_fetch_tool_result", "content": {"type": "web_fetch_result", "content": {"type": "document"}}},
        ]}]},
    ],
)  # fmt: skip
def test_what_every_version_takes_is_not_mistaken_for_it(taken: dict[str, Any]) -> None:
    assert not {"sampling", "assistant_documents", "user_citations"} & set(features_of(taken))


@pytest.mark.parametrize(
    ("feature", "endpoints"),
    [
        ("automatic_caching", {"messages", "mantle", "platform"}),
        ("web_search", {"platform"}),
        ("inference_geo", {"platform"}),
        ("fast_mode", set()),
        ("diagnostics", set()),
        ("body_over_20_mb", {"platform"}),
    ],
)
def test_the_endpoints_of_bedrock_differ(feature: str, endpoints: set[Endpoint]) -> None:
    every: tuple[Endpoint, ...] = ("invoke", "messages", "mantle", "platform")
    dialects = (Dialect("bedrock", one, default_version("bedrock", one)) for one in every)
    assert {dialect.endpoint for dialect in dialects if not lacks(dialect, [feature])} == endpoints


def test_blocks_inside_others_are_found() -> None:
    result = {"type": "tool_result", "content": [image("url")]}
    document = {"type": "document", "source": {"type": "content", "content": [image("file")]}}
    assert features_of(body(result, document)) == ("files", "url_sources")


def test_system_messages_within_the_conversation_go_to_every_wire() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    assert features_of({"messages": turns}) == ()


def test_direct_callers_are_no_feature() -> None:
    assert features_of(body(tools=[{"name": "t", "allowed_callers": ["direct"]}])) == ()


@pytest.mark.parametrize(
    ("size", "wires"),
    [(20_000_000, set(PROVIDERS)), (20_000_001, {"anthropic", "vertex"}), (30_000_001, {"anthropic"})],
)
def test_large_bodies(size: int, wires: set[str]) -> None:
    assert wires_with(features_of(body(), size)) == wires


def test_lacks_says_which() -> None:
    wanted = ("url_sources", "web_search", "automatic_caching")
    assert lacks(default_dialect("anthropic"), wanted) == ()
    assert lacks(default_dialect("vertex"), wanted) == ("url_sources",)
    assert lacks(default_dialect("bedrock"), wanted) == wanted
    assert wires_with(wanted) == {"anthropic"}


def test_a_feature_of_a_newer_trivet_is_on_no_wire() -> None:
    assert lacks(default_dialect("anthropic"), ["telepathy"]) == ("telepathy",)
    assert wires_with(["telepathy"]) == frozenset()


def test_the_table_is_sound() -> None:
    assert len({feature.name for feature in TABLE}) == len(TABLE)
    for feature in TABLE:
        exact = {f"bedrock-{endpoint}" for endpoint in ("invoke", "messages", "mantle")}
        assert frozenset() < feature.wires <= WIRES | exact, feature.name
        assert feature.wires != WIRES or feature.before, feature.name


def test_a_job_carries_its_features() -> None:
    job = parse_request({"model": "claude-sonnet-5-5", **body(image("url") | {"source": {"type": "url", "url": "u"}})},
                        settings=Settings(), now=0)  # fmt: skip
    assert job.features == ("url_sources",)


@given(st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["messages", "tools", "content", "source", "type", "system", "role", "output_config"]), inner,
    ),
    max_leaves=15,
).filter(lambda tree: isinstance(tree, dict)))  # fmt: skip
def test_no_body_breaks_it(tree: dict[str, Any]) -> None:
    unknown = {f"field:{name}" for name in ("content", "source", "type", "role")}
    assert set(features_of(tree)) <= {feature.name for feature in TABLE} | unknown
