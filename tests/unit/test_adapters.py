"""The three wires' callers, through the real SDK, against the simulator."""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.wires import BODY, KEY, MODELS, REQUEST, WIRES, listened, settings_of, with_caller

from trivet_simulator import SimulatorProcess
from trivet_simulator.poison import SPOILED_USAGE
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import Outcome, Scope, Usage, UsagePart
from trivet_worker.adapters import credentials as wire_credentials
from trivet_worker.adapters.answers import Broken, Whole, read_message
from trivet_worker.adapters.assembly import Assembly, BrokenStream
from trivet_worker.adapters.bedrock import SigV4
from trivet_worker.adapters.credentials import SingleFlight, process_credentials, process_token
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, Failure

O = Outcome  # noqa: E741  one letter, because the table below is read as a table
# fault of the simulator: what is to come of it on each wire, and of an `unusable` whether it is the whole route
FAULTS: dict[str, dict[str, Outcome | tuple[Outcome, bool]]] = {
    "rate_limited": dict.fromkeys(WIRES, O.RATE_LIMITED),
    "too_many_tokens": {"bedrock": O.RATE_LIMITED},
    "quota_exceeded": {"bedrock": O.RATE_LIMITED},
    "resource_exhausted": {"vertex": O.RATE_LIMITED},
    "resource_exhausted_in_500": {"vertex": O.RATE_LIMITED},
    "ramp_limited": {"anthropic": O.RATE_LIMITED},
    "spend_limit": {"anthropic": (O.UNUSABLE, True)},
    "workspace_spend_limit": {"anthropic": (O.UNUSABLE, True)},
    "billing": dict.fromkeys(WIRES, (O.UNUSABLE, True)),
    "payment_required": {"anthropic": (O.UNUSABLE, True)},
    "server_error": dict.fromkeys(WIRES, O.SERVER_ERROR),
    "bad_gateway": dict.fromkeys(WIRES, O.SERVER_ERROR),
    "gateway_timeout": dict.fromkeys(WIRES, O.SERVER_ERROR),
    "overloaded": dict.fromkeys(WIRES, O.OVERLOADED),
    "unavailable": dict.fromkeys(WIRES, O.OVERLOADED),
    "model_not_ready": {"bedrock": O.OVERLOADED},
    "model_error": {"bedrock": O.SERVER_ERROR},
    "model_timeout": {"bedrock": O.TIMEOUT},
    "auth": dict.fromkeys(WIRES, (O.UNUSABLE, True)),
    "permission": {
        "anthropic": (O.UNUSABLE, True),
        "bedrock": (O.UNUSABLE, False),  # AWS says this of one model
        "vertex": (O.UNUSABLE, True),
    },
    "model_missing": dict.fromkeys(WIRES, (O.UNUSABLE, False)),
    "model_retired": dict.fromkeys(WIRES, (O.UNUSABLE, False)),
    "context_too_long": dict.fromkeys(WIRES, O.INVALID),
    "content_policy": dict.fromkeys(WIRES, O.INVALID),
    "request_too_large": dict.fromkeys(WIRES, O.INVALID),
    "unprocessable": dict.fromkeys(WIRES, O.INVALID),
    "unknown_400": dict.fromkeys(WIRES, O.AMBIGUOUS),
    "reset": dict.fromkeys(WIRES, O.CONNECTION),
    "cut": dict.fromkeys(WIRES, O.INCOMPLETE),
    "garbled": dict.fromkeys(WIRES, O.INCOMPLETE),
    "empty": dict.fromkeys(WIRES, O.INCOMPLETE),
    "no_stop_reason": dict.fromkeys(WIRES, O.INCOMPLETE),
    "model_denied": dict.fromkeys(WIRES, (O.UNUSABLE, False)),
    "data_sharing_off": {"vertex": (O.UNUSABLE, False)},
    "publisher_model_not_allowed": {"vertex": (O.UNUSABLE, False)},
    "data_retention_mode": {"bedrock": (O.UNUSABLE, False)},
    "unsupported_country": {"bedrock": (O.UNUSABLE, False)},
    "on_demand_unsupported": {"bedrock": (O.UNUSABLE, False)},
    "use_case_form_missing": {"bedrock": (O.UNUSABLE, True)},
    "invalid_beta": dict.fromkeys(WIRES, (O.UNUSABLE, False)),
    **{
        name: dict.fromkeys(WIRES, O.INVALID)
        for name in (
            "pdf_too_many_pages",
            "pdf_password",
            "pdf_invalid",
            "image_media_type",
            "schema_unsupported",
            "tool_name_pattern",
            "too_many_cache_marks",
            "cache_ttl_order",
            "thinking_with_forced_tool",
            "tool_ids_not_unique",
            "max_tokens_too_large",
        )
    },
    **{
        name: dict.fromkeys(WIRES, O.PROXY_ERROR)
        for name in (
            "proxy_page_401",
            "proxy_page_403",
            "firewall_page_403",
            "proxy_page_404",
            "proxy_page_407",
            "proxy_page_413",
            "proxy_page_502",
        )
    },
    "proxy_page_500": dict.fromkeys(WIRES, O.SERVER_ERROR),
    "proxy_page_503": dict.fromkeys(WIRES, O.OVERLOADED),
    "proxy_page_504": dict.fromkeys(WIRES, O.SERVER_ERROR),
    "gzip_bomb": dict.fromkeys(WIRES, O.INCOMPLETE),
    "huge_error": dict.fromkeys(WIRES, O.SERVER_ERROR),
}
STREAM_FAULTS: dict[str, Outcome] = {
    "stream_error": O.SERVER_ERROR,
    "stream_without_end": O.INCOMPLETE,
    "cut": O.INCOMPLETE,
    "garbled": O.INCOMPLETE,
    "empty": O.INCOMPLETE,
    "no_stop_reason": O.INCOMPLETE,
    "reset": O.CONNECTION,
    "rate_limited": O.RATE_LIMITED,
    "overloaded": O.OVERLOADED,
}
SILENT = ("hang", "held", "slow_first_byte", "slow_drip", "stalled_stream")


