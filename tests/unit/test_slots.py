"""The slots of a worker process."""

import random
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from trivet_worker.run.process_state import Slots


def test_as_many_as_are_free_are_given() -> None:
    slots = Slots(10)
    assert slots.take(4, 0) == 4
    assert slots.take(9, 0) == 6
    assert (slots.in_use, slots.take(1, 0)) == (10, 0)
    slots.give(3)
    assert slots.in_use == 7
    assert slots.take(5, 0) == 3
    slots.give(0)
    assert slots.in_use == 10


def test_a_full_process_is_waited_for_no_longer_than_asked() -> None:
    slots = Slots(1)
    slots.take(1, 0)
    began = time.monotonic()
    assert slots.take(1, 0.05) == 0
    assert time.monotonic() - began >= 0.05


def test_a_place_that_comes_free_wakes_who_waits() -> None:
    slots = Slots(1)
    slots.take(1, 0)
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(slots.take(5, 30)))
    waiting.start()
    slots.give(1)
    waiting.join(30)
    assert got == [1]


def test_many_threads_never_have_more_than_there_are() -> None:
    slots, held, lock = Slots(7), 0, threading.Lock()
    most = 0

    def work(seed: int) -> None:
        nonlocal held, most
        draw = random.Random(seed)
        for _ in range(300):
            got = slots.take(draw.randint(1, 4), 10)
            assert got
            with lock:
                held += got
                most = max(most, held)
            with lock:
                held -= got
            slots.give(got)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 0 < most <= 7
    assert slots.in_use == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_what_is_taken_and_what_is_free_make_the_whole(steps: list[tuple[bool, int]]) -> None:
    slots, held = Slots(10), 0
    for claiming, count in steps:
        if claiming:
            got = slots.take(count, 0)
            assert got == min(count, 10 - held)
            held += got
        else:
            back = min(count, held)
            slots.give(back)
            held -= back
        assert slots.in_use == held
