"""Streamed answers through the whole system: as they come on every wire, failed over unseen, broken off honestly, booked."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.command_line import Said, commands
from tests.databases import new_database
from tests.timing import until

from trivet import AsyncClient, Job, Result, StreamFailed
from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_tasks.shared_state import connect

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 300}
ROUTES = {"anthropic": "anthropic", "bedrock": "bedrock-us-east-1", "vertex": "vertex-global"}
RESULT_S = 60.0
TEXT = " ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """A Trivet whose dead workers are soon known, and whose routes can be chosen by a regime of their own."""
    url = new_database(request, "streaming")
    sections: dict[str, Any] = {
        **QUICK,
        "leases": {"ttl_s": 4, "heartbeat_s": 0.5},
        "classes.interactive": {"order": "priority", "stall_timeout_s": 3},
        "classes.batch": {"order": "priority"},
    }
    routes = {name: {"priority": n, "compliance": [wire]} for n, (wire, name) in enumerate(ROUTES.items(), start=1)}
    folder: Path = tmp_path_factory.mktemp("streaming")
    with running_trivet(folder, store_url=url, sections=sections, route_settings=routes) as running:
        yield running


@pytest.fixture
def streaming(own: RunningTrivet) -> Iterator[RunningTrivet]:
    """The running Trivet with every fault taken back, whose model says `TEXT`."""
    own.reset()
    own.reply(TEXT)
    yield own
    own.reset()


@pytest.fixture
def trivet(
    streaming: RunningTrivet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process, as a person would type it."""
    with commands(streaming.settings.source, monkeypatch, capsys) as run:
        yield run


class Reader:
    """Reads one streamed answer, and keeps what it was shown."""

    def __init__(self, trivet: RunningTrivet, **terms: Any) -> None:
        self._trivet = trivet
        self._terms = {**TERMS, **terms}
        self.text = ""
        self.job: Job | None = None

    def read(self, on_first: Callable[[], object] = lambda: None) -> None:
        """Read to the end. `on_first` is called after the first piece."""
        with self._trivet.client.stream("Tell me", **self._terms) as stream:
            self.job = stream.job
            for piece in stream.text_stream:
                self.text += piece
                if self.text == piece:
                    on_first()

    def read_until_broken(self, on_first: Callable[[], object] = lambda: None) -> StreamFailed:
        """Read up to the error."""
        with pytest.raises(StreamFailed) as raised:
            self.read(on_first)
        return raised.value

    @property
    def result(self) -> Result:
        """The result of the job."""
        assert self.job is not None
        return self.job.result(RESULT_S)


def slow(trivet: RunningTrivet, per_output_token_s: float) -> None:
    """Let every provider take time for an answer."""
    for wire in ROUTES:
        trivet.simulator.latency(wire, median_s=0.0, per_output_token_s=per_output_token_s)


@pytest.mark.parametrize("wire", ROUTES)
def test_an_answer_is_streamed_on_every_wire_and_is_the_stored_result(streaming: RunningTrivet, wire: str) -> None:
    with streaming.client.stream("Tell me", **TERMS, compliance=[wire], stream=True) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    result = stream.job.result(RESULT_S)
    assert "".join(pieces) == TEXT == result.text == stream.get_final_text()
    assert len(pieces) > 1
    assert (result.route, len(result.attempts)) == (ROUTES[wire], 1)
    assert message.stop_reason == result.stop_reason == "end_turn"
    assert message.usage.output_tokens == result.usage["output_tokens"]
    assert message.usage.input_tokens == result.usage["input_tokens"]
    assert stream.request_id == result.attempts[0].request_id
    assert not result.attempts[0].estimated


@pytest.mark.parametrize("wire", ROUTES)
def test_text_comes_before_the_call_ends_and_leaving_cancels_and_books_it(streaming: RunningTrivet, wire: str) -> None:
    streaming.simulator.fault(wire, "stalled_stream")
    with streaming.client.stream("Tell me", **TERMS, compliance=[wire]) as stream:
        first = next(stream.text_stream)
        assert TEXT.startswith(first)
        assert stream.job.state == "running"
    result = stream.job.result(RESULT_S)
    assert result.status == "cancelled"
    attempt = until(
        lambda: streaming.admin.jobs.life(result.id).attempts[0], "the end of the call", fits=lambda one: one.outcome
    )
    assert (attempt.outcome, attempt.estimated) == ("cancelled", True)
    assert attempt.cost_usd


def test_a_failover_before_the_first_text_is_not_seen(streaming: RunningTrivet) -> None:
    streaming.simulator.fault("anthropic", "overloaded")
    streaming.simulator.fault("bedrock", "stalled_stream", after_bytes=100)
    with streaming.client.stream("Tell me", **TERMS) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_text() == TEXT
    assert kinds.count("message_start") == kinds.count("message_stop") == 1
    result = stream.job.result(RESULT_S)
    assert [attempt.outcome for attempt in result.attempts] == ["overloaded", "timeout", "succeeded"]


@pytest.mark.parametrize("fault", ["stream_error", "cut", "garbled", "stalled_stream"])
def test_after_the_first_text_a_failure_is_an_error_and_the_job_goes_on(streaming: RunningTrivet, fault: str) -> None:
    for wire in ROUTES:
        streaming.simulator.fault(wire, fault, times=1)
    streaming.simulator.clear("bedrock")
    latency = "interactive" if fault == "stalled_stream" else "batch"
    reader = Reader(streaming, latency=latency)
    error, result = reader.read_until_broken(), reader.result
    assert reader.text
    assert TEXT.startswith(reader.text)
    assert reader.text != TEXT
    assert error.began
    broken = result.attempts[0]
    assert (broken.route, error.outcome) == ("anthropic", broken.outcome)
    assert broken.outcome != "succeeded"
    if latency == "batch":  # nobody cancelled it
        assert (result.text, result.route) == (TEXT, "bedrock-us-east-1")
    # the others state the usage of the call before they break off
    assert broken.estimated == (fault in ("cut", "stalled_stream"))
    assert broken.cost_usd


