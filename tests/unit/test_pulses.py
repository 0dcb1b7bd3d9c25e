"""Loops that stall while the rest of their process goes on."""

import logging

import pytest
from tests.timing import MovedClock, moved_clock

from trivet_routing.liveness import monitors
from trivet_routing.liveness.monitors import Pulse, Pulses
from trivet_routing.liveness.process_impairments import BROKER, STALLED, STOPPING, ProcessImpairments


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    return moved_clock(monkeypatch, monitors)


def go_on(clock: MovedClock, pulses: Pulses, seconds: float) -> None:
    """A look each second."""
    for _ in range(int(seconds)):
        clock.now += 1
        pulses.look()


@pytest.fixture
def process_impairments() -> ProcessImpairments:
    return ProcessImpairments(logging.getLogger("trivet.test"), "no work is taken")


def test_a_loop_that_does_not_beat_is_an_impairment_until_it_does(
    clock: MovedClock, process_impairments: ProcessImpairments
) -> None:
    def text() -> str | None:
        return process_impairments.text

    pulse, changes = Pulse("Its consumer", 3.0), list[str | None]()
    watched = Pulses(process_impairments, pulse, on_change=lambda: changes.append(text()))
    go_on(clock, watched, 60)
    assert text() is None, "it was not started"
    watched.start()
    go_on(clock, watched, monitors.START_S + 3)
    assert text() is None
    go_on(clock, watched, 2)
    assert text() == "Its consumer has not moved for 5 s. If this stays, restart the process."
    pulse.beat()
    go_on(clock, watched, 1)
    assert text() is None
    assert [change is None for change in changes] == [False, True]


def test_a_process_that_was_stopped_itself_gives_its_loops_time(
    clock: MovedClock, process_impairments: ProcessImpairments
) -> None:
    pulse = Pulse("Its consumer", 3.0)
    watched = Pulses(process_impairments, pulse)
    watched.start()
    clock.now += 600
    watched.look()
    assert process_impairments.text is None
    go_on(clock, watched, 1)
    assert process_impairments.seen(STALLED, "Its consumer")


def test_a_loop_that_waits_for_a_transaction_is_not_stalled_by_itself(
    clock: MovedClock, process_impairments: ProcessImpairments
) -> None:
    waited_s = 0.0
    watched = Pulses(process_impairments, Pulse("Its dispatching", 3.0), waited_s=lambda: waited_s)
    watched.start()
    waited_s = monitors.WAITING_S + 1
    go_on(clock, watched, 60)
    assert process_impairments.text is None
    waited_s = 0.0
    go_on(clock, watched, 3)
    assert process_impairments.text is None
    go_on(clock, watched, 2)
    assert process_impairments.seen(STALLED, "Its dispatching")


@pytest.mark.parametrize("needs_broker", [True, False])
def test_who_waits_for_the_broker_is_not_blamed(
    clock: MovedClock, process_impairments: ProcessImpairments, needs_broker: bool
) -> None:
    watched = Pulses(process_impairments, Pulse("Its consumer", 3.0, needs_broker=needs_broker))
    watched.start()
    process_impairments.note(BROKER, "watch", "The broker is away.")
    go_on(clock, watched, 60)
    assert process_impairments.seen(STALLED, "Its consumer") is not needs_broker
    process_impairments.over(BROKER, "watch")
    go_on(clock, watched, monitors.RECONNECT_S + 3 + 2)
    assert process_impairments.seen(STALLED, "Its consumer"), "the broker has been back for long"


def test_a_process_that_ends_is_let_end(clock: MovedClock, process_impairments: ProcessImpairments) -> None:
    watched = Pulses(process_impairments, Pulse("Its consumer", 3.0))
    watched.start()
    process_impairments.note(STOPPING, "signal", "It is stopping.")
    go_on(clock, watched, 60)
    assert not process_impairments.seen(STALLED, "Its consumer")