def route(simulator: SimulatorProcess, wire: str, **more: Any) -> RouteSettings:
    return settings_of(wire, simulator.endpoints.providers[wire], **more)


def call_once(
    settings: RouteSettings, body: bytes = BODY, *, model: str = "", timeout_s: float = 30
) -> Answer | Failure:
    named = model or MODELS[settings.provider]
    answer: Answer | Failure = with_caller(
        settings, lambda caller: caller.call(body, named, "attempt-1", CallLimits(timeout_s))
    )
    return answer


def failed(answer: Answer | Failure) -> Failure:
    assert isinstance(answer, Failure), answer
    return answer


def answered(answer: Answer | Failure) -> Answer:
    assert isinstance(answer, Answer), answer
    return answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_call_brings_the_whole_message(simulator: SimulatorProcess, wire: str, stream: bool) -> None:
    answer = answered(call_once(route(simulator, wire, stream=stream)))
    message = orjson.loads(answer.message)
    assert message["type"] == "message"
    assert message["content"][0]["text"]
    assert answer.stop_reason == message["stop_reason"]
    [call] = simulator.control.calls()
    assert (call.attempt, call.model, call.stream) == ("attempt-1", MODELS[wire], stream)
    assert call.usage is not None
    assert answer.usage is not None
    assert answer.usage.output_tokens == call.usage["output_tokens"] > 0
    assert answer.usage.input_tokens == call.usage["input_tokens"] > 0
    assert answer.request_id == call.request_id


@pytest.mark.parametrize("wire", WIRES)
def test_streamed_and_whole_answers_are_the_same_message(simulator: SimulatorProcess, wire: str) -> None:
    whole, streamed = (
        orjson.loads(answered(call_once(route(simulator, wire, stream=stream))).message) for stream in (False, True)
    )
    assert streamed.keys() == whole.keys()
    assert streamed["usage"].keys() == whole["usage"].keys()
    if wire == "bedrock":  # its body is the same for both, so the simulator says the same
        del whole["id"], streamed["id"]
        assert streamed == whole


