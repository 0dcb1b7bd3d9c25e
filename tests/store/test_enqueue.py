"""Enqueueing: keys, ranks, flows."""

import json
from typing import Any

import pytest
from tests.store.world import MODEL, ROUTE, InThread, World, spec, specs, together, until_blocked

from trivet_store.jobs.enqueue import Accepted, DirectDispatch
from trivet_store.reports import results
from trivet_tasks.errors import KeyConflict
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency


def test_a_job_is_written_whole(world: World) -> None:
    terms: dict[str, Any] = {
        "tenant": "acme",
        "tags": {"team": "legal"},
        "deadline_at": world.now() + 60,
        "residency": ("eu",),
    }
    (accepted,) = world.add(spec("hello", key="k1", **terms))
    job = world.job(accepted.id)
    assert not accepted.existed
    assert (job.state, job.claim, job.route, job.key, job.tenant) == ("waiting", 0, None, "k1", "acme")
    assert json.loads(job.tags) == {"team": "legal"}
    assert job.deadline_at == pytest.approx(terms["deadline_at"], abs=0.001)
    assert abs(job.created_at - world.now()) < 30
    (request,) = world.sql("SELECT * FROM job_requests")
    assert (request.job_id, bytes(request.body)) == (accepted.id, spec("hello").body)
    (flow,) = world.sql("SELECT * FROM flows")
    assert (flow.id, flow.latency, flow.model, flow.residency) == (job.flow_id, "batch", MODEL, '["eu"]')


def test_entries_come_back_in_order(world: World) -> None:
    accepted = world.add(*specs(30))
    bodies = {row.job_id: bytes(row.body) for row in world.sql("SELECT * FROM job_requests")}
    assert [bodies[entry.id] for entry in accepted] == [one.body for one in specs(30)]


def test_the_same_key_is_the_same_job(world: World) -> None:
    (first,) = world.add(spec("hello", key="k1"))
    again, other = world.add(spec("hello", key="k1"), spec("more", key="k2"))
    assert again == Accepted(first.id, existed=True)
    assert other.id != first.id
    assert not other.existed
    assert world.value("SELECT count(*) FROM jobs") == 2
    assert world.value("SELECT count(*) FROM job_requests") == 2


def test_requests_without_a_key_are_jobs_of_their_own(world: World) -> None:
    first, second = world.add(spec("hello"), spec("hello"))
    assert first.id != second.id


def test_another_request_under_a_taken_key_is_an_error_naming_both(world: World) -> None:
    (first,) = world.add(spec("hello", key="invoice 7"))
    with pytest.raises(KeyConflict) as caught:
        world.add(spec("unrelated"), spec("good bye", key="invoice 7"))
    assert "'invoice 7'" in str(caught.value)
    assert first.id in str(caught.value)
    assert "request 1" in str(caught.value)
    assert caught.value.field == "key"
    assert "good bye" not in str(caught.value)
    assert world.value("SELECT count(*) FROM jobs") == 1, "nothing of the group is in"


def test_one_key_twice_in_a_group(world: World) -> None:
    first, second = world.add(spec("hello", key="k1"), spec("hello", key="k1"))
    assert second == Accepted(first.id, existed=True)
    assert world.value("SELECT count(*) FROM jobs") == 1


def test_one_key_for_two_requests_of_a_group_is_an_error_naming_both(world: World) -> None:
    with pytest.raises(KeyConflict) as caught:
        world.add(spec("a"), spec("hello", key="k1"), spec("b"), spec("good bye", key="k1"))
    assert "'k1'" in str(caught.value)
    assert "request 1" in str(caught.value)
    assert "request 3" in str(caught.value)
    assert world.value("SELECT count(*) FROM jobs") == 0


def test_many_at_once_with_one_key_get_one_job(world: World) -> None:
    got: list[Accepted] = []
    together(*[lambda: got.extend(world.add(spec("hello", key="k1"))) for _ in range(6)])
    assert len({entry.id for entry in got}) == 1
    assert sorted(entry.existed for entry in got) == [False] + [True] * 5
    assert world.value("SELECT count(*) FROM jobs") == 1
    assert world.value("SELECT count(*) FROM job_requests") == 1