def test_a_job_that_no_route_takes_ends_with_an_error_before_any_text(streaming: RunningTrivet) -> None:
    for wire in ROUTES:
        streaming.simulator.fault(wire, "request_too_large")
    reader = Reader(streaming)
    error = reader.read_until_broken()
    assert (reader.text, error.began, reader.result.status) == ("", False, "failed")
    assert error.outcome == "invalid"


def test_a_killed_worker_breaks_its_streams_off_and_its_call_is_booked(streaming: RunningTrivet) -> None:
    streaming.simulator.fault("anthropic", "stalled_stream", times=1)
    pid = streaming.local.supervisor.pid("worker-1-bulk")
    assert pid is not None
    reader = Reader(streaming, latency="batch")
    error, result = reader.read_until_broken(lambda: os.kill(pid, signal.SIGKILL)), reader.result
    assert error.began
    assert TEXT.startswith(reader.text)
    assert (result.status, result.text) == ("succeeded", TEXT)
    lost = result.attempts[0]
    assert (lost.outcome, lost.estimated) == ("unknown", True)
    assert lost.cost_usd


def test_an_emptied_redis_ends_streams_whole_or_with_an_error(streaming: RunningTrivet) -> None:
    slow(streaming, 0.01)
    redis = connect(streaming.settings.redis_url)

    def empty() -> None:
        redis.flushall()
        redis.client_kill_filter(_type="normal", skipme=True)
        redis.client_kill_filter(_type="pubsub")

    reader = Reader(streaming, latency="batch")
    whole = True
    try:
        reader.read(empty)
    except StreamFailed:
        whole = False
    assert reader.result.text == TEXT
    assert reader.text == TEXT if whole else TEXT.startswith(reader.text)


def test_a_cached_answer_comes_as_events_without_a_call(streaming: RunningTrivet) -> None:
    terms: dict[str, Any] = {**TERMS, "cache": True}
    assert streaming.client.submit("Once", **terms, latency="interactive").result(RESULT_S).text == TEXT
    calls = len(streaming.simulator.calls())
    with streaming.client.stream("Once", **terms) as stream:
        assert stream.get_final_text() == TEXT
    assert stream.job.result(RESULT_S).cached
    assert len(streaming.simulator.calls()) == calls


def test_streamed_requests_do_not_wait_for_each_others_answers(streaming: RunningTrivet) -> None:
    slow(streaming, 0.02)
    terms: dict[str, Any] = {**TERMS, "cache": True}
    with streaming.client.stream("Twice", **terms) as one, streaming.client.stream("Twice", **terms) as two:
        assert next(one.text_stream)
        assert next(two.text_stream)
        assert (one.job.state, two.job.state) == ("running", "running")
        assert one.get_final_text() == two.get_final_text() == TEXT


def test_an_entry_that_this_installation_did_not_sign_is_not_shown(streaming: RunningTrivet) -> None:
    slow(streaming, 0.01)
    redis = connect(streaming.settings.redis_url)
    forged = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"forged"}}'
    with streaming.client.stream("Tell me", **TERMS) as stream:
        text = next(stream.text_stream)
        redis.xadd(f"trivet:stream:{stream.job.id}", {"a": "f", "n": 0, "k": "events", "d": forged, "m": b"0" * 32})
        assert stream.get_final_text() == TEXT
    assert TEXT.startswith(text)


def test_only_streamed_jobs_have_a_stream_which_expires(streaming: RunningTrivet) -> None:
    redis = connect(streaming.settings.redis_url)
    plain = streaming.client.submit("Plain", **TERMS, latency="interactive")
    with streaming.client.stream("Streamed", **TERMS) as stream:
        stream.until_done()
    assert plain.result(RESULT_S).text == TEXT
    assert not redis.exists(f"trivet:stream:{plain.id}")
    assert 0 < redis.ttl(f"trivet:stream:{stream.job.id}") <= 60


def test_the_command_prints_the_text_as_it_comes(streaming: RunningTrivet, trivet: Callable[..., Said]) -> None:
    said = trivet("submit", "Tell me", "--stream", "--max-tokens", "300")
    assert said.code == 0
    assert said.out.startswith(f"{TEXT}\n")
    assert "anthropic" in said.out
    events = [orjson.loads(line) for line in trivet("submit", "Tell me", "--stream", "--json").out.splitlines()]
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
    streaming.simulator.fault("anthropic", "cut")
    broken = trivet("submit", "Tell me", "--stream")
    assert broken.code == 1
    assert TEXT.startswith(broken.out.strip())
    assert "broke off (incomplete)" in broken.err
    for wire in ROUTES:
        streaming.simulator.fault(wire, "request_too_large")
    refused = trivet("submit", "Tell me", "--stream")
    assert (refused.code, refused.out) == (1, "")
    assert "invalid" in refused.err
    assert trivet("submit", "Tell me", "--stream", "--wait").code == 2


def test_asyncio_programs_stream_alike(streaming: RunningTrivet) -> None:
    async def ask(client: AsyncClient, number: int) -> str:
        async with client.stream(f"Tell me {number}", **TERMS) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            assert await stream.get_final_text() == text
        return text

    async def ask_all() -> list[str]:
        async with AsyncClient(settings=streaming.settings) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(20)))

    assert asyncio.run(ask_all()) == [TEXT] * 20