@pytest.mark.parametrize("kind", ["refusal", "pause_turn", "max_tokens", "context_window_exceeded"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_stop_reason_that_is_no_end_is_still_an_answer(simulator: SimulatorProcess, wire: str, kind: str) -> None:
    simulator.control.fault(wire, kind)
    expected = "model_context_window_exceeded" if kind == "context_window_exceeded" else kind
    assert answered(call_once(route(simulator, wire))).stop_reason == expected


@pytest.mark.parametrize(("kind", "wire"), [(kind, wire) for kind, on in FAULTS.items() for wire in on])
def test_every_fault_is_sorted(simulator: SimulatorProcess, kind: str, wire: str) -> None:
    simulator.control.fault(wire, kind)
    failure = failed(call_once(route(simulator, wire)))
    expected = FAULTS[kind][wire]
    outcome, whole_route = expected if isinstance(expected, tuple) else (expected, False)
    assert (failure.outcome, failure.scope is Scope.ROUTE) == (outcome, whole_route)
    assert failure.message
    assert KEY not in failure.message
    [call] = simulator.control.calls()  # one attempt is one call: nothing retries underneath
    assert failure.status == call.status


@pytest.mark.parametrize(
    ("kind", "wire", "stream"),
    [
        *((kind, wire, False) for kind, on in FAULTS.items() for wire in on),
        *((kind, wire, True) for kind in STREAM_FAULTS for wire in WIRES),
    ],
)
def test_a_call_sent_as_the_sdk_sent_the_one_before_fails_in_the_same_words(
    simulator: SimulatorProcess, kind: str, wire: str, stream: bool
) -> None:
    async def work(caller: Caller) -> tuple[Answer | Failure, Answer | Failure]:
        simulator.control.fault(wire, kind)
        by_the_sdk = await caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(30))
        simulator.control.clear()
        answered(await caller.call(BODY, MODELS[wire], "attempt-2", CallLimits(30)))
        simulator.control.fault(wire, kind)
        return by_the_sdk, await caller.call(BODY, MODELS[wire], "attempt-3", CallLimits(30))

    first, later = map(failed, with_caller(route(simulator, wire, stream=stream), work))
    assert (later.outcome, later.scope, later.status) == (first.outcome, first.scope, first.status)
    assert (later.retry_after_s, later.usage is None) == (first.retry_after_s, first.usage is None)
    if first.status and first.status >= 400:  # others name the exception, which the SDK wraps
        assert later.message == first.message


@pytest.mark.parametrize("kind", STREAM_FAULTS)
@pytest.mark.parametrize("wire", WIRES)
def test_every_fault_of_a_stream_is_sorted(simulator: SimulatorProcess, kind: str, wire: str) -> None:
    simulator.control.fault(wire, kind)
    failure = failed(call_once(route(simulator, wire, stream=True)))
    assert failure.outcome is STREAM_FAULTS[kind]
    assert simulator.control.counts()["started"] == 1


def test_every_fault_of_the_simulator_is_tested(simulator: SimulatorProcess) -> None:
    answers = {"raw", "refusal", "pause_turn", "max_tokens", "context_window_exceeded", "latency", *SPOILED_USAGE}
    assert set(simulator.control.catalogue()) == {*FAULTS, *STREAM_FAULTS, *SILENT, *answers}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", SILENT)
@pytest.mark.parametrize("wire", WIRES)
def test_the_guard_ends_an_attempt_that_is_silent_or_slow(
    simulator: SimulatorProcess, wire: str, kind: str, stream: bool
) -> None:
    simulator.control.fault(wire, kind, seconds=60)
    failure = failed(call_once(route(simulator, wire, stream=stream), timeout_s=0.4))
    assert failure.outcome is Outcome.TIMEOUT
    simulator.control.wait_for_calls(1, of="finished")
    [call] = simulator.control.calls()
    assert call.client_gone  # the connection was closed, not left behind


@pytest.mark.parametrize("wire", WIRES)
def test_what_a_stalled_stream_said_it_used_so_far_is_no_bill(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "stalled_stream")
    failure = failed(call_once(route(simulator, wire, stream=True), timeout_s=0.5))
    assert (failure.outcome, failure.usage) == (Outcome.TIMEOUT, None)


def test_a_message_without_stop_reason_tells_what_it_used(simulator: SimulatorProcess) -> None:
    simulator.control.fault("anthropic", "no_stop_reason")
    failure = failed(call_once(route(simulator, "anthropic")))
    assert failure.usage is not None
    assert failure.usage.output_tokens > 0
    assert failure.request_id


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "body",
    [f"<html>teapot, {KEY} is no key</html>", json.dumps({"message": f"teapot, {KEY} is no key\n\nsigned: token"})],
    ids=["a page", "an error"],
)
def test_an_unknown_error_is_logged_without_its_words_and_the_key(
    simulator: SimulatorProcess, caplog: pytest.LogCaptureFixture, wire: str, body: str
) -> None:
    simulator.control.fault(wire, "raw", status=599, body=body)
    with caplog.at_level(logging.WARNING, "trivet.errors"):
        failure = failed(call_once(route(simulator, wire)))
    assert failure.outcome is O.SERVER_ERROR
    assert "HTTP 599" in caplog.text
    assert "teapot" not in caplog.text, "a provider's words may quote a prompt"
    for secret in (KEY, "signed"):
        assert secret not in caplog.text + failure.message


