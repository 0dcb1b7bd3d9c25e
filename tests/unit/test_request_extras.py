"""Betas, extra headers and extra fields: those that submit accepts, their routes, and their form on each wire."""

from typing import Any

import orjson
import pytest
from anthropic.types.anthropic_beta_param import AnthropicBetaParam
from tests.builders import route as candidate
from tests.wires import KEY_VARIABLE, listened

from trivet_routing.route_choice import Requirements, choose
from trivet_tasks.catalog import Dialect, Provider
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.features import CLOUDS, lacks, takes_beta
from trivet_tasks.requests.reading import parse_request
from trivet_tasks.requests.request_body import BATCH_ONLY
from trivet_worker.adapters.protocol import Caller, CallLimits

NOW = 1_764_460_800.0  # 2025-11-30
pytestmark = pytest.mark.usefixtures("no_credentials")
EDITING, NEW = "context-management-2025-06-27", "new-beta-2026-11-01"
THINKING, STRUCTURED = "interleaved-thinking-2025-05-14", "structured-outputs-2025-11-13"
ROUTES = {
    "direct": RouteSettings(provider="anthropic"),
    "bedrock-us-east-1": RouteSettings(provider="bedrock", region="us-east-1"),
    "vertex-global": RouteSettings(provider="vertex", region="global"),
}


def dialect(provider: Provider) -> Dialect:
    """Return the dialect of a route of this provider that is configured with nothing but its credentials."""
    return RouteSettings(provider=provider).dialect("claude-sonnet-5-5")


def parse(settings: Settings | None = None, **fields: Any) -> JobSpec:
    given = {"model": "claude-sonnet-5-5", "max_tokens": 100, "prompt": "Hello", **fields}
    return parse_request(given, settings=settings or Settings(), now=NOW)