@pytest.mark.parametrize(("words", "commits"), [("hello", True), ("good bye", True), ("good bye", False)])
def test_two_race_for_a_key(postgres_world: World, words: str, commits: bool) -> None:
    """The second waits for the first's transaction, then takes its job, objects, or has the key to itself."""
    world = postgres_world
    # classes apart, so that it is the key they meet at
    second = spec(words, key="k1", latency=Latency.ASYNC)
    with world.store.write() as connection:
        (first,) = world.insert(connection, [spec("hello", key="k1", latency=Latency.DEFERRED)])
        thread = InThread(lambda: world.add(spec("other", latency=Latency.ASYNC), second, second))
        until_blocked(world, thread)
        if not commits:
            connection.rollback()
    if not commits:
        _, mine, again = thread.result()
        assert (mine.existed, mine.id != first.id) == (False, True)
        assert again == Accepted(mine.id, existed=True)
    elif words == "hello":
        other, mine, again = thread.result()
        assert mine == again == Accepted(first.id, existed=True)
        assert world.job(other.id).state == "waiting"
    else:
        with pytest.raises(KeyConflict, match=first.id):
            thread.result()
    assert world.value("SELECT count(*) FROM jobs") == world.value("SELECT count(*) FROM job_requests")


def test_batches_that_share_keys_in_another_order_do_not_lock_each_other_out(postgres_world: World) -> None:
    world = postgres_world
    forth = [spec(f"document {n}", key=f"k{n}") for n in range(200)]
    one, other = world.batch("one", dedupe=True), world.batch("other", dedupe=True)
    for _ in range(3):
        together(lambda: world.add(*forth, batch=one), lambda: world.add(*reversed(forth), batch=other))
        assert world.value("SELECT count(*) FROM jobs") == 200
        world.sql("DELETE FROM job_requests")
        world.sql("DELETE FROM jobs")
    assert world.progress("one").total + world.progress("other").total == 600


def test_groups_with_flows_in_another_order_do_not_lock_each_other_out(postgres_world: World) -> None:
    world = postgres_world
    models = [f"claude-{n}" for n in range(20)]
    forth = [spec(model=model, tenant="a") for model in models]
    back = [spec(model=model, tenant="b") for model in reversed(models)]
    for _ in range(5):
        together(lambda: world.add(*forth), lambda: world.add(*back))
    assert world.value("SELECT count(*) FROM flows") == 20
    assert world.value("SELECT count(*) FROM jobs") == 200


def test_a_key_belongs_to_its_tenant(world: World) -> None:
    """One word is a key of each tenant's own, and of those without one: neither a job of another's nor a conflict."""
    named = [spec("a's", key="k1", tenant="a"), spec("b's", key="k1", tenant="b"), spec("nobody's", key="k1")]
    accepted = world.add(*named)
    assert [entry.existed for entry in accepted] == [False, False, False]
    for one, entry in zip(named, accepted, strict=True):
        assert world.add(one) == [Accepted(entry.id, existed=True)]
        with world.store.read() as connection:
            found = results.job_by_key(connection, "k1", one.tenant)
        assert found is not None
        assert (found.id, found.tenant) == (entry.id, one.tenant)
    with pytest.raises(KeyConflict, match=accepted[1].id):
        world.add(spec("another", key="k1", tenant="b"))
    with world.store.read() as connection:
        assert results.job_by_key(connection, "k1", "c") is None


def test_two_batches_take_turns(world: World) -> None:
    """The second came when the first was all in: they share the claims from then on."""
    first = world.batch("first", *specs(100))
    second = world.batch("second", *specs(100))
    claimed = [world.job(job.id).batch_id for job in world.dispatch(20)]
    assert claimed.count(first.id) == 10
    assert claimed.count(second.id) == 10
    assert sorted(claimed[:2]) == sorted([first.id, second.id])


def test_claims_go_by_the_weight_of_the_class(world: World) -> None:
    world.add(*specs(100, latency=Latency.ASYNC))
    world.add(*specs(100, latency=Latency.BATCH))
    claimed = world.dispatch(50)
    ids = {job.id for job in claimed}
    by_class = {
        row.latency: row.n
        for row in world.sql(
            "SELECT f.latency, count(*) AS n FROM jobs j JOIN flows f ON f.id = j.flow_id"
            " WHERE j.state = 'dispatched' GROUP BY f.latency"
        )
    }
    assert len(ids) == 50
    assert by_class == {"batch": 40, "async": 10}, "a share of 16 against one of 4"


