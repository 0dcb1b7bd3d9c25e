"""Calls on the event loop: each one launched ends exactly once, whatever happens to it."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import cast

import pytest
from tests.builders import ANTHROPIC, FakeCaller, call

from trivet_tasks.outcomes import Outcome
from trivet_worker.adapters.protocol import Answer, Credentials, Failure
from trivet_worker.run import calls as module
from trivet_worker.run.calls import CallResult, Calls

ENDS_WITHIN_S = 60


class OwnFault(FakeCaller):
    """A caller that breaks; a real one never should, so the SDK cannot show this."""

    async def call(self, *_: object) -> Answer | Failure:
        raise KeyError("the prompt stands in this text")


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Calls, "queue.SimpleQueue[CallResult]"]]:
    monkeypatch.setattr(module, "build_caller", lambda route: OwnFault())
    results: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
    calls = Calls({"anthropic": ANTHROPIC}, results.put)
    calls.start()
    yield calls, results
    calls.close()


def test_a_fault_in_one_routes_credentials_stops_no_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(OwnFault):
        async def credentials(self) -> Credentials:
            raise ValueError("a secret stands in this text")

        async def reach(self, timeout_s: float) -> str:
            raise ValueError("a secret stands in this text")

    callers = iter([Broken(), OwnFault()])
    monkeypatch.setattr(module, "build_caller", lambda route: next(callers))
    calls = Calls({"broken": ANTHROPIC, "well": ANTHROPIC}, lambda result: None)
    calls.start()
    found, reached = calls.credentials(), calls.reach(["broken", "well"])
    calls.close()
    assert found["well"] == Credentials()
    assert "ValueError" in found["broken"].missing
    assert "secret" not in found["broken"].missing
    assert (reached["well"], "ValueError" in reached["broken"]) == ("", True)


def test_a_call_cancelled_before_its_first_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build_caller", lambda route: OwnFault())
    results, free = queue.SimpleQueue[CallResult](), threading.Event()

    def on_result(result: CallResult) -> None:
        results.put(result)
        free.wait(ENDS_WITHIN_S)

    calls = Calls({"anthropic": ANTHROPIC}, on_result)
    calls.start()
    calls.launch([call(9)])
    results.get(timeout=ENDS_WITHIN_S)  # the loop waits now
    group = [call(number) for number in range(5)]
    calls.launch(group)
    calls.cancel([one.job.id for one in group])
    free.set()  # both in one turn of the loop
    found = [results.get(timeout=ENDS_WITHIN_S) for _ in group]
    assert {cast(Failure, result.response).outcome for result in found} == {Outcome.CANCELLED}
    assert {result.call.job.id for result in found} == {one.job.id for one in group}
    calls.close()


def test_a_fault_of_ours_ends_the_call_and_quotes_nothing(
    running: tuple[Calls, "queue.SimpleQueue[CallResult]"], caplog: pytest.LogCaptureFixture
) -> None:
    calls, results = running
    calls.launch([call(1)])
    result = results.get(timeout=ENDS_WITHIN_S)
    assert isinstance(result.response, Failure)
    assert "KeyError" in result.response.message
    assert "prompt" not in result.response.message
    assert "prompt" not in caplog.text


def test_a_prompt_is_kept_only_where_a_hedge_may_want_it(
    running: tuple[Calls, "queue.SimpleQueue[CallResult]"],
) -> None:
    calls, results = running
    single, hedged = call(1), replace(call(2), hedge_after_s=1.0)
    calls.launch([single, hedged])
    for _ in range(2):
        results.get(timeout=ENDS_WITHIN_S)
    assert (single.job.prompt.body, hedged.job.prompt.body) == (b"", b"{}")
    assert single.job.prompt.maximum_cost(Decimal(1)) == 1
