"""The endpoints of AWS through the SDK's clients: what is sent, how it is signed, and how refusals are read."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest
from tests.wires import BODY, KEY, REQUEST, listened, with_caller

from trivet_simulator import SimulatorProcess
from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import Outcome, Scope
from trivet_worker.adapters import build_caller
from trivet_worker.adapters.protocol import NO_PURPOSE, Answer, Caller, CallLimits, CallPurpose, Failure

ENDPOINTS = ("messages", "mantle", "platform")
MODELS = {
    "messages": "global.anthropic.claude-opus-5-5",
    "mantle": "anthropic.claude-opus-5-5",
    "platform": "claude-opus-5-5",
}
PATHS = {"messages": "/anthropic/v1/messages", "mantle": "/anthropic/v1/messages", "platform": "/v1/messages"}
VERSIONS = {"messages": "2023-06-01", "mantle": "2023-06-01", "platform": "2026-10-21"}
SERVICES = {"messages": "bedrock", "mantle": "bedrock-mantle", "platform": "aws-external-anthropic"}
METADATA = "x-amzn-bedrock-request-metadata"
pytestmark = pytest.mark.usefixtures("no_credentials")


@pytest.fixture
def signing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")


@pytest.fixture(scope="module")
def simulators() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(*(word for name in ENDPOINTS for word in ("--extra", f"{name}={name}"))) as running:
        yield running


def settings(endpoint: str, *, key: bool = True, **more: Any) -> dict[str, Any]:
    workspace = {"workspace_id": "wrkspc_1"} if endpoint == "platform" else {}
    secret = {"api_key": "env:TRIVET_TEST_KEY"} if key else {}
    return {"provider": "bedrock", "region": "us-east-1", "endpoint": endpoint, **workspace, **secret, **more}


def sent_by(route: dict[str, Any], *calls: tuple[Any, CallPurpose]) -> list[tuple[str, dict[str, str], bytes]]:
    """Return what these calls of one caller sent; the first through the SDK, the others as it was sent."""

    async def each(caller: Caller) -> None:
        for number, (body, purpose) in enumerate(calls):
            model = MODELS.get(route.get("endpoint", ""), "a-model")
            answer = await caller.call(orjson.dumps(body), model, f"attempt-{number}", CallLimits(30), purpose)
            assert isinstance(answer, Answer), answer

    return listened(route, each).requests


def call_once(simulator: SimulatorProcess, endpoint: str, body: Any = REQUEST, **more: Any) -> Answer | Failure:
    made = RouteSettings(**settings(endpoint, base_url=simulator.endpoints.providers[endpoint], **more))
    return with_caller(
        made, lambda caller: caller.call(orjson.dumps(body), MODELS[endpoint], "attempt-1", CallLimits(30))
    )


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_call_is_one_of_the_messages_api(endpoint: str) -> None:
    body = {**REQUEST, "anthropic_beta": ["a-1", "b-2"]}
    requests = sent_by(settings(endpoint), (body, NO_PURPOSE), (body, NO_PURPOSE))
    for path, headers, sent in requests:
        assert path == PATHS[endpoint]
        assert orjson.loads(sent) == {**REQUEST, "model": MODELS[endpoint]}
        assert (headers["anthropic-version"], headers["anthropic-beta"]) == (VERSIONS[endpoint], "a-1,b-2")
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers.get("anthropic-workspace-id") == ("wrkspc_1" if endpoint == "platform" else None)
    first, later = ({k: v for k, v in headers.items() if k != "x-trivet-attempt"} for _, headers, _ in requests)
    assert later == first


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_signatures_are_for_the_endpoint_s_own_service(endpoint: str, signing: None) -> None:
    requests = sent_by(settings(endpoint, key=False), (REQUEST, NO_PURPOSE), (REQUEST, NO_PURPOSE))
    for _, headers, _ in requests:
        assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert f"/us-east-1/{SERVICES[endpoint]}/aws4_request" in headers["authorization"]
    assert requests[0][1].keys() == requests[1][1].keys()


@pytest.mark.parametrize("signed", [False, True], ids=["key", "signed"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_call_brings_the_whole_message(
    simulator: SimulatorProcess, endpoint: str, stream: bool, signed: bool, request: pytest.FixtureRequest
) -> None:
    if signed:
        request.getfixturevalue("signing")
    answer = call_once(simulator, endpoint, {**REQUEST, "max_tokens": 4096}, stream=stream, key=not signed)
    assert isinstance(answer, Answer), answer
    assert (answer.stop_reason, orjson.loads(answer.message)["model"]) == ("end_turn", "claude-opus-5-5")
    (logged,) = simulator.control.calls()
    assert (logged.attempt, logged.stream) == ("attempt-1", stream)
    assert answer.request_id == logged.request_id


@pytest.mark.parametrize(
    ("fault", "outcome", "whole_route"),
    [
        ("rate_limited", Outcome.RATE_LIMITED, False),
        ("overloaded", Outcome.OVERLOADED, False),
        ("server_error", Outcome.SERVER_ERROR, False),
        ("model_missing", Outcome.UNUSABLE, False),
        ("context_too_long", Outcome.INVALID, False),
    ],
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_refusals_in_anthropic_s_form_are_read(
    simulator: SimulatorProcess, endpoint: str, fault: str, outcome: Outcome, whole_route: bool
) -> None:
    simulator.control.fault(endpoint, fault)
    failure = call_once(simulator, endpoint)
    assert isinstance(failure, Failure)
    assert (failure.outcome, failure.scope is Scope.ROUTE) == (outcome, whole_route)


@pytest.mark.parametrize("endpoint", ["messages", "mantle"])
@pytest.mark.parametrize(
    ("status", "kind", "outcome", "whole_route"),
    [
        (429, "ThrottlingException", Outcome.RATE_LIMITED, False),
        (400, "ServiceQuotaExceededException", Outcome.RATE_LIMITED, False),
        (403, "UnrecognizedClientException", Outcome.UNUSABLE, True),
        (503, "ServiceUnavailableException", Outcome.OVERLOADED, False),
    ],
)
def test_refusals_in_aws_s_form_are_read(
    simulator: SimulatorProcess, endpoint: str, status: int, kind: str, outcome: Outcome, whole_route: bool
) -> None:
    body = orjson.dumps({"message": "words"}).decode()
    simulator.control.fault(endpoint, "raw", status=status, body=body, headers={"x-amzn-errortype": f"{kind}:http://x"})
    failure = call_once(simulator, endpoint)
    assert isinstance(failure, Failure)
    assert (failure.outcome, failure.scope is Scope.ROUTE, failure.message) == (outcome, whole_route, "words")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_version_that_the_endpoint_does_not_speak_makes_the_model_unusable_there(
    simulator: SimulatorProcess, endpoint: str
) -> None:
    failure = call_once(simulator, endpoint, api_version="2030-01-01")
    assert isinstance(failure, Failure)
    assert (failure.outcome, failure.scope) == (Outcome.UNUSABLE, Scope.MODEL)
    assert "2030-01-01" in failure.message


@pytest.mark.parametrize("signed", [False, True], ids=["key", "signed"])
def test_invoke_model_carries_job_and_batch_and_nothing_else(signed: bool, request: pytest.FixtureRequest) -> None:
    if signed:
        request.getfixturevalue("signing")
    purposes = [
        CallPurpose("m", "job-1", 7),
        CallPurpose("m", "job-2", None),
        CallPurpose("m"),
        CallPurpose("m", "job-3", 8),
    ]
    requests = sent_by(settings("invoke", key=not signed), *((REQUEST, purpose) for purpose in purposes))
    assert [headers.get(METADATA) for _, headers, _ in requests] == [
        '{"trivet_job":"job-1","trivet_batch":"7"}',
        '{"trivet_job":"job-2"}',
        None,
        '{"trivet_job":"job-3","trivet_batch":"8"}',
    ]
    assert all(METADATA not in headers.get("authorization", "") for _, headers, _ in requests)


@pytest.mark.parametrize(
    "route",
    [
        *(settings(endpoint) for endpoint in ENDPOINTS),
        settings("invoke", region="us-gov-west-1"),
        {"provider": "anthropic", "api_key": "env:TRIVET_TEST_KEY"},
        {"provider": "vertex", "region": "global", "project": "p", "api_key": "env:TRIVET_TEST_KEY"},
    ],
    ids=[*ENDPOINTS, "us-gov", "anthropic", "vertex"],
)
def test_nothing_else_carries_them(route: dict[str, Any]) -> None:
    for _, headers, sent in sent_by(
        route, (REQUEST, CallPurpose("m", "job-1", 7)), (REQUEST, CallPurpose("m", "job-2", 7))
    ):
        assert METADATA not in headers
        assert b"job-" not in sent


EVERYWHERE = (
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_BEDROCK_BASE_URL",
    "ANTHROPIC_BEDROCK_MANTLE_BASE_URL",
    "ANTHROPIC_AWS_BASE_URL",
    "ANTHROPIC_VERTEX_BASE_URL",
)
ROUTES = [
    {"provider": "anthropic", "api_key": "env:TRIVET_TEST_KEY"},
    {"provider": "vertex", "region": "us-east5", "project": "p", "api_key": "env:TRIVET_TEST_KEY"},
    settings("invoke"),
    *(settings(endpoint) for endpoint in ENDPOINTS),
]


@pytest.mark.parametrize("route", ROUTES, ids=["anthropic", "vertex", "invoke", *ENDPOINTS])
def test_the_environment_changes_neither_key_nor_headers(
    route: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = sent_by(route, (REQUEST, NO_PURPOSE))
    for name in EVERYWHERE:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv(
        "ANTHROPIC_CUSTOM_HEADERS", "x-other: y\nAuthorization: Bearer other\nanthropic-version: 2020-01-01"
    )
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_AWS_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("ANTHROPIC_AWS_WORKSPACE_ID", "wrkspc_other")
    (after,) = sent_by(route, (REQUEST, NO_PURPOSE))
    for one in (before, after):
        one[1].pop("host")
    assert after == before


@pytest.mark.parametrize(
    ("route", "address"),
    list(
        zip(
            ROUTES,
            [
                "https://api.anthropic.com",
                "https://us-east5-aiplatform.googleapis.com/v1",
                "https://bedrock-runtime.us-east-1.amazonaws.com",
                "https://bedrock-runtime.us-east-1.amazonaws.com/anthropic",
                "https://bedrock-mantle.us-east-1.api.aws/anthropic",
                "https://aws-external-anthropic.us-east-1.api.aws",
            ],
            strict=True,
        )
    ),
)
def test_the_address_comes_from_provider_region_and_endpoint(
    route: dict[str, Any], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in EVERYWHERE:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    made = RouteSettings(**route)
    assert api_address(made) == address
    sent: list[str] = []

    async def send(_client: object, request: httpx2.Request, **_: object) -> httpx2.Response:
        sent.append(str(request.url))
        raise httpx2.ConnectError("nothing is sent")

    monkeypatch.setattr(httpx2.AsyncClient, "send", send)
    asyncio.run(
        build_caller(made).call(BODY, MODELS.get(route.get("endpoint", ""), "a-model"), "attempt-1", CallLimits(30))
    )
    assert [url.startswith(f"{address}/") for url in sent] == [True], sent


@pytest.mark.parametrize(
    ("region", "address"),
    [
        ("global", "https://aiplatform.googleapis.com/v1"),
        ("us", "https://aiplatform.us.rep.googleapis.com/v1"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ],
)
def test_vertex_has_hosts_for_more_than_one_region(region: str, address: str) -> None:
    assert api_address(RouteSettings(provider="vertex", region=region)) == address


def test_a_base_url_without_a_path_gets_the_endpoint_s() -> None:
    assert api_address(RouteSettings(**settings("mantle", base_url="https://vpce-1.example/"))) == (
        "https://vpce-1.example/anthropic"
    )
    assert api_address(RouteSettings(**settings("mantle", base_url="https://proxy.example/aws"))) == (
        "https://proxy.example/aws"
    )