def test_a_tenant_counts_once_however_many_batches_it_has(world: World) -> None:
    big = [world.batch(f"big {n}", *specs(50, tenant="big")) for n in range(3)]
    small = world.batch("small", *specs(50, tenant="small"))
    claimed = [world.job(job.id).batch_id for job in world.dispatch(40)]
    assert claimed.count(small.id) == 20
    assert sum(claimed.count(batch.id) for batch in big) == 20


def test_a_newcomer_starts_at_the_line_not_before_and_not_behind_it(world: World) -> None:
    old = world.batch("old", *specs(100))
    world.dispatch(50)
    new = world.batch("new", *specs(100))
    claimed = [world.job(job.id).batch_id for job in world.dispatch(40)]
    assert 19 <= claimed.count(new.id) <= 21
    assert 19 <= claimed.count(old.id) <= 21


def test_an_idle_share_saves_nothing_up(world: World) -> None:
    world.add(spec("long ago", tenant="idle"))
    world.dispatch(1)
    busy = world.batch("busy", *specs(200, tenant="busy"))
    world.dispatch(100)
    late = world.batch("late", *specs(60, tenant="idle"))
    claimed = [world.job(job.id).batch_id for job in world.dispatch(40)]
    assert 19 <= claimed.count(late.id) <= 21
    assert 19 <= claimed.count(busy.id) <= 21


def test_realtime_is_dispatched_in_the_same_breath(world: World) -> None:
    until = world.now() + 15
    (accepted,) = world.add(spec(latency=Latency.REALTIME), direct=DirectDispatch(ROUTE, until))
    job = world.job(accepted.id)
    assert accepted.claim == 1
    assert (job.state, job.route, job.claim) == ("dispatched", ROUTE, 1)
    assert job.dispatched_until == pytest.approx(until, abs=0.001)
    assert world.dispatch() == [], "nobody else claims it"
    lease = world.lease(lane="realtime")
    (taken,) = world.take(lease, [DispatchedJob(accepted.id, 1, 1, 1)])
    assert taken.id == accepted.id


def test_realtime_under_a_known_key_is_not_sent_again(world: World) -> None:
    direct = DirectDispatch(ROUTE, world.now() + 15)
    (first,) = world.add(spec(latency=Latency.REALTIME, key="k"), direct=direct)
    (again,) = world.add(spec(latency=Latency.REALTIME, key="k"), direct=direct)
    assert again == Accepted(first.id, existed=True, claim=0)
    assert world.job(first.id).claim == 1


def test_a_delayed_job_is_not_claimed(world: World) -> None:
    later, past = world.now() + 3600, world.now() - 1
    delayed, due = world.add(spec("later", not_before=later), spec("due", not_before=past))
    assert world.job(delayed.id).state == "delayed"
    assert world.job(delayed.id).not_before == pytest.approx(later, abs=0.001)
    assert world.job(due.id).state == "waiting"
    assert [job.id for job in world.dispatch()] == [due.id]


def test_a_delayed_job_is_not_dispatched_directly(world: World) -> None:
    direct = DirectDispatch(ROUTE, world.now() + 15)
    (accepted,) = world.add(spec(latency=Latency.REALTIME, not_before=world.now() + 60), direct=direct)
    job = world.job(accepted.id)
    assert (accepted.claim, job.claim, job.state, job.route) == (0, 0, "delayed", None)


def test_a_batch_is_held_until_it_is_open(world: World) -> None:
    batch = world.batch("contracts", *specs(5), opened=False)
    assert world.dispatch() == []
    assert world.progress("contracts").state == "loading"
    world.open(batch)
    assert len(world.dispatch()) == 5


def test_a_batch_counts_only_what_is_new(world: World) -> None:
    world.add(spec("known", key="known"))
    group = spec("known", key="known"), spec("new", key="new"), spec("new", key="new")
    world.batch("deduped", *group, dedupe=True)
    world.batch("contracts", *group)
    progress = world.progress("deduped")
    assert (progress.total, progress.waiting) == (1, 1)
    assert world.progress("contracts").total == 2


def test_a_new_job_makes_its_flow_active_again(world: World) -> None:
    (first,) = world.add(spec("one"))
    flow = world.job(first.id).flow_id
    world.sql("UPDATE flows SET active = false")
    (second,) = world.add(spec("two"))
    assert world.job(second.id).flow_id == flow
    assert [job.id for job in world.dispatch()] == [first.id, second.id]
