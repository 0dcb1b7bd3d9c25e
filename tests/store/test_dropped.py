"""Counters of what was dropped."""

from tests.store.world import ROUTE, World

from trivet_store import events
from trivet_store.events import Drop


def add(world: World, counts: dict[tuple[Drop, str], int]) -> None:
    with world.store.write() as connection:
        events.count_drops(world.store, connection, counts, {key: f"because of {key[0]}" for key in counts})


def test_counts_of_several_processes_are_summed_by_kind_and_route(world: World) -> None:
    began = world.now()
    add(world, {(Drop.FORGED, ROUTE): 2, (Drop.UNREADABLE, ""): 1})
    add(world, {})
    between = world.now()
    add(world, {(Drop.FORGED, ROUTE): 3})
    with world.store.read() as connection:
        forged, unreadable = events.drops(connection)
    assert (forged.kind, forged.route, forged.times) == (Drop.FORGED, ROUTE, 5)
    assert (unreadable.kind, unreadable.route, unreadable.times) == (Drop.UNREADABLE, "", 1)
    assert began - 0.01 <= forged.first_at <= between <= forged.last_at + 0.01
    assert unreadable.first_at == unreadable.last_at


def test_the_first_of_an_hour_is_an_event(world: World) -> None:
    add(world, {(Drop.FORGED, ROUTE): 2, (Drop.UNREADABLE, ""): 1})
    add(world, {(Drop.FORGED, ROUTE): 2, (Drop.ANSWER, ROUTE): 1})
    expected = ["dropped: forged: because of forged", "dropped: unreadable: because of unreadable"]
    assert world.events() == [*expected, "dropped: answer: because of answer"]
    world.sql("UPDATE dropped SET last_at = last_at - :quiet", quiet=events.QUIET_S)
    add(world, {(Drop.FORGED, ROUTE): 1})
    assert world.events()[3:] == ["dropped: forged: because of forged"]
