"""Batches: filling so that a break can be resumed, progress, cancelling."""

from functools import partial

import pytest
from tests.store.world import ROUTE, WAIT, InThread, World, spec, specs, together, until_blocked

from trivet_store.cluster import leases
from trivet_store.jobs import batches, cancelling, transitions
from trivet_store.jobs.batches import Loading
from trivet_store.jobs.enqueue import BatchRef
from trivet_store.reports.batch_ends import batch_ends
from trivet_tasks.errors import InvalidRequest, NotFound


def _begin(world: World, name: str) -> Loading:
    with world.store.write() as connection:
        return batches.begin_loading(world.store, connection, name)


def _cancel(world: World, batch: BatchRef) -> None:
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)


def _cancel_waiting(world: World, batch: BatchRef) -> list[str]:
    with world.store.write() as connection:
        return cancelling.cancel_waiting(world.store, connection, batch.id)


def test_a_name_is_one_batch(world: World) -> None:
    first = _begin(world, "contracts")
    assert (first.name, first.taken, first.digest) == ("contracts", 0, "")
    assert _begin(world, "contracts") == first
    assert _begin(world, "letters").id != first.id
    got: list[Loading] = []
    together(*[lambda: got.append(_begin(world, "mails")) for _ in range(4)])
    assert len({loading.id for loading in got}) == 1


def test_a_break_can_be_resumed_where_it_was(world: World) -> None:
    group = specs(3)
    loading = _begin(world, "contracts")
    prints = [one.fingerprint for one in group]
    with world.store.write() as connection:
        world.insert(connection, group, BatchRef(loading.id, "contracts"))
        after = batches.advance(connection, loading, prints)
    assert (after.taken, after.digest) == (3, batches.chain("", prints))
    assert _begin(world, "contracts") == after
    assert world.progress("contracts").taken == 3


def test_the_digest_goes_over_requests_in_order_however_grouped(world: World) -> None:
    prints = [one.fingerprint for one in specs(5)]
    whole = batches.chain("", prints)
    assert batches.chain(batches.chain("", prints[:2]), prints[2:]) == whole
    assert batches.chain("", prints[::-1]) != whole
    assert batches.chain("", prints[:4]) != whole
    assert batches.chain("", []) == ""


def test_an_incomplete_batch_does_not_run_and_says_why(world: World) -> None:
    batch = world.batch("contracts", *specs(2), opened=False)
    with world.store.write() as connection:
        batches.mark_incomplete(connection, batch.id, "line 731: messages: is empty")
    progress = world.progress("contracts")
    assert (progress.state, progress.error) == ("incomplete", "line 731: messages: is empty")
    assert not progress.done
    assert world.dispatch() == []
    world.open(batch)
    assert (world.progress("contracts").state, world.progress("contracts").error) == ("open", None)
    assert len(world.dispatch()) == 2


def test_resuming_holds_what_is_there(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    with world.store.write() as connection:
        world.insert(connection, [spec("more")], batch)
        batches.advance(connection, Loading(batch.id, "contracts", 0, ""), [spec("more").fingerprint])
    assert world.dispatch() == []
    world.open(batch)
    assert len(world.dispatch()) == 3


def test_progress_counts_what_waits_and_what_runs(world: World) -> None:
    world.batch("contracts", *specs(6))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(3))
    world.dispatch(1)
    world.end(lease, jobs[:1])
    progress = world.progress("contracts")
    assert (progress.total, progress.waiting, progress.running, progress.succeeded) == (6, 2, 3, 1)
    assert not progress.done


def test_an_empty_batch_is_done_once_it_is_open(world: World) -> None:
    batch = world.batch("nothing", opened=False)
    assert not world.progress("nothing").done
    world.open(batch)
    assert world.progress("nothing").done


def test_an_unknown_batch_is_an_error_naming_it(world: World) -> None:
    for ask in (batches.progress, batches.id_of):
        with pytest.raises(NotFound, match="'nowhere'"), world.store.read() as connection:
            ask(connection, "nowhere")


def test_the_latest_come_first(world: World) -> None:
    for number in range(3):
        world.batch(f"b{number}")
        world.sql("UPDATE batches SET created_at = :at WHERE name = :name", at=1000.0 + number, name=f"b{number}")
    with world.store.read() as connection:
        assert [progress.name for progress in batches.latest(connection, 2)] == ["b2", "b1"]
        assert batches.id_of(connection, "b1")


def test_cancelling_ends_what_waits_and_asks_what_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "BULK_ROWS", 3)
    batch = world.batch("contracts", *specs(10))
    world.batch("other", *specs(1))
    lease = world.lease()
    running = [job for job in world.take(lease, world.dispatch(3)) if job.batch_id == batch.id]
    dispatched = [job for job in world.dispatch(2) if world.job(job.id).batch_id == batch.id]
    _cancel(world, batch)
    claimed = {world.job(job.id).batch_id for job in world.dispatch(20)}
    assert batch.id not in claimed, "nothing of it is claimed any more"
    ended = []
    while got := _cancel_waiting(world, batch):
        assert len(got) <= 3
        ended += got
    assert len(ended) == 10 - len(running)
    assert all(world.job(job.id).cancel_requested for job in running)
    progress = world.progress("contracts")
    assert (progress.state, progress.cancelled, progress.running) == ("cancelled", len(ended), len(running))
    assert not progress.done
    world.end(lease, running[:1])
    world.end(lease, running[1:], WAIT)
    progress = world.progress("contracts")
    assert (progress.succeeded, progress.cancelled, progress.done) == (1, 9, True)
    assert dispatched
    assert world.take(lease, dispatched) == []
    assert world.value("SELECT count(*) FROM job_results") == 10