def refused(settings: Settings | None = None, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(settings, **fields)
    return caught.value


def clouds(**more: Any) -> Settings:
    return Settings(routes={name: route.model_copy(update=more) for name, route in ROUTES.items() if name != "direct"})


# --- betas


@pytest.mark.parametrize(
    ("beta", "bedrock", "vertex"),
    [
        (EDITING, True, True),
        ("compact-2026-01-12", True, True),
        ("computer-use-2025-11-24", True, True),
        ("context-1m-2025-08-07", True, True),
        (THINKING, False, True),
        (STRUCTURED, False, True),
        ("web-search-2025-03-05", False, True),
        ("fast-mode-2026-02-01", False, False),
        ("files-api-2025-04-14", False, False),
        ("mcp-client-2025-11-20", False, False),
        ("skills-2025-10-02", False, False),
        (NEW, False, False),
    ],
)
def test_who_takes_a_beta(beta: str, bedrock: bool, vertex: bool) -> None:
    job = parse(betas=[beta])
    assert job.features == (f"beta:{beta}",)
    assert lacks(dialect("anthropic"), job.features) == ()
    taken = [lacks(dialect(provider), job.features) == () for provider in ("bedrock", "vertex")]
    assert taken == [bedrock, vertex]


def test_the_api_itself_takes_every_beta_of_the_sdk() -> None:
    names = AnthropicBetaParam.__args__[1].__args__  # type: ignore[attr-defined]
    assert len(names) > 50
    assert all(takes_beta("anthropic", name) for name in names)
    assert set(names) >= BATCH_ONLY
    assert not BATCH_ONLY & CLOUDS.keys()


def test_a_route_is_chosen_by_the_betas() -> None:
    requirements = Requirements("claude-sonnet-5-5", Latency.BATCH, features=parse(betas=[EDITING, NEW]).features)
    listed = [
        candidate("a", provider="anthropic"),
        candidate("b", provider="bedrock"),
        candidate("c", provider="bedrock", betas=(NEW,)),
    ]
    choice = choose(requirements, listed, Settings().of_class(Latency.BATCH))
    assert {route.name for route in choice.routes} == {"a", "c"}
    [refusal] = choice.refusals
    assert refusal.text == f"its wire has no beta {NEW}"


def test_submit_names_the_beta_the_routes_and_the_setting() -> None:
    error = refused(clouds(), betas=[EDITING, NEW])
    assert error.field == "betas"
    for part in (NEW, "bedrock-us-east-1", "vertex-global", f'betas = ["{NEW}"]'):
        assert part in str(error)
    assert EDITING not in str(error)
    assert parse(clouds(betas=(NEW,)), betas=[NEW]).features == (f"beta:{NEW}",)
    assert parse(Settings(routes=ROUTES), betas=[NEW])
    assert parse(Settings(), betas=[NEW])  # a producer without routes leaves them to others


def test_betas_that_no_single_route_takes_together_are_refused() -> None:
    both = {
        "x": ROUTES["bedrock-us-east-1"].model_copy(update={"betas": (NEW,)}),
        "y": ROUTES["vertex-global"],
    }
    assert parse(Settings(routes=both), betas=[NEW])
    assert parse(Settings(routes=both), betas=[THINKING])
    assert "betas = [" in str(refused(Settings(routes=both), betas=[NEW, THINKING]))


def test_a_beta_of_native_batches_is_refused_saying_so() -> None:
    error = refused(betas=["output-300k-2026-03-24"])
    assert error.field == "betas"
    assert "300,000 tokens exist in native batches only" in str(error)


@pytest.mark.parametrize("most", [128_001, 200_000, 300_000])
def test_a_batch_long_answer_is_refused_saying_so(most: int) -> None:
    assert "exist in native batches only" in str(refused(max_tokens=most))


def test_max_tokens_goes_up_to_what_the_model_allows() -> None:
    assert parse(max_tokens=128_000).max_tokens == 128_000
    assert parse(model="claude-haiku-4-5", max_tokens=64_000).max_tokens == 64_000
    assert "native batches" not in str(refused(max_tokens=300_001))
    own = Settings(routes={"r": RouteSettings(provider="anthropic", models={"claude-next": "x"})})
    assert parse(own, model="claude-next", max_tokens=1_000_000).max_tokens == 1_000_000
    assert "from 1 to 1,000,000" in str(refused(own, model="claude-next", max_tokens=1_000_001))


# --- extra headers and fields at submit


def test_extra_headers_and_fields_are_part_of_what_makes_requests_equal() -> None:
    plain = parse()
    with_header, same = parse(extra_headers={"X-Team": "a"}), parse(extra_headers={"x-team": "a"})
    assert with_header.fingerprint == same.fingerprint
    prints = {
        plain.fingerprint,
        with_header.fingerprint,
        parse(extra_headers={"x-team": "b"}).fingerprint,
        parse(extra_body={"mood": "a"}).fingerprint,
        parse(extra_body={"mood": "b"}).fingerprint,
    }
    assert len(prints) == 5
    cached = Settings(routes=ROUTES)
    keys = {parse(cached, **more).cache_key for more in ({}, {"extra_headers": {"x": "1"}}, {"extra_body": {"m": 1}})}
    assert len(keys) == 3 or keys == {None}
    stored = orjson.loads(with_header.body)
    assert stored["extra_headers"] == {"x-team": "a"}
    assert orjson.loads(parse(extra_body={"mood": {"a": [1]}}).body)["mood"] == {"a": [1]}


def test_nothing_given_is_nothing() -> None:
    empty: list[dict[str, Any]] = [
        {}, {"extra_headers": None}, {"extra_headers": {}}, {"extra_body": {}}, {"extra_headers": {"x-a": None}},
    ]  # fmt: skip
    assert len({parse(**more).fingerprint for more in empty}) == 1


def test_defaults_are_merged_under_the_request_s_own() -> None:
    defaults = {"extra_headers": {"x-a": "1", "x-b": "1"}, "extra_body": {"mood": 1}}
    given = {"model": "claude-sonnet-5-5", "max_tokens": 9, "prompt": "x", "extra_headers": {"x-b": "2"}}
    job = parse_request(given, settings=Settings(), defaults=defaults, now=NOW)
    body = orjson.loads(job.body)
    assert (body["extra_headers"], body["mood"]) == ({"x-a": "1", "x-b": "2"}, 1)


def test_betas_in_the_header_are_betas() -> None:
    job = parse(betas=[EDITING], extra_headers={"Anthropic-Beta": f"{THINKING}, {EDITING}"})
    assert orjson.loads(job.body)["anthropic_beta"] == [EDITING, THINKING]
    assert "extra_headers" not in orjson.loads(job.body)


def test_fields_that_trivet_knows_are_read_as_if_they_stood_beside() -> None:
    beside, inside = parse(service_tier="auto"), parse(extra_body={"service_tier": "auto"})
    assert (inside.fingerprint, inside.features) == (beside.fingerprint, ("service_tier",))
    assert refused(extra_body={"service_tier": "best"}).field == "service_tier"


def test_a_field_nobody_knows_goes_to_the_anthropic_api_or_where_a_route_says() -> None:
    job = parse(extra_body={"mood": "calm"})
    assert job.features == ("field:mood",)
    assert lacks(dialect("anthropic"), job.features) == ()
    assert lacks(dialect("bedrock"), job.features) == lacks(dialect("vertex"), job.features) == ("field:mood",)
    error = refused(clouds(), extra_body={"mood": "calm-as-a-secret"})
    assert error.field == "extra_body.mood"
    assert 'body_fields = ["mood"]' in str(error)
    assert "calm" not in str(error)
    assert parse(clouds(body_fields=("mood",)), extra_body={"mood": "calm"})


SECRET = "do-not-repeat-me"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "x-api-key", "X-API-Key", "Cookie", "Set-Cookie", "Proxy-Authorization", "proxy-connection", "Host",
        "Content-Length", "content-encoding", "Content-Type", "Transfer-Encoding", "x-amz-date", "X-Amz-Security-Token",
        "x-amzn-bedrock-guardrailidentifier", "x-goog-user-project", "x-goog-api-key", "anthropic-version", "x-trivet-attempt",
        "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade", "Expect", "x-forwarded-host", "Forwarded", "helicone-auth",
        "cf-aig-authorization", "x-portkey-api-key", "x-auth-token", "x-my-secret", "x-session-id", "x-http-method-override",
        "User-Agent", "accept-encoding", "anthropic-workspace-id", "X-Stainless-Retry-Count", "If-Match", "x-original-url",
        "private-token", "x-password",
    ],
)  # fmt: skip
def test_headers_that_carry_credentials_or_lead_elsewhere_are_refused(name: str) -> None:
    error = refused(extra_headers={name: SECRET})
    assert error.field == f"extra_headers.{name.lower()}"
    assert "may not be given" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    "headers",
    [
        {"x a": "1"}, {"": "1"}, {"x:y": "1"}, {"x\r\ny": "1"}, {"é": "1"}, {1: "1"}, {"x" * 101: "1"},
        {"x-a": "1\r\nhost: evil"}, {"x-a": "a\x00b"}, {"x-a": "a\tb"}, {"x-a": " a"}, {"x-a": ""}, {"x-a": "é"}, {"x-a": 5},
        {"x-a": "1", "X-A": "2"}, {f"x-{n}": "1" for n in range(33)}, {"x-a": "v" * 8_190}, "x-a: 1", ["x-a"],
        {"x-a": f"Bearer {SECRET}"}, {"x-a": f"sk-ant-{SECRET}"}, {"x-a": "basic dXNlcjpwYXNz"},
    ],
)  # fmt: skip
def test_headers_that_are_none_are_refused(headers: Any) -> None:
    error = refused(extra_headers=headers)
    assert error.field.startswith("extra_headers")
    assert SECRET not in str(error)
    assert "evil" not in str(error)


