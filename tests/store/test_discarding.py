"""Discarding a batch that never was complete: it and its jobs are gone, whatever happens beside it."""

import pytest
from tests.databases import orphans
from tests.store.world import InThread, World, spec, specs, until_blocked

from trivet_store.jobs import batches, cancelling, discarding, retrying, upkeep
from trivet_store.jobs.batches import Loading
from trivet_store.jobs.enqueue import BatchRef
from trivet_tasks.errors import BatchTaken, InvalidRequest, NotFound


def test_an_unfinished_batch_is_gone_with_its_jobs_and_others_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discarding, "JOBS", 3)
    world.batch("other", spec("mine", key="k0"))
    world.batch("contracts", *(spec(f"document {n}", key=f"k{n}") for n in range(10)), opened=False)
    assert discarding.discard(world.store, "contracts") == 10
    with pytest.raises(NotFound, match="contracts"):
        world.progress("contracts")
    with pytest.raises(NotFound, match="contracts"):
        discarding.discard(world.store, "contracts")
    assert world.value("SELECT count(*) FROM jobs") == world.value("SELECT count(*) FROM job_requests") == 1
    assert world.value("SELECT count(*) FROM flows") == 1
    assert orphans(world.store) == []
    world.batch("contracts", spec("new", key="k1"))
    assert world.progress("contracts").total == 1, "name and keys are free"


def test_jobs_that_ended_without_having_run_go_too(world: World) -> None:
    world.batch("contracts", spec("late", deadline_at=2.0), *specs(3), opened=False)
    assert len(world.expire()[0]) == 1
    waiting = world.sql("SELECT id FROM jobs WHERE state = 'waiting'")[0].id
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, waiting)
    assert discarding.discard(world.store, "contracts") == 4
    assert world.value("SELECT count(*) FROM job_results") == 0
    assert orphans(world.store) == []


def test_a_batch_that_was_complete_once_is_refused(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="'contracts' was complete") as caught:
            discarding.discard(world.store, "contracts")
        assert "trivet batch cancel contracts" in caught.value.hint
        with world.store.write() as connection:  # resumed by more requests, of which one is wrong
            batches.mark_incomplete(connection, batch.id, "request 2: messages: is empty")
    assert world.progress("contracts").total == 2
    assert world.value("SELECT count(*) FROM jobs") == 2


def test_the_handle_of_a_discarded_batch_retries_nothing(world: World) -> None:
    gone = world.batch("contracts", *specs(2), opened=False)
    discarding.discard(world.store, "contracts")
    with world.store.read() as connection, pytest.raises(NotFound, match="was deleted"):
        retrying.begin_retry(connection, gone.id)


def test_jobs_that_others_may_have_joined_are_refused(world: World) -> None:
    world.batch("first", spec("one", key="k1"), opened=False, dedupe=True)
    world.batch("second", spec("one", key="k1"), dedupe=True)
    with pytest.raises(InvalidRequest, match="others may wait for its jobs") as caught:
        discarding.discard(world.store, "first")
    assert "trivet batch cancel first" in caught.value.hint
    assert world.value("SELECT count(*) FROM jobs") == 1
    world.batch("empty", opened=False, dedupe=True)
    assert discarding.discard(world.store, "empty") == 0


def test_a_discard_that_broke_off_is_gone_on_with_and_nothing_else_is_done_to_the_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = _begin(world, "contracts")
    batch = world.batch("contracts", *specs(10), opened=False)
    monkeypatch.setattr(discarding, "JOBS", 4)
    with monkeypatch.context() as patch:
        patch.setattr(discarding, "delete_jobs", _broken)
        with pytest.raises(KeyboardInterrupt):
            discarding.discard(world.store, "contracts")
    assert world.progress("contracts").state == "discarding"
    with pytest.raises(InvalidRequest, match="is being discarded"):
        _begin(world, "contracts")
    with pytest.raises(InvalidRequest, match="discarded"):
        _fill(world, loading)
    with pytest.raises(NotFound, match="discarded"):
        world.open(batch)
    with world.store.write() as connection:
        batches.mark_incomplete(connection, batch.id, "no")
        cancelling.begin_cancel(world.store, connection, batch.id)
    assert world.progress("contracts").state == "discarding"
    assert world.dispatch() == []
    assert discarding.discard(world.store, "contracts") == 10
    assert orphans(world.store) == []


def test_a_process_that_fills_a_batch_is_told_when_it_is_gone(world: World) -> None:
    """Also when another batch has begun since, which must not get its requests."""
    loading = _begin(world, "contracts")
    assert discarding.discard(world.store, "contracts") == 0
    other = _begin(world, "other")
    assert other.id != loading.id
    with pytest.raises(BatchTaken, match="'contracts' is being filled, or was cancelled or discarded") as caught:
        _fill(world, loading)
    assert caught.value.field == "name"
    with pytest.raises(NotFound, match="discarded"):
        world.open(BatchRef(loading.id, "contracts"))
    assert world.value("SELECT count(*) FROM jobs") == 0


def test_a_discard_waits_for_the_group_that_is_being_written(postgres_world: World) -> None:
    world = postgres_world
    loading = _begin(world, "contracts")
    group = specs(3)
    with world.store.write() as connection:
        world.insert(connection, group, BatchRef(loading.id, "contracts"))
        batches.advance(connection, loading, [one.fingerprint for one in group])
        thread = InThread(lambda: discarding.discard(world.store, "contracts"))
        until_blocked(world, thread)
    assert thread.result() == 3
    assert orphans(world.store) == []
    assert world.value("SELECT count(*) FROM batches") == 0


def test_a_job_that_expires_meanwhile_leaves_nothing(postgres_world: World) -> None:
    world = postgres_world
    world.batch("contracts", spec("late", deadline_at=2.0), *specs(3), opened=False)
    with world.store.write() as connection:
        assert len(upkeep.expire_late(world.store, connection)[0]) == 1
        thread = InThread(lambda: discarding.discard(world.store, "contracts"))
        until_blocked(world, thread)
    assert thread.result() == 4
    assert orphans(world.store) == []
    assert world.value("SELECT count(*) FROM job_results") == 0


def test_a_name_is_free_unless_its_batch_was_complete(world: World) -> None:
    assert _free_name(world) == "contracts"
    batch = world.batch("contracts", *specs(2), opened=False)
    assert _free_name(world) == "contracts", "it broke off"
    world.open(batch)
    assert _free_name(world) == "contracts-2"
    world.batch("contracts-2")
    cancelled = world.batch("contracts-3", opened=False)
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, cancelled.id)
    assert _free_name(world) == "contracts-4"


def _broken(*_: object) -> dict[str, int]:
    raise KeyboardInterrupt


def _begin(world: World, name: str) -> Loading:
    with world.store.write() as connection:
        return batches.begin_loading(world.store, connection, name)


def _fill(world: World, loading: Loading) -> None:
    group = specs(2)
    with world.store.write() as connection:
        world.insert(connection, group, BatchRef(loading.id, loading.name))
        batches.advance(connection, loading, [one.fingerprint for one in group])


def _free_name(world: World) -> str:
    with world.store.read() as connection:
        return batches.free_name(connection, "contracts")
