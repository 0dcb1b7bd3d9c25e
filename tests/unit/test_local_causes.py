"""Failures that may be one worker's alone, as callers tell them from the provider's; and the way to a provider, tested."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.certificates import make_certificates
from tests.wires import KEY, Listener, with_caller, worked

from trivet_simulator.process import SimulatorProcess
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import Outcome
from trivet_worker.adapters import build_caller, http
from trivet_worker.adapters.credentials import process_token
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, Credentials, Failure, LocalCause

BODY = b'{"max_tokens": 10, "messages": [{"role": "user", "content": "Hello."}]}'
MODEL = "claude-haiku-4-5"
pytestmark = pytest.mark.usefixtures("no_credentials")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def route(base_url: str = "", **more: Any) -> RouteSettings:
    return RouteSettings.model_validate(
        {"provider": "anthropic", "base_url": base_url, "api_key": "env:TRIVET_TEST_KEY", **more}
    )


def call(settings: RouteSettings, timeout_s: float = 20.0) -> Failure:
    failure = with_caller(settings, lambda caller: caller.call(BODY, MODEL, "attempt-1", CallLimits(timeout_s)))
    assert isinstance(failure, Failure), failure
    assert KEY not in failure.message
    return failure


def reach(settings: RouteSettings) -> str:
    return str(with_caller(settings, lambda caller: caller.reach(10.0)))


def test_a_port_that_refuses(closed_port: int) -> None:
    settings = route(f"http://127.0.0.1:{closed_port}")
    failure = call(settings)
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)
    assert str(closed_port) in reach(settings)


def test_a_name_that_nobody_knows() -> None:
    settings = route("http://no-such-host.invalid")
    assert call(settings).local_cause is LocalCause.UNREACHED
    assert "no-such-host.invalid" in reach(settings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's transport calls aiohttp in an old way
def test_a_proxy_that_refuses_is_named(
    closed_port: int, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:s3cret@127.0.0.1:{closed_port}")
    settings = route(simulator.endpoints.anthropic)
    failure = call(settings)
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)
    assert f"through the proxy http://127.0.0.1:{closed_port} (HTTP_PROXY)" in failure.message
    assert reach(settings)
    assert "s3cret" not in failure.message + reach(settings)
    assert simulator.control.calls() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's transport calls aiohttp in an old way
def test_a_proxy_that_never_answers_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        failure = call(route("https://api.example"), 1.0)
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)
    assert "no connection in time" in failure.message
    assert "(HTTPS_PROXY)" in failure.message


def test_time_that_is_over_before_there_is_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_SHARE", 2.0)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        settings = route(f"https://127.0.0.1:{silent.getsockname()[1]}")
        failure = call(settings, 0.5)
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)
    assert failure.message == "no connection within 0.5 s"


def test_what_is_no_tls(simulator: SimulatorProcess) -> None:
    settings = route(simulator.endpoints.anthropic.replace("http://", "https://"))
    failure = call(settings)
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)
    assert reach(settings)


def test_a_certificate_of_nobody(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.crt", made / "server.key")

    async def run() -> Answer | Failure:
        server = await asyncio.start_server(Listener(b"").serve, "127.0.0.1", 0, ssl=context)
        settings = route(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            return await worked(settings, lambda caller: caller.call(BODY, MODEL, "attempt-1", CallLimits(20.0)))

    failure = asyncio.run(run())
    assert isinstance(failure, Failure)
    assert failure.local_cause is LocalCause.UNREACHED


@pytest.fixture
def swallowing_port() -> Iterator[int]:
    """A port whose queue of connections is full: it answers no further one, as a firewall that drops packets."""
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_short_call_into_nothing_is_no_timeout_of_the_provider(swallowing_port: int) -> None:
    settings = route(f"http://127.0.0.1:{swallowing_port}")
    failure = call(settings, 1.0)
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)
    assert "no connection in time" in failure.message


def test_a_short_call_that_the_provider_leaves_hanging_is_one(simulator: SimulatorProcess) -> None:
    async def twice(caller: Caller) -> list[Outcome]:
        simulator.control.fault("anthropic", "hang")
        calls = [await caller.call(BODY, MODEL, f"attempt-{number}", CallLimits(0.6)) for number in range(2)]
        return [call.outcome for call in calls if isinstance(call, Failure) and call.local_cause is None]

    assert with_caller(route(simulator.endpoints.anthropic), twice) == [Outcome.TIMEOUT] * 2


@pytest.mark.parametrize("kind", ["reset", "server_error", "overloaded", "rate_limited", "billing", "spend_limit"])
def test_what_the_provider_did_is_no_workers_own(simulator: SimulatorProcess, kind: str) -> None:
    simulator.control.fault("anthropic", kind)
    assert call(route(simulator.endpoints.anthropic)).local_cause is None


@pytest.mark.parametrize("wire", ["anthropic", "bedrock", "vertex"])
def test_a_refused_key(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "auth")
    settings = route(simulator.endpoints.providers[wire], provider=wire, region="us-east-1", project="p")
    failure = call(settings)
    assert (failure.outcome, failure.local_cause) == (Outcome.UNUSABLE, LocalCause.KEY_REFUSED)
    assert reach(settings) == "", "no key is needed to be answered"


def test_an_answer_of_any_kind_will_do(simulator: SimulatorProcess) -> None:
    for kind in (None, "server_error", "auth"):
        if kind:
            simulator.control.fault("anthropic", kind)
        assert reach(route(simulator.endpoints.anthropic)) == ""
    assert simulator.control.counts()["providers"]["anthropic"]["finished"] == 0, "it is no call"


def test_the_way_is_not_tested_on_a_connection_that_was_kept() -> None:
    async def run() -> tuple[Answer | Failure, str, Answer | Failure]:
        answer = (
            b'{"type":"message","content":[],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
        )
        listener = Listener(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
        server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
        caller = build_caller(route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", stream=False))
        first = await caller.call(BODY, MODEL, "attempt-1", CallLimits(20.0))
        server.close()  # it takes no further connections; the first one stays
        reached = await caller.reach(10.0)
        second = await caller.call(BODY, MODEL, "attempt-2", CallLimits(20.0))
        await caller.close()
        return first, reached, second

    first, reached, second = asyncio.run(run())
    assert isinstance(first, Answer)
    assert reached
    assert isinstance(second, Answer)


def test_a_server_that_says_nothing() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        settings = route(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert with_caller(settings, lambda caller: caller.reach(0.2)) == "no answer within 0.2 s"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key": "env:NOT_SET_HERE"}, "NOT_SET_HERE is empty or not set"),
        ({"api_key": "file:/nonexistent/key"}, "/nonexistent/key cannot be read"),
        ({"api_key": None}, "no key: set api_key of the route"),
        ({"provider": "bedrock", "region": "us-east-1", "api_key": None}, "no AWS credentials"),
        ({"provider": "bedrock", "api_key": "env:TRIVET_TEST_KEY"}, "no region"),
        ({"provider": "vertex", "region": "global", "api_key": "env:TRIVET_TEST_KEY"}, "no project"),
    ],
)
def test_missing_credentials_are_found_without_a_call_and_by_one(settings: dict[str, Any], words: str) -> None:
    made = route("http://127.0.0.1:9", **settings)
    found: Credentials = with_caller(made, lambda caller: caller.credentials())
    assert words in found.missing
    failure = call(made)
    assert words in failure.message
    assert failure.local_cause is LocalCause.NO_CREDENTIALS


def aws_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> RouteSettings:
    config = tmp_path / "aws"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return route("http://127.0.0.1:9", provider="bedrock", region="us-east-1", api_key=None)


def without_credentials(settings: RouteSettings) -> str:
    """Return what a look and a call report of missing credentials."""
    found: Credentials = with_caller(settings, lambda caller: caller.credentials())
    failure = call(settings)
    assert (failure.outcome, failure.local_cause) == (Outcome.UNUSABLE, LocalCause.NO_CREDENTIALS)
    assert not failure.own_fault
    assert failure.message == found.missing
    return found.missing


def test_a_token_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    said = without_credentials(route("http://127.0.0.1:9", provider="bedrock", region="us-east-1", api_key=None))
    assert "/nonexistent/token: No such file or directory" in said


def test_a_credential_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = without_credentials(aws_profile(monkeypatch, tmp_path, "/nonexistent/program"))
    assert "/nonexistent/program: No such file or directory" in said


def test_a_credential_program_that_says_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = without_credentials(aws_profile(monkeypatch, tmp_path, "/bin/echo a-secret-key"))
    assert "JSONDecodeError" in said
    assert "a-secret-key" not in said


def test_google_credentials_that_are_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process_token.cache_clear()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    settings = route("http://127.0.0.1:9", provider="vertex", region="global", project="p", api_key=None)
    assert f"{tmp_path}: Is a directory" in without_credentials(settings)


def test_a_token_endpoint_that_is_not_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_port: int
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    failure = call(route("http://127.0.0.1:9", provider="bedrock", region="us-east-1", api_key=None))
    assert (failure.outcome, failure.local_cause) == (Outcome.CONNECTION, LocalCause.UNREACHED)


def test_a_key_that_comes_and_goes(tmp_path: Path) -> None:
    key = tmp_path / "key"

    async def run(caller: Caller) -> list[bool]:
        seen = []
        for text in (None, "one", "", None, "two"):
            key.unlink(missing_ok=True)
            if text is not None:
                key.write_text(text)
            seen.append(bool((await caller.credentials()).missing))
        return seen

    assert with_caller(route(api_key=f"file:{key}"), run) == [True, False, True, True, False]


def test_a_key_is_known_to_be_another_than_the_refused_one(simulator: SimulatorProcess, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("one")
    simulator.control.fault("anthropic", "auth")

    async def run(caller: Caller) -> list[bool]:
        seen = [(await caller.credentials()).renewed]
        await caller.call(BODY, MODEL, "attempt-1", CallLimits(20.0))
        seen.append((await caller.credentials()).renewed)
        key.write_text("two")
        seen.append((await caller.credentials()).renewed)
        return seen

    assert with_caller(route(simulator.endpoints.anthropic, api_key=f"file:{key}"), run) == [False, False, True]