@pytest.mark.parametrize(
    "name", ["model", "stream", "anthropic_version", "anthropic_beta", "betas", "messages", "max_tokens", "deadline", "tags",
             "extra_headers", "extra_body", "prompt", "workspace_id"],
)  # fmt: skip
def test_fields_that_trivet_or_the_request_sets_are_refused(name: str) -> None:
    assert refused(extra_body={name: SECRET}).field == f"extra_body.{name}"


@pytest.mark.parametrize(
    "fields",
    [{"a b": 1}, {"": 1}, {5: 1}, {"x" * 61: 1}, {f"f{n}": 1 for n in range(51)}, "x", ["x"], {"a": float("nan")}],
)
def test_fields_that_are_none_are_refused(fields: Any) -> None:
    refused(extra_body=fields)


def test_a_field_is_given_once() -> None:
    assert refused(system="x", extra_body={"system": "y"}).field == "extra_body.system"


# --- on the wires


def sent(wire: str, *jobs: JobSpec) -> list[tuple[dict[str, str], Any]]:
    """Return what goes over a wire for these jobs, one after the other through one caller."""

    async def each(caller: Caller) -> None:
        for number, job in enumerate(jobs):
            await caller.call(job.body, "claude-x", f"attempt-{number}", CallLimits(30))

    settings = {"provider": wire, "region": "us-east-1", "project": "p", "api_key": f"env:{KEY_VARIABLE}"}
    return [(headers, orjson.loads(body)) for _, headers, body in listened(settings, each).requests]


@pytest.mark.parametrize("wire", ["anthropic", "bedrock", "vertex"])
def test_each_request_s_headers_and_fields_go_out_with_it_alone(wire: str) -> None:
    jobs = [
        parse(extra_headers={"x-team": "a", "x-once": "1"}),
        parse(),
        parse(extra_headers={"x-team": "b"}, extra_body={"mood": "calm"}),
        parse(extra_headers={"x-team": "c"}, betas=[EDITING]),
        parse(extra_body={"mood": "wild"}),
        parse(max_tokens=128_000),
    ]
    got = sent(wire, *jobs)
    assert [headers.get("x-team") for headers, _ in got] == ["a", None, "b", "c", None, None]
    assert [headers.get("x-once") for headers, _ in got] == ["1", None, None, None, None, None]
    assert [body.get("mood") for _, body in got] == [None, None, "calm", None, "wild", None]
    assert [body["max_tokens"] for _, body in got] == [100, 100, 100, 100, 100, 128_000]
    assert [headers["x-trivet-attempt"] for headers, _ in got] == [f"attempt-{n}" for n in range(6)]
    assert not any("extra_headers" in body for _, body in got)


@pytest.mark.parametrize("wire", ["anthropic", "bedrock", "vertex"])
def test_betas_go_as_each_wire_takes_them(wire: str) -> None:
    jobs = [parse(), parse(betas=[EDITING, "advanced-tool-use-2025-11-20"]), parse(betas=[EDITING]), parse()]
    got = sent(wire, *jobs)
    tools = "advanced-tool-use-2025-11-20" if wire == "anthropic" else "tool-search-tool-2025-10-19"
    named: list[Any] = [None, [EDITING, tools], [EDITING], None]
    if wire == "bedrock":
        assert [body.get("anthropic_beta") for _, body in got] == named
        assert not any("anthropic-beta" in headers for headers, _ in got)
    else:
        assert [headers.get("anthropic-beta") for headers, _ in got] == [one and ",".join(one) for one in named]
        assert not any("anthropic_beta" in body for _, body in got)
