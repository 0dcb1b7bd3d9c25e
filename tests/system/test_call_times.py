"""Long answers get the time that they need; somebody who waits is served without a hard limit of seconds."""

from typing import Any

import pytest

from trivet.testing import RunningTrivet

PROVIDERS = ("anthropic", "bedrock", "vertex")
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 4_096}
LENGTHS = (100, 1_000, 3_000)
EACH = 20
LONGEST_S = 17.0
"""Time of the longest answer: more than the 15 s that the class gives a short one."""


@pytest.mark.parametrize("running", ["sqlite"], indirect=True)
def test_long_answers_of_a_batch_are_paid_once(system: RunningTrivet) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=0.05, per_output_token_s=LONGEST_S / max(LENGTHS))
    for tokens in LENGTHS:
        system.reply("word " * tokens, contains=f"in {tokens} words")
    requests = [{"prompt": f"{n}: in {tokens} words"} for n in range(EACH) for tokens in LENGTHS]
    results = list(system.client.submit_many(requests, **TERMS).results(timeout=180))
    assert {result.status for result in results} == {"succeeded"}
    assert [len(result.attempts) for result in results] == [1] * len(requests)
    assert max(result.attempts[0].latency_s or 0 for result in results) > 15


def test_an_interactive_job_gets_an_ordinary_answer(system: RunningTrivet) -> None:
    job = system.client.submit("Explain.", latency="interactive", **TERMS)
    result = job.result(timeout=60)
    assert (result.status, len(result.attempts)) == ("succeeded", 1)


def test_an_interactive_job_waits_for_a_route_instead_of_failing(system: RunningTrivet) -> None:
    for provider in PROVIDERS:
        system.simulator.fault(provider, "rate_limited", for_s=3, retry_after_s=3)
    result = system.client.submit("Explain.", latency="interactive", **TERMS).result(timeout=60)
    assert result.status == "succeeded", result.error
    assert {attempt.outcome for attempt in result.attempts} == {"rate_limited", "succeeded"}