@pytest.mark.parametrize("wire", WIRES)
def test_a_cancelled_call_is_dropped_and_the_caller_lives_on(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "hang", times=1)

    async def work(caller: Caller) -> Answer | Failure:
        task = asyncio.ensure_future(caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(60)))
        await asyncio.to_thread(simulator.control.wait_for_calls, 1, of="started")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await caller.call(BODY, MODELS[wire], "attempt-2", CallLimits(30))

    answered(with_caller(route(simulator, wire), work))
    simulator.control.wait_for_calls(2, of="finished")
    gone = {call.attempt: call.client_gone for call in simulator.control.calls()}
    assert gone == {"attempt-1": True, "attempt-2": False}


def test_a_closed_port_is_a_connection_failure(simulator: SimulatorProcess) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        failure = failed(call_once(route(simulator, "anthropic", base_url=url)))
    assert failure.outcome is Outcome.CONNECTION
    assert "Connect call failed" in failure.message


def test_a_host_without_an_address_is_a_connection_failure(simulator: SimulatorProcess) -> None:
    failure = failed(call_once(route(simulator, "vertex", base_url="http://nowhere.invalid/v1")))
    assert failure.outcome is Outcome.CONNECTION
    assert "nowhere.invalid" in failure.message


def test_a_server_without_tls_is_a_connection_failure(simulator: SimulatorProcess) -> None:
    url = simulator.endpoints.anthropic.replace("http://", "https://")
    failure = failed(call_once(route(simulator, "anthropic", base_url=url)))
    assert failure.outcome is Outcome.CONNECTION
    assert failure.message.startswith("TLS failed")


def test_an_address_that_is_none_makes_the_route_unusable(simulator: SimulatorProcess) -> None:
    failure = failed(call_once(route(simulator, "anthropic", base_url="ftp://127.0.0.1")))
    assert (failure.outcome, failure.scope) == (Outcome.UNUSABLE, Scope.ROUTE)
    assert "base_url" in failure.message


@pytest.mark.parametrize(("form", "least", "most"), [("seconds", 7, 7), ("float", 7, 7), ("ms", 7, 7), ("date", 5, 8)])
@pytest.mark.parametrize("wire", WIRES)
def test_retry_after_comes_through_in_every_form(
    simulator: SimulatorProcess, wire: str, form: str, least: float, most: float
) -> None:
    simulator.control.fault(wire, "rate_limited", retry_after_s=7, retry_after_as=form)
    failure = failed(call_once(route(simulator, wire)))
    assert failure.retry_after_s is not None
    assert least <= failure.retry_after_s <= most


def test_google_s_retry_info_is_a_retry_after(simulator: SimulatorProcess) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
    error = {"code": 429, "message": "full", "status": "RESOURCE_EXHAUSTED", "details": [info]}
    simulator.control.fault("vertex", "raw", status=429, body=json.dumps([{"error": error}]))
    assert failed(call_once(route(simulator, "vertex"))).retry_after_s == 34.5


def test_anthropic_s_limit_headers_come_with_the_answer(simulator: SimulatorProcess) -> None:
    simulator.control.limits("anthropic", requests_per_minute=60, input_tokens_per_minute=1000)
    limits = answered(call_once(route(simulator, "anthropic"))).limits
    assert limits is not None
    assert limits.requests is not None
    assert (limits.requests.limit, limits.requests.remaining) == (60, 59)
    assert limits.input_tokens is not None
    assert limits.output_tokens is None


@pytest.mark.parametrize("wire", WIRES)
def test_keys_the_sdk_does_not_name_are_sent_as_they_are(simulator: SimulatorProcess, wire: str) -> None:
    settings = route(simulator, wire, api_version="2023-06-01" if wire == "anthropic" else "")
    answered(call_once(settings, orjson.dumps({**REQUEST, "temperature": 0.5})))


def test_an_inference_profile_s_arn_reaches_bedrock_whole(simulator: SimulatorProcess) -> None:
    arn = "arn:aws:bedrock:us-east-1:000000000000:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0"
    answered(call_once(route(simulator, "bedrock"), model=arn))
    assert [call.model for call in simulator.control.calls()] == [arn]


def test_a_vertex_address_without_api_version_gets_it(simulator: SimulatorProcess) -> None:
    bare = simulator.endpoints.vertex.removesuffix("/v1")
    answered(call_once(route(simulator, "vertex", base_url=bare)))


def test_a_prompt_does_not_follow_a_redirect(simulator: SimulatorProcess) -> None:
    elsewhere = f"{simulator.endpoints.anthropic}/v1/messages"
    simulator.control.fault("anthropic", "raw", status=307, headers={"location": elsewhere}, times=1)
    assert failed(call_once(route(simulator, "anthropic"))).outcome is Outcome.PROXY_ERROR
    assert [call.provider for call in simulator.control.calls()] == ["anthropic"]


