"""The gateway as its clients see it: `trivet serve` in a process of its own, over real workers and the simulator."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import psutil
import pytest
from tests.gateways import REQUEST, RunningGateway, running_gateway
from tests.processes import ServerProcess, free_port, listens
from tests.timing import until

from trivet import Job
from trivet.testing import RunningTrivet

EXAMPLE = Path(__file__).parents[2] / "examples" / "web_stream.py"
SLOW_S = 3.0
"""Time of an answer during which something else happens."""
TIGHT = {
    "TRIVET_GATEWAY__MAX_BODY_MB": "1",
    "TRIVET_GATEWAY__MAX_HEADER_KB": "16",
    "TRIVET_GATEWAY__MAX_WAITING": "1",
    "TRIVET_GATEWAY__MAX_CONNECTIONS": "8",
    "TRIVET_GATEWAY__HEAD_TIMEOUT_S": "1",
    "TRIVET_GATEWAY__BODY_TIMEOUT_S": "1",
    "TRIVET_GATEWAY__WRITE_TIMEOUT_S": "1",
    "TRIVET_GATEWAY__SHUTDOWN_GRACE_S": "0",
}


@pytest.fixture(scope="module")
def gateway(running: RunningTrivet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with the default bounds."""
    with running_gateway(running.settings, tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture(scope="module")
def tight(running: RunningTrivet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with narrow bounds."""
    with running_gateway(running.settings, tmp_path_factory.mktemp("tight"), env=TIGHT, key="tight") as started:
        yield started


@pytest.fixture
def http(gateway: RunningGateway, system: RunningTrivet) -> Iterator[httpx2.Client]:
    """A client with a key, and every fault taken back."""
    with gateway.client() as client:
        yield client


def slow(system: RunningTrivet) -> None:
    """Have every provider take `SLOW_S` for an answer."""
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.latency(provider, median_s=SLOW_S)


def sent_in_thread(client: httpx2.Client, request: dict[str, Any], **headers: str) -> list[httpx2.Response]:
    """Send a request in a thread; its answer is in the list once it has come."""
    answers: list[httpx2.Response] = []

    def send() -> None:
        with contextlib.suppress(httpx2.HTTPError):
            answers.append(client.post("/v1/messages", json=request, headers=headers))

    threading.Thread(target=send, daemon=True).start()
    return answers


def newest(system: RunningTrivet, text: str) -> Job | None:
    """Return the job whose tag `test` is this text."""
    rows = [row for row in system.client.jobs(limit=20) if row.tags.get("test") == text]
    return system.client.job(rows[0].id) if rows else None


def connected(gateway: RunningGateway) -> socket.socket:
    """Return a bare connection."""
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the connection is closed."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def test_a_message_comes_with_how_it_was_served(http: httpx2.Client, system: RunningTrivet) -> None:
    answer = http.post("/v1/messages", json=REQUEST, headers={"x-trivet-tags": "team=search, kind=test"})
    assert answer.status_code == 200, answer.text
    job = system.client.job(answer.headers["x-trivet-job"])
    result = job.result(timeout=10)
    assert answer.content == result.raw
    assert answer.headers["request-id"] == result.attempts[-1].request_id
    assert answer.headers["x-trivet-route"] == result.route
    assert answer.headers["x-trivet-attempts"] == "1"
    assert answer.headers["x-trivet-cached"] == "false"
    assert float(answer.headers["x-trivet-cost-usd"]) == pytest.approx(float(result.cost_usd or 0))
    assert job.look().latency == "interactive"
    assert result.tags == {"team": "search", "kind": "test", "trivet_key": "tests"}


def test_a_repeated_key_gets_the_same_answer_and_another_request_under_it_none(http: httpx2.Client) -> None:
    key = {"idempotency-key": f"once-{time.monotonic()}"}
    first, again = (http.post("/v1/messages", json=REQUEST, headers=key) for _ in range(2))
    assert first.headers["x-trivet-job"] == again.headers["x-trivet-job"]
    assert first.content == again.content
    other = http.post("/v1/messages", json={**REQUEST, "max_tokens": 51}, headers=key)
    assert other.status_code == 409
    assert first.headers["x-trivet-job"] in other.json()["error"]["message"]
    assert other.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("headers", [{"prefer": "respond-async"}, {"x-trivet-latency": "async"}])
def test_a_job_is_answered_at_once_where_it_is_asked_for(
    http: httpx2.Client, system: RunningTrivet, headers: dict[str, str]
) -> None:
    answer = http.post("/v1/messages", json=REQUEST, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"/trivet/v1/jobs/{job_id}"
    assert system.client.job(job_id).result(timeout=60).succeeded


@pytest.mark.parametrize(
    ("change", "headers", "field"),
    [
        ({"max_tokens": 0}, {}, "max_tokens"),
        ({"model": 4}, {}, "model"),
        ({"stream": "yes"}, {}, "stream"),
        ({"latency": "batch"}, {}, "latency"),
        ({}, {"x-trivet-latency": "soon"}, "latency"),
        ({}, {"x-trivet-tags": "team"}, "x-trivet-tags"),
        ({}, {"x-trivet-tags": "[1]"}, "x-trivet-tags"),
        ({}, {"x-trivet-cache": "perhaps"}, "x-trivet-cache"),
        ({}, {"x-trivet-deadline": "never"}, "deadline"),
        ({}, {"x-trivet-deadline": "nan"}, "deadline"),
        ({}, {"anthropic-version": "newest"}, "anthropic-version"),
        ({"stream": True}, {"prefer": "respond-async"}, "stream"),
    ],
)
def test_a_wrong_request_names_the_field(
    http: httpx2.Client, change: dict[str, Any], headers: dict[str, str], field: str
) -> None:
    answer = http.post("/v1/messages", json={**REQUEST, **change}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text
    assert answer.json()["error"]["message"].startswith(f"{field}:")
    assert answer.json()["request_id"] == answer.headers["request-id"]


def test_an_unknown_model_is_not_found(http: httpx2.Client) -> None:
    answer = http.post("/v1/messages", json={**REQUEST, "model": "gpt-4"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error"), answer.text
    assert answer.json()["error"]["message"].startswith("model: no such model: gpt-4.")


def test_what_is_not_there_is_said_in_the_same_shape(http: httpx2.Client) -> None:
    for method, path, status in (("GET", "/v2", 404), ("GET", "/v1/messages", 405), ("PUT", "/healthz", 405)):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["type"]) == (status, "error")
    broken = http.post("/v1/messages", content=b"{")
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")


def test_nothing_is_served_without_a_key(gateway: RunningGateway) -> None:
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
        answer = httpx2.post(f"{gateway.url}/v1/messages", json=REQUEST, headers=headers, timeout=20)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


def test_routes_that_all_fail_are_named(http: httpx2.Client, system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "overloaded")
    for stream in (False, True):
        answer = http.post("/v1/messages", json={**REQUEST, "stream": stream}, headers={"x-trivet-deadline": "8"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error"), answer.text
        words = answer.json()["error"]["message"]
        assert all(route in words for route in ("anthropic", "bedrock-us-east-1", "vertex-global")), words


def test_a_request_that_the_provider_refuses_is_answered_with_its_words(
    http: httpx2.Client, system: RunningTrivet
) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "context_too_long")
    answer = http.post("/v1/messages", json=REQUEST)
    assert answer.status_code == 400, answer.text
    assert "prompt is too long" in answer.json()["error"]["message"].lower()


def test_the_official_client_streams(gateway: RunningGateway, system: RunningTrivet) -> None:
    text = " ".join(f"word{number}" for number in range(40))
    system.reply(text)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client,
        client.messages.stream(
            model="claude-haiku-4-5", max_tokens=200, messages=[{"role": "user", "content": "Count."}]
        ) as stream,
    ):
        assert "".join(stream.text_stream) == text
        job = system.client.job(stream.response.headers["x-trivet-job"])
        assert stream.get_final_message().usage.output_tokens > 0
    assert job.result(timeout=10).text == text


def test_a_stream_that_breaks_after_the_first_token_says_so(http: httpx2.Client, system: RunningTrivet) -> None:
    system.reply(" ".join(f"word{number}" for number in range(200)))
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "cut")
    answer = http.post("/v1/messages", json={**REQUEST, "stream": True, "max_tokens": 1_000})
    assert answer.status_code == 200
    events = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert events[0] == "message_start"
    assert events[-1] == "error", events[-5:]
    assert events.count("message_start") == 1
    assert "message_stop" not in events


def test_a_client_that_leaves_cancels_its_job(http: httpx2.Client, system: RunningTrivet) -> None:
    slow(system)
    for stream in (False, True):
        tag = f"left-{stream}-{time.monotonic()}"
        with pytest.raises(httpx2.TimeoutException):
            http.post(
                "/v1/messages", json={**REQUEST, "stream": stream}, headers={"x-trivet-tags": f"test={tag}"}, timeout=1
            )
        job = until(lambda tag=tag: newest(system, tag), "the job")  # type: ignore[misc]
        assert job is not None
        until(lambda job=job: job.state == "cancelled", "the job to be cancelled", 10)  # type: ignore[misc]


def test_a_job_with_a_key_goes_on_without_its_client(http: httpx2.Client, system: RunningTrivet) -> None:
    slow(system)
    key = {"idempotency-key": f"later-{time.monotonic()}"}
    with pytest.raises(httpx2.TimeoutException):
        http.post("/v1/messages", json=REQUEST, headers=key, timeout=1)
    again = http.post("/v1/messages", json=REQUEST, headers=key)
    assert (again.status_code, again.headers["x-trivet-attempts"]) == (200, "1")


def test_a_large_body_is_refused_before_it_is_read(tight: RunningGateway) -> None:
    with connected(tight) as bare:
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {tight.key}\r\ncontent-length: 40000000\r\n\r\n"
        bare.sendall(head.encode())
        assert b"request_too_large" in read_all(bare)

    def pieces() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    with tight.client() as client:
        answer = client.post("/v1/messages", content=pieces())
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


def test_a_slow_or_large_head_and_a_slow_body_are_bounded(tight: RunningGateway) -> None:
    with connected(tight) as bare:
        bare.sendall(b"POST /v1/messages HTTP/1.1\r\nhost:")
        assert read_all(bare).startswith(b"HTTP/1.1 408")
    with connected(tight) as bare:
        bare.sendall(b"GET /healthz HTTP/1.1\r\n" + b"x-much: " + b"a" * 20_000 + b"\r\n\r\n")
        assert read_all(bare).startswith(b"HTTP/1.1 431")
    with connected(tight) as bare:
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {tight.key}\r\ncontent-length: 100\r\n\r\n"
        bare.sendall(head.encode() + b'{"model"')
        assert read_all(bare).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_dropped(tight: RunningGateway, system: RunningTrivet) -> None:
    system.reply("many words " * 80_000)
    with connected(tight) as bare:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        body = b'{"model":"claude-haiku-4-5","max_tokens":64000,"messages":[{"role":"user","content":"Much."}]}'
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {tight.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        bare.sendall(head.encode() + body)
        process = psutil.Process(tight.server.pid)
        until(lambda: _connections(process, bare), "the connection to be open")
        until(lambda: not _connections(process, bare), "the connection to be dropped", 30)


def _connections(process: psutil.Process, bare: socket.socket) -> bool:
    port = bare.getsockname()[1]
    return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp"))


def test_one_request_too_many_is_told_when_to_come_again(tight: RunningGateway, system: RunningTrivet) -> None:
    slow(system)
    with tight.client() as client, tight.client() as second:
        tag = f"waits-{time.monotonic()}"
        first = sent_in_thread(client, REQUEST, **{"x-trivet-tags": f"test={tag}"})
        until(lambda: newest(system, tag), "the first request to wait")
        answer = second.post("/v1/messages", json=REQUEST)
        assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
        assert int(answer.headers["retry-after"]) >= 1
        until(lambda: first, "the first answer")
        assert first[0].status_code == 200


def test_a_gateway_that_stops_says_so_and_cancels_what_the_client_repeats(
    system: RunningTrivet, tmp_path: Path
) -> None:
    slow(system)
    env = {**TIGHT, "TRIVET_GATEWAY__MAX_WAITING": "3"}
    with running_gateway(system.settings, tmp_path, env=env, key="stops") as stopped, stopped.client() as client:
        now = time.monotonic()
        plain, kept = {"x-trivet-tags": f"test=stops-{now}"}, {"x-trivet-tags": f"test=kept-{now}"}
        answers = [
            sent_in_thread(client, REQUEST, **plain),
            sent_in_thread(client, REQUEST, **kept, **{"idempotency-key": f"stops-{now}"}),
        ]
        jobs = [until(lambda tag=tag: newest(system, f"{tag}-{now}"), "it to wait") for tag in ("stops", "kept")]  # type: ignore[misc]
        os.kill(stopped.server.pid, signal.SIGTERM)
        for one in answers:
            until(lambda one=one: one, "the answer", 10)  # type: ignore[misc]
            assert (one[0].status_code, one[0].json()["error"]["type"]) == (503, "api_error")
            assert one[0].headers["x-should-retry"] == "true"
        until(lambda: not stopped.server.runs, "the gateway to stop", 10)
    assert [job.result(timeout=30).status for job in jobs if job is not None] == ["cancelled", "succeeded"]


def test_several_processes_share_a_port_and_one_that_dies_is_replaced(system: RunningTrivet, tmp_path: Path) -> None:
    with running_gateway(system.settings, tmp_path, "--processes", "2", key="several") as several:
        parent = psutil.Process(several.server.pid)
        children = until(parent.children, "two processes", fits=lambda found: len(found) == 2)
        children[0].kill()
        with several.client() as client:
            for _ in range(4):
                with contextlib.suppress(httpx2.TransportError):  # it was taken by the one that was killed
                    assert client.post("/v1/messages", json=REQUEST).status_code == 200
            until(lambda: len(parent.children()) == 2 and children[0] not in parent.children(), "another process", 20)
            assert client.post("/v1/messages", json=REQUEST).status_code == 200


def test_the_example_streams_to_a_web_page(gateway: RunningGateway, system: RunningTrivet, tmp_path: Path) -> None:
    system.reply("Once upon a time.")
    port = free_port()
    env = {"ANTHROPIC_BASE_URL": gateway.url, "ANTHROPIC_API_KEY": gateway.key}
    server = ServerProcess([sys.executable, str(EXAMPLE), "--port", str(port)], tmp_path, env=env)
    server.start(lambda: listens(port))
    try:
        assert "source.onerror" in httpx2.get(f"http://127.0.0.1:{port}/", timeout=20).text, (
            "it would ask again by itself"
        )
        told = httpx2.get(f"http://127.0.0.1:{port}/ask", params={"question": "Tell me."}, timeout=60).text
    finally:
        server.stop()
    pieces = [line.removeprefix("data: ") for line in told.splitlines() if line.startswith("data: ")]
    assert "".join(json.loads(piece) for piece in pieces[:-1]) == "Once upon a time."
    assert "event: done" in told


def test_an_open_address_needs_a_key_first(tmp_path: Path) -> None:
    (tmp_path / "trivet.toml").write_text('[routes.one]\nprovider = "anthropic"\n', encoding="utf-8")
    command = [sys.executable, "-m", "trivet", "serve", "--address", "0.0.0.0", "--port", "0"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 2
    assert "there is no key yet" in said.stderr
