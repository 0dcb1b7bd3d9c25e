"""Waits that end before their job, and warnings at submit, in a running Trivet."""

import logging
import time
from typing import Any

import pytest

from trivet import ResultTimeout
from trivet.testing import RunningTrivet

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 20, "latency": "deferred"}
NOWHERE = "No route can ever take these jobs ("


def test_a_job_for_which_there_is_no_route_is_warned_of_and_a_wait_says_so(
    system: RunningTrivet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "trivet"):
        job = system.client.submit(f"Nowhere {time.time_ns()}", residency=["moon"], **TERMS)
        batch = system.client.submit_many([{"prompt": "Nowhere", "residency": ["moon"]}] * 2, **TERMS)
    try:
        for (warning,) in (job.warnings, batch.warnings):
            assert warning.startswith(NOWHERE)
            assert warning.count("lacks residency moon") == len(system.settings.routes)
        assert [message for message in caplog.messages if message.startswith(NOWHERE)] == [job.warnings[0]]
        for wait in (lambda: job.result(0.5), lambda: batch.wait(0.1), lambda: next(batch.results(0.1))):
            with pytest.raises(ResultTimeout) as caught:
                wait()
            assert caught.value.held_up
            assert caught.value.reasons[-1].startswith(NOWHERE)
            assert "It goes on" not in str(caught.value)
        held = system.admin.batches.blocked(batch.name)
        assert (held.notes[-1], held.reasons) == (batch.warnings[0], ()), "each reason once"
    finally:
        job.cancel()
        batch.cancel()


def test_a_job_at_its_provider_is_said_to_run(system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "hang")
    job = system.client.submit(f"Slow {time.time_ns()}", **TERMS)
    system.simulator.wait_for_calls(1, timeout=60, of="started")
    with pytest.raises(ResultTimeout) as caught:
        job.result(0.1)
    assert not caught.value.held_up
    assert caught.value.hint.startswith("It runs on ")
    job.cancel()