def test_a_job_claimed_at_the_moment_of_the_cancel_is_asked_too(world: World) -> None:
    """A dispatcher had read the flows before they were held, and claims after that."""
    batch = world.batch("contracts", *specs(2))
    ids = [row.id for row in world.sql("SELECT id FROM jobs ORDER BY id")]
    _cancel(world, batch)
    with world.store.write() as connection:
        claimed = transitions.dispatch(connection, ids[:1], ROUTE, 4e9)
    lease = world.lease()
    world.take(lease, claimed)
    with world.store.write() as connection:
        assert leases.renew(world.store, connection, lease, 1, None, 15.0).cancelled == ()
    assert _cancel_waiting(world, batch) == ids[1:]
    assert _cancel_waiting(world, batch) == []
    with world.store.write() as connection:
        assert leases.renew(world.store, connection, lease, 1, None, 15.0).cancelled == (ids[0],)


def test_cancelling_twice_does_no_harm(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    for _ in range(2):
        _cancel(world, batch)
        _cancel_waiting(world, batch)
    assert (world.progress("contracts").cancelled, world.progress("contracts").ended) == (2, 2)


def test_a_job_that_a_dispatcher_holds_is_waited_for(postgres_world: World) -> None:
    """Passed over it would stay where nobody claims or ends it."""
    world = postgres_world
    batch = world.batch("contracts", *specs(2))
    with world.store.write() as connection:
        ids = [head.id for head in world.heads(connection, 10)]
        assert len(transitions.dispatch(connection, ids, ROUTE, 4e9)) == 2
        _cancel(world, batch)
        ending = InThread(lambda: [_cancel_waiting(world, batch) for _ in range(3)])
        until_blocked(world, ending)
        assert not ending.over
    assert sum(len(group) for group in ending.result()) == 2
    assert world.progress("contracts").done


def test_cancelling_a_batch_beside_its_dispatch_ends_every_job(world: World) -> None:
    batch = world.batch("contracts", *specs(100))
    lease = world.lease()

    def work() -> None:
        while claimed := world.dispatch(10):
            world.end(lease, world.take(lease, claimed), WAIT)

    def cancel() -> None:
        _cancel(world, batch)
        while _cancel_waiting(world, batch):
            pass

    together(work, cancel)
    progress = world.progress("contracts")
    assert (progress.cancelled, progress.done) == (100, True), world.states()


def test_cancelling_one_job(world: World) -> None:
    world.batch("contracts", *specs(4))
    lease = world.lease()
    claimed = world.dispatch(2)
    (running,) = world.take(lease, claimed[:1])
    waiting = world.sql("SELECT id FROM jobs WHERE state = 'waiting'")[0].id
    with world.store.write() as connection:
        cancel = partial(cancelling.cancel_job, world.store, connection)
        assert cancel(waiting) is True
        assert cancel(claimed[1].id) is True
        assert cancel(running.id) is True
        assert cancel(waiting) is False
        assert cancel("nobody") is None
    assert (world.job(waiting).state, world.job(claimed[1].id).state) == ("cancelled", "cancelled")
    assert (world.job(running.id).state, bool(world.job(running.id).cancel_requested)) == ("running", True)
    assert world.take(lease, claimed[1:]) == []
    progress = world.progress("contracts")
    assert (progress.cancelled, progress.waiting, progress.running) == (2, 1, 1)


def test_a_cancelled_job_is_not_dispatched_directly(world: World) -> None:
    (accepted,) = world.add(spec())
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, accepted.id)
        assert transitions.dispatch(connection, [accepted.id], ROUTE, 4e9) == []


def test_two_processes_cannot_fill_one_batch_at_once(world: World) -> None:
    mine, yours = _begin(world, "contracts"), _begin(world, "contracts")
    group = specs(3)
    prints = [one.fingerprint for one in group]
    with world.store.write() as connection:
        world.insert(connection, group, BatchRef(mine.id, "contracts"))
        batches.advance(connection, mine, prints)

    def fill() -> None:
        with world.store.write() as connection:
            world.insert(connection, group, BatchRef(yours.id, "contracts"))
            batches.advance(connection, yours, prints)

    with pytest.raises(InvalidRequest, match="another process"):
        fill()
    assert (world.progress("contracts").total, world.progress("contracts").taken) == (3, 3)


def test_a_batch_cancelled_while_it_is_filled_stays_cancelled(world: World) -> None:
    loading = _begin(world, "contracts")
    batch = BatchRef(loading.id, "contracts")
    _cancel(world, batch)
    with pytest.raises(InvalidRequest, match="cancelled"), world.store.write() as connection:
        batches.advance(connection, loading, ["00" * 16])
    world.open(batch)
    assert world.progress("contracts").state == "cancelled"


def test_what_a_cancel_left_half_done_is_found(world: World) -> None:
    batch = world.batch("contracts", *specs(3))
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
    with world.store.read() as connection:
        assert cancelling.cancelled_unended(connection, 10) == [batch.id]
    with world.store.write() as connection:
        assert len(cancelling.cancel_waiting(world.store, connection, batch.id)) == 3
    with world.store.read() as connection:
        assert cancelling.cancelled_unended(connection, 10) == []


def test_each_job_of_a_batch_is_counted_once_by_its_state(world: World) -> None:
    lease = world.lease()
    contracts = world.batch("contracts", *specs(5))
    world.batch("letters", *specs(3))
    world.end(lease, world.take(lease, world.dispatch(2)))
    with world.store.read() as connection:
        ends = batch_ends(connection, contracts.id, world.now())
    assert sum(one.jobs for one in ends) == 5
    assert all(one.jobs and one.longest_s >= 0 for one in ends)
