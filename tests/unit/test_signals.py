"""Signals that stop a process: one function each, earlier handlers put back, and a second request told from the first."""

import os
import signal

import pytest
from tests.timing import moved_clock

from trivet_tasks.processes import signals
from trivet_tasks.processes.signals import SAME_S, StopRequests, StopSignals, interrupt


def test_inside_each_stop_signal_calls_the_function_and_outside_none_does() -> None:
    before, calls = signal.getsignal(signal.SIGTERM), list[None]()
    with StopSignals(lambda: calls.append(None)) as handled:
        assert handled.active
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert len(calls) == 2
    assert (handled.active, signal.getsignal(signal.SIGTERM)) == (False, before)


def test_a_command_is_broken_off_as_by_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals(interrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_signal_is_a_second_request_unless_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stops = moved_clock(monkeypatch, signals), list[None]()
    requests = StopRequests(lambda: stops.append(None))
    with requests.signals:
        os.kill(os.getpid(), signal.SIGTERM)
        first = requests.first()
        clock.now = first + SAME_S
        os.kill(os.getpid(), signal.SIGTERM)
        assert not requests.again(first, 1.0), "sent to the whole group of processes"
        clock.now += 0.001
        os.kill(os.getpid(), signal.SIGTERM)
        assert requests.again(first, 1.0)
    assert len(stops) == 3


def test_work_that_has_ended_asks_but_never_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = moved_clock(monkeypatch, signals)
    requests = StopRequests(lambda: None)
    requests.end_by_itself()
    first = requests.first()
    assert first == clock.now
    clock.now += 2 * SAME_S
    requests.end_by_itself()
    assert not requests.again(first, 0.01)