def test_many_calls_at_once_share_one_caller(simulator: SimulatorProcess) -> None:
    simulator.control.latency("anthropic", median_s=0.2)

    async def work(caller: Caller) -> list[Answer | Failure]:
        calls = (caller.call(BODY, MODELS["anthropic"], f"attempt-{n}", CallLimits(30)) for n in range(150))
        return await asyncio.gather(*calls)

    for answer in with_caller(route(simulator, "anthropic", max_concurrency=150), work):
        answered(answer)
    calls = simulator.control.calls()
    assert {call.attempt for call in calls} == {f"attempt-{n}" for n in range(150)}
    first_end = min(call.finished for call in calls if call.finished is not None)
    assert sum(call.started <= first_end for call in calls) > 100  # aiohttp's own default would hold it at 100


@pytest.mark.parametrize("wire", WIRES)
def test_without_any_key_the_route_is_unusable_and_says_what_to_do(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wire: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    failure = failed(call_once(route(simulator, wire, api_key=None)))
    assert (failure.outcome, failure.scope) == (Outcome.UNUSABLE, Scope.ROUTE)
    assert failure.message.startswith(("no key", "no AWS credentials", "no Google credentials"))
    assert simulator.control.counts()["started"] == 0


@pytest.mark.parametrize("wire", WIRES)
def test_a_key_reference_to_nothing_makes_the_route_unusable(simulator: SimulatorProcess, wire: str) -> None:
    failure = failed(call_once(route(simulator, wire, api_key="env:NOT_SET_ANYWHERE")))
    assert (failure.outcome, failure.scope) == (Outcome.UNUSABLE, Scope.ROUTE)
    assert "NOT_SET_ANYWHERE" in failure.message


def test_a_vertex_route_without_project_says_so(simulator: SimulatorProcess) -> None:
    failure = failed(call_once(route(simulator, "vertex", project=None)))
    assert (failure.outcome, failure.scope) == (Outcome.UNUSABLE, Scope.ROUTE)
    assert "project" in failure.message


def test_a_bedrock_route_without_region_says_so(simulator: SimulatorProcess) -> None:
    failure = failed(call_once(route(simulator, "bedrock", region=None)))
    assert (failure.outcome, failure.scope) == (Outcome.UNUSABLE, Scope.ROUTE)
    assert "region" in failure.message


@pytest.mark.parametrize("wire", WIRES)
def test_a_key_file_is_read_again_when_it_changes(simulator: SimulatorProcess, wire: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key\n")

    async def work(caller: Caller) -> None:
        answered(await caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(30)))
        file.write_text("second-one\n")
        answered(await caller.call(BODY, MODELS[wire], "attempt-2", CallLimits(30)))

    settings = {"provider": wire, "region": "us-east1", "project": "p", "api_key": f"file:{file}"}
    sent = [headers["authorization"] for _, headers, _ in listened(settings, work).requests]
    assert sent == ["Bearer first-key", "Bearer second-one"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("signed", [False, True], ids=["key", "signed"])
@pytest.mark.parametrize("wire", WIRES)
def test_later_calls_go_out_as_the_sdk_s_own(
    simulator: SimulatorProcess, wire: str, signed: bool, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if signed:
        if wire != "bedrock":
            pytest.skip("only Bedrock's calls are signed")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    betas = {"anthropic_beta": ["a-1", "b-2"]}
    bodies = [
        orjson.dumps({**REQUEST, **more})
        for more in (
            {},
            {"new_key": {"x": ["é", 1.5, None]}},
            {"anthropic_version": "not for a request to say", **betas},
            betas,
        )
    ]

    async def each(caller: Caller) -> None:
        for number, body in enumerate(bodies):
            await caller.call(body, MODELS[wire], f"attempt-{number}", CallLimits(30))

    settings = {"provider": wire, "region": "us-east-1", "project": "p", "stream": stream}
    settings |= {} if signed else {"api_key": "env:TRIVET_TEST_KEY"}
    later = listened(settings, each).requests
    for number, body in enumerate(bodies):

        async def by_itself(caller: Caller, body: bytes = body, number: int = number) -> None:
            await caller.call(body, MODELS[wire], f"attempt-{number}", CallLimits(30))

        [(path, headers, sent)] = listened(settings, by_itself).requests  # a first call: the SDK's own
        assert later[number][0] == path
        assert orjson.loads(later[number][2]) == orjson.loads(sent)
        of_this_request = {"host", "content-length"} | (
            {"authorization", "x-amz-date", "x-amz-content-sha256"} if signed else set()
        )
        kept, kept_later = (
            {name: value for name, value in found.items() if name not in of_this_request}
            for found in (headers, later[number][1])
        )
        assert kept_later == kept
        assert later[number][1].keys() == headers.keys()
        if signed:
            expected = _aws_signature(*later[number], "AKIDEXAMPLE", "a-secret", "us-east-1")
            assert later[number][1]["authorization"] == expected


def test_the_first_party_wire_takes_version_and_betas_as_headers(simulator: SimulatorProcess) -> None:
    body = orjson.dumps({**REQUEST, "anthropic_beta": ["a-1", "b-2"], "new_key": {"x": 1}})

    async def work(caller: Caller) -> None:
        answered(await caller.call(body, "claude-x", "attempt-1", CallLimits(30)))

    settings = {"provider": "anthropic", "api_key": "env:TRIVET_TEST_KEY"}
    [(_, headers, sent)] = listened(settings, work).requests
    assert (headers["anthropic-version"], headers["anthropic-beta"]) == ("2026-10-21", "a-1,b-2")
    assert orjson.loads(sent) == {**REQUEST, "new_key": {"x": 1}, "model": "claude-x"}


def test_a_key_that_the_provider_repeats_is_struck_out(simulator: SimulatorProcess) -> None:
    words = f"bad key {KEY}\n\nThe Canonical String for this request should have been …"
    simulator.control.fault("bedrock", "raw", status=403, body=json.dumps({"message": words}))
    assert failed(call_once(route(simulator, "bedrock"))).message == "bad key [secret]"


def test_credentials_that_are_repeated_to_several_calls_are_struck_out_of_each(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "a-token-0123456789")
    error = {"__type": "UnrecognizedClientException", "message": "bad a-token-0123456789"}
    simulator.control.fault("bedrock", "raw", status=403, body=json.dumps(error))

    async def work(caller: Caller) -> None:
        calls = (caller.call(BODY, MODELS["bedrock"], f"a-{n}", CallLimits(30)) for n in range(20))
        failures = [failed(answer) for answer in await asyncio.gather(*calls)]
        assert {(one.outcome, one.scope, one.message) for one in failures} == {
            (O.UNUSABLE, Scope.ROUTE, "bad [secret]")
        }

    with_caller(route(simulator, "bedrock", api_key=None), work)


def test_signatures_are_right_and_sign_the_body(simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")

    async def work(caller: Caller) -> None:
        answered(await caller.call(BODY, "arn:aws:bedrock:x:1:inference-profile/y:0", "attempt-1", CallLimits(30)))

    [(path, headers, body)] = listened({"provider": "bedrock", "region": "eu-west-1"}, work).requests
    assert headers["authorization"] == _aws_signature(path, headers, body, "AKIDEXAMPLE", "a-secret", "eu-west-1")
    assert headers["x-amz-security-token"] == "a-token"
    assert headers["x-trivet-attempt"] == "attempt-1"


def _aws_signature(path: str, headers: dict[str, str], body: bytes, key: str, secret: str, region: str) -> str:
    """Signature version 4 as docs.aws.amazon.com (IAM user guide, "Create a signed request") has it."""
    names = sorted(["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"])
    canonical = "\n".join(
        ["POST", quote(urlsplit(path).path, safe="/~"), "", *(f"{n}:{headers[n]}" for n in names), "", ";".join(names),
         hashlib.sha256(body).hexdigest()]
    )  # fmt: skip
    day = headers["x-amz-date"][:8]
    scope = f"{day}/{region}/bedrock/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"
    signing = f"AWS4{secret}".encode()
    for part in (day, region, "bedrock", "aws4_request"):
        signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(signing, to_sign.encode(), hashlib.sha256).hexdigest()
    return f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"


def test_the_secret_key_stays_out_of_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = process_credentials()
    assert "secret" not in repr(SigV4(credentials, "us-east-1", "bedrock"))


def test_the_words_of_an_answer_stay_out_of_what_is_printed() -> None:
    assert "diagnosis" not in repr(Answer(b'{"text": "the diagnosis"}', "end_turn", None, None))


def test_a_hundred_first_calls_fetch_aws_credentials_once(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", simulator.endpoints.credentials_url)

    async def work(caller: Caller) -> None:
        for answer in await asyncio.gather(
            *(caller.call(BODY, MODELS["bedrock"], f"a-{n}", CallLimits(30)) for n in range(100))
        ):
            answered(answer)

    with_caller(route(simulator, "bedrock", api_key=None), work)
    assert simulator.control.counts()["credentials"] == {"aws_credentials": 1}


def test_credentials_that_aws_refused_are_looked_up_anew(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", simulator.endpoints.credentials_url)
    simulator.control.fault("bedrock", "auth", times=1)

    async def work(caller: Caller) -> None:
        failed(await caller.call(BODY, MODELS["bedrock"], "attempt-1", CallLimits(30)))
        answered(await caller.call(BODY, MODELS["bedrock"], "attempt-2", CallLimits(30)))

    with_caller(route(simulator, "bedrock", api_key=None), work)
    assert simulator.control.counts()["credentials"] == {"aws_credentials": 2}


@pytest.fixture
def service_account(simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Application default credentials: a service account whose tokens the simulator gives out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    file = tmp_path / "account.json"
    account = {
        "type": "service_account", "project_id": "the-account-s-project", "private_key_id": "1", "private_key": pem,
        "client_email": "worker@example.iam.gserviceaccount.com", "token_uri": simulator.endpoints.token_url,
    }  # fmt: skip
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


@pytest.mark.usefixtures("service_account")
def test_a_hundred_first_calls_fetch_one_google_token_and_its_project(simulator: SimulatorProcess) -> None:
    async def work(caller: Caller) -> None:
        for answer in await asyncio.gather(
            *(caller.call(BODY, MODELS["vertex"], f"a-{n}", CallLimits(30)) for n in range(100))
        ):
            answered(answer)

    with_caller(route(simulator, "vertex", api_key=None, project=None), work)
    assert simulator.control.counts()["credentials"] == {"google_token": 1}


@pytest.mark.usefixtures("service_account")
def test_a_call_waits_for_a_new_google_token_when_the_old_one_is_over(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(caller: Caller) -> None:
        token = process_token()
        old = await token.current()
        with monkeypatch.context() as patch:
            patch.setattr(wire_credentials, "USELESS_BEFORE_S", math.inf)
            answered(await caller.call(BODY, MODELS["vertex"], "attempt-1", CallLimits(30)))
        assert await token.current() != old

    with_caller(route(simulator, "vertex", api_key=None), work)
    assert simulator.control.counts()["credentials"] == {"google_token": 2}


@pytest.mark.usefixtures("service_account")
def test_a_google_token_near_its_end_is_renewed_behind_the_calls(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        token = process_token()
        old = await token.current()
        with monkeypatch.context() as patch:
            patch.setattr(wire_credentials, "RENEW_BEFORE_S", math.inf)
            assert await token.current() == old  # does not wait
        behind = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*behind), 20)
        assert await token.current() != old

    asyncio.run(run())
    assert simulator.control.counts()["credentials"] == {"google_token": 2}


@pytest.mark.usefixtures("service_account")
def test_an_unreachable_token_server_is_a_connection_failure_of_no_route(
    simulator: SimulatorProcess, service_account: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        account = json.loads(service_account.read_text())
        account["token_uri"] = f"http://127.0.0.1:{unused.getsockname()[1]}/token"
        service_account.write_text(json.dumps(account))
        failure = failed(call_once(route(simulator, "vertex", api_key=None)))
    assert (failure.outcome, failure.scope) == (Outcome.CONNECTION, None)
    assert failure.message.startswith("no Google credentials")


def test_a_caller_that_is_cancelled_leaves_the_shared_work_running() -> None:
    async def run() -> None:
        release, runs, shared = asyncio.Event(), [], SingleFlight()

        async def work() -> None:
            runs.append(1)
            await release.wait()

        first, second = (asyncio.ensure_future(shared.run(work)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        release.set()
        await second
        assert first.cancelled()
        assert len(runs) == 1

    asyncio.run(run())


def test_shared_work_that_fails_tells_all_and_is_tried_again() -> None:
    async def run() -> None:
        shared, runs = SingleFlight(), []

        async def work() -> None:
            runs.append(1)
            await asyncio.sleep(0)
            raise OSError("not now")

        results = await asyncio.gather(shared.run(work), shared.run(work), return_exceptions=True)
        assert [type(result) for result in results] == [OSError, OSError]
        with pytest.raises(OSError, match="not now"):
            await shared.run(work)
        assert len(runs) == 2

    asyncio.run(run())


MESSAGE = {
    "type": "message",
    "content": [],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 4},
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stop_reason": None}, "no stop reason"),
        ({"stop_reason": ""}, "no stop reason"),
        ({"content": None}, "no content list"),
        ({"content": ["Hello"]}, "no content list"),
        ({"type": "error"}, "an error"),
        ({"type": "completion"}, "no message"),
    ],
)
def test_a_message_that_lacks_something_is_not_whole(change: dict[str, Any], reason: str) -> None:
    broken = read_message(orjson.dumps({**MESSAGE, **change}))
    assert isinstance(broken, Broken)
    assert reason in broken.reason


@pytest.mark.parametrize("body", [b"", b"  \n", b"{", b"[]", b"null", b"{}", b"\xff"])
def test_what_is_no_message_is_not_whole(body: bytes) -> None:
    assert isinstance(read_message(body), Broken)


def test_all_kinds_of_tokens_are_read() -> None:
    usage = {
        "input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 47,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 7},
        "server_tool_use": {"web_search_requests": 2}, "service_tier": "priority", "inference_geo": "us", "speed": "fast",
    }  # fmt: skip
    whole = read_message(orjson.dumps({**MESSAGE, "usage": usage}))
    assert whole == Whole("end_turn", Usage(10, 20, 30, 40, 7, 2, "priority", "us", "fast"))


def test_cache_writes_without_breakdown_count_as_five_minutes_and_passes_are_summed() -> None:
    passes = [{"type": "compaction", "input_tokens": 100, "output_tokens": 5},
              {"type": "message", "input_tokens": 10, "output_tokens": 6, "cache_creation_input_tokens": 8}]  # fmt: skip
    usage = {"input_tokens": 10, "output_tokens": 6, "iterations": passes}
    whole = read_message(orjson.dumps({**MESSAGE, "usage": usage}))
    assert isinstance(whole, Whole)
    assert whole.usage == Usage(
        input_tokens=110,
        output_tokens=11,
        cache_write_5m_tokens=8,
        parts=(UsagePart("compaction", None, 100, 5), UsagePart("message", None, 10, 6, 0, 8)),
    )


START = {"type": "message_start", "message": {"type": "message", "content": [], "stop_reason": None,
                                              "usage": {"input_tokens": 9, "output_tokens": 1}}}  # fmt: skip


def opened(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def grown(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


END = [
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
     "usage": {"output_tokens": 12, "input_tokens": None}},
    {"type": "message_stop"},
]  # fmt: skip


def test_thinking_citations_and_tool_calls_are_put_together() -> None:
    assembly = Assembly()
    for event in [
        START,
        {"type": "ping"},
        opened(0, {"type": "thinking", "thinking": "", "signature": ""}),
        grown(0, type="thinking_delta", thinking="Hm"),
        grown(0, type="thinking_delta", thinking="m."),
        grown(0, type="signature_delta", signature="sig"),
        closed(0),
        opened(1, {"type": "text", "text": "", "citations": None}),
        grown(1, type="text_delta", text="So "),
        grown(1, type="citations_delta", citation={"cited_text": "a"}),
        grown(1, type="citations_delta", citation={"cited_text": "b"}),
        grown(1, type="text_delta", text="it is."),
        closed(1),
        opened(2, {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
        grown(2, type="input_json_delta", partial_json=""),
        grown(2, type="input_json_delta", partial_json='{"a": [1,'),
        grown(2, type="input_json_delta", partial_json="2]}"),
        closed(2),
        opened(3, {"type": "tool_use", "id": "u", "name": "g", "input": {}}),
        grown(3, type="input_json_delta", partial_json=""),
        closed(3),
        *END,
    ]:
        assembly.take(event)
    assert assembly.ended
    message = assembly.message()
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hmm.", "signature": "sig"},
        {"type": "text", "text": "So it is.", "citations": [{"cited_text": "a"}, {"cited_text": "b"}]},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, 2]}},
        {"type": "tool_use", "id": "u", "name": "g", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert assembly.usage == Usage(input_tokens=9, output_tokens=12)


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "message_stop"}],
        [opened(0, {"type": "text", "text": ""})],
        [START, opened(1, {"type": "text", "text": ""})],
        [START, grown(0, type="signature_delta", signature="x"), *END],
        [START, grown(0, type="input_json_delta", partial_json="{}"), *END],
        [START, opened(0, {"type": "text", "text": ""}), grown(0, type="text_delta", text="cut")],
        [START, opened(0, {"type": "tool_use", "input": {}}), grown(0, type="input_json_delta", partial_json='{"a"'),
         closed(0), *END],
        [START, ["no", "event"], *END],
        [START, None, *END],
        [START, *END[:1], opened(0, {"type": "text", "text": ""})],
    ],
)  # fmt: skip
def test_events_that_make_no_message_are_refused(events: list[Any]) -> None:
    def take_all() -> None:
        assembly = Assembly()
        for event in events:
            assembly.take(event)
        assembly.message()

    with pytest.raises(BrokenStream):
        take_all()
