"""The outbox of callbacks: added with a job or a batch, due with its end, sent at least once."""

from decimal import Decimal
from typing import Any

import pytest
from tests.store.world import SUCCESS, World, spec, specs, statements, together

from trivet_store import retention
from trivet_store.jobs import batches, cancelling, deliveries, retrying
from trivet_store.jobs.deliveries import AppDeliveries, Delivery
from trivet_store.jobs.enqueue import BatchRef
from trivet_store.reports import callbacks
from trivet_store.steps import End
from trivet_tasks.callbacks import MAX_SIGNATURE_BYTES, Callback
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.latency import DEFAULTS
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

APP = "shop"
SIGNATURE: dict[str, Any] = {
    "task": "shop.save",
    "args": ["doc/1"],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}
ONCE = Callback("save", APP, SIGNATURE)
CONFIRMED = Callback("save", APP, SIGNATURE, confirmed=True)
FAILURE = End(JobState.FAILED, outcome=Outcome.INVALID, error="bad")


def add(world: World, callback: Callback = ONCE, **to: Any) -> bool:
    with world.store.write() as connection:
        return deliveries.add(world.store, connection, callback, **to)


def due_if_done(world: World, batch_id: int) -> None:
    with world.store.write() as connection:
        deliveries.due_if_done(world.store, connection, batch_id, "save")


def claim(world: World, app: str = APP, limit: int = 10) -> list[Delivery]:
    with world.store.write() as connection:
        return deliveries.claim_due(world.store, connection, app, limit=limit, seconds=60)


def sent(world: World, *claimed: Delivery) -> float | None:
    with world.store.write() as connection:
        return deliveries.sent(world.store, connection, APP, claimed)


def begin(world: World, job_id: str, seconds: float = 60) -> bool:
    with world.store.write() as connection:
        return deliveries.begin(world.store, connection, job_id, "save", seconds)


def confirm(world: World, job_id: str) -> None:
    with world.store.write() as connection:
        deliveries.confirm(connection, job_id, "save")


def on_their_way(world: World) -> list[AppDeliveries]:
    with world.store.read() as connection:
        return deliveries.on_their_way(connection)


def job(world: World, callback: Callback = ONCE, **terms: Any) -> str:
    (accepted,) = world.add(spec(**terms))
    assert add(world, callback, job_id=accepted.id)
    return accepted.id


def run(world: World, then: End = SUCCESS) -> None:
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch()), then)


def later(world: World, seconds: float) -> None:
    """Let time pass for all deliveries."""
    for column in ("due_at", "claimed_until", "taken_until"):
        world.sql(f"UPDATE deliveries SET {column} = {column} - :seconds", seconds=seconds)


def cancel(world: World, batch: BatchRef) -> None:
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
    with world.store.write() as connection:
        cancelling.cancel_waiting(world.store, connection, batch.id)


def retry(world: World, batch: BatchRef) -> int:
    with world.store.write() as connection:
        upto = retrying.begin_retry(connection, batch.id)
        terms: dict[str, Any] = {"classes": DEFAULTS, "after": 0, "upto": upto}
        group = retrying.retry_group(world.store, connection, batch.id, {JobState.FAILED}, **terms)
    return len(group.ids) if group else 0


def test_it_is_due_when_its_job_ends_and_says_how(world: World) -> None:
    job_id = job(world, key="doc/1", metadata='{"page":3}')
    assert claim(world) == []
    run(world)
    (one,) = claim(world)
    assert one.signature == SIGNATURE
    assert one.notice == {
        "job": job_id,
        "batch": None,
        "key": "doc/1",
        "status": "succeeded",
        "outcome": None,
        "route": "bedrock-us-east-1",
        "cost_usd": f"{Decimal(one.notice['cost_usd']):f}",
        "metadata": {"page": 3},
    }
    assert Decimal(one.notice["cost_usd"]) == Decimal("0.01")
    assert "doc/1" not in repr(one), "a log of it must not show the user's data"


@pytest.mark.parametrize("how", ["failed", "expired", "cancelled", "answered by a rescue"])
def test_it_is_due_at_every_kind_of_end(world: World, how: str) -> None:
    job_id = job(world, deadline_at=world.now() + 100)
    if how == "failed":
        run(world, FAILURE)
    elif how == "expired":
        world.sql("UPDATE jobs SET deadline_at = 1")
        world.expire()
    elif how == "cancelled":
        with world.store.write() as connection:
            assert cancelling.cancel_job(world.store, connection, job_id)
    else:
        lease = world.lease()
        world.take(lease, world.dispatch())
        world.sql("UPDATE jobs SET deadline_at = 1")
        world.let_die(lease)
        world.rescue()
        world.expire()
    (one,) = claim(world)
    assert one.notice["status"] == world.job(job_id).state


def test_one_of_a_job_that_has_ended_is_due_at_once(world: World) -> None:
    (accepted,) = world.add(spec())
    run(world)
    assert add(world, job_id=accepted.id)
    assert [one.notice["job"] for one in claim(world)] == [accepted.id]


def test_one_of_the_same_name_adds_nothing_before_and_after_it_was_sent(world: World) -> None:
    job_id = job(world)
    assert not add(world, job_id=job_id)
    run(world)
    sent(world, *claim(world))
    assert not add(world, job_id=job_id)
    assert claim(world) == []
    assert add(world, Callback("print", APP, SIGNATURE), job_id=job_id)


def test_an_end_and_a_callback_at_the_same_moment_meet(world: World) -> None:
    for number in range(8):
        (accepted,) = world.add(spec(f"document {number}"))
        lease = world.lease()
        claimed = world.take(lease, world.dispatch())
        job_id = accepted.id
        together(
            lambda lease=lease, claimed=claimed: world.end(lease, claimed),  # type: ignore[misc]
            lambda job_id=job_id: add(world, job_id=job_id),  # type: ignore[misc]
        )
        (one,) = claim(world)
        assert one.notice["job"] == job_id
        sent(world, one)


def test_jobs_without_a_callback_end_without_a_look_at_the_outbox(postgres_world: World) -> None:
    world = postgres_world
    world.batch("contracts", *specs(3))
    lease = world.lease()
    first, *rest = world.take(lease, world.dispatch())
    with statements(world.store) as seen:
        world.end(lease, [first])
    assert seen
    assert not [statement for statement, _ in seen if "deliveries" in statement]
    with statements(world.store) as seen:
        world.end(lease, rest)
    assert len([statement for statement, _ in seen if "deliveries" in statement]) == 1, "the end of the batch"


def test_two_schedulers_share_the_work(world: World) -> None:
    accepted = world.add(*specs(20))
    for one in accepted:
        add(world, job_id=one.id)
    run(world)
    found: list[list[Delivery]] = [[], []]

    def send(own: list[Delivery]) -> None:
        while claimed := claim(world, limit=3):
            own += claimed
            sent(world, *claimed)

    together(lambda: send(found[0]), lambda: send(found[1]))
    ids = [one.id for own in found for one in own]
    assert len(ids) == len(set(ids)) == 20
    assert claim(world) == []


def test_another_scheduler_sends_what_a_dead_one_claimed(world: World) -> None:
    job(world)
    run(world)
    (first,) = claim(world)
    assert claim(world) == [], "it is the first one's for a while"
    later(world, 61)
    (second,) = claim(world)
    assert second.id == first.id
    sent(world, first)
    assert on_their_way(world)[0].due == 1, "the first one's claim has run out"
    sent(world, second)
    assert on_their_way(world) == []


def test_one_to_be_confirmed_is_sent_again_more_and_more_rarely_until_it_is(world: World) -> None:
    job_id = job(world, CONFIRMED)
    run(world)
    for wait_s in (60, 120, 240):
        sent(world, *claim(world))
        later(world, wait_s - 1)
        assert claim(world) == []
        later(world, 1.5)
    world.sql("UPDATE deliveries SET sends = 1000")
    sent(world, *claim(world))
    later(world, 3_601)
    (last,) = claim(world)
    assert [one.unconfirmed for one in on_their_way(world)] == [1]
    assert begin(world, job_id)
    confirm(world, job_id)
    sent(world, last)
    later(world, 1e6)
    assert claim(world) == []
    assert on_their_way(world) == []
    assert world.value("SELECT signature FROM deliveries") == ""
    assert not add(world, CONFIRMED, job_id=job_id), "submitting once more does not send it once more"
    assert not begin(world, job_id)


def test_one_run_of_its_task_at_a_time_takes_it(world: World) -> None:
    job_id = job(world, CONFIRMED)
    assert not begin(world, job_id), "its job goes on"
    run(world)
    sent(world, *claim(world))
    assert begin(world, job_id, 300)
    assert not begin(world, job_id)
    later(world, 200)
    assert claim(world) == [], "the task runs"
    later(world, 101)
    assert begin(world, job_id), "that run has died"
    assert not begin(world, "unknown")


def test_what_a_broker_does_not_take_stays_and_the_outage_is_told_once(world: World) -> None:
    job(world)
    run(world)
    claimed = claim(world)
    for _ in range(2):
        with world.store.write() as connection:
            deliveries.postpone(world.store, connection, claimed, "no answer\x1b[31m", 30)
            deliveries.note_outage(world.store, connection, APP, "no answer")
        assert claim(world) == []
        (state,) = on_their_way(world)
        assert (state.app, state.due, state.error) == (APP, 1, "no answer")
        assert state.failing_since is not None
        later(world, 31)
        claimed = claim(world)
    assert claimed[0].failures == 2
    assert sent(world, *claimed) is not None
    assert sent(world, *claimed) is None
    told = world.events()
    assert told[0] == "callbacks wait: shop: no answer"
    assert told[1].startswith("callbacks sent: shop: its broker takes callbacks again after ")
    assert len(told) == 2
    assert on_their_way(world) == []


def test_a_report_says_how_far_each_callback_is(world: World) -> None:
    chained = Callback(
        "steps", APP, {"task": "celery.chain", "subtask_type": "chain", "kwargs": {"tasks": [SIGNATURE]}}
    )
    job_id = job(world)
    add(world, CONFIRMED, job_id=job_id)  # of the same name: adds nothing
    add(world, chained, job_id=job_id)

    def report() -> list[tuple[str, str, str, int, int, str | None]]:
        with world.store.read() as connection:
            found = callbacks.callbacks_of(connection, job_id)
        return [(one.app, one.task, one.state, one.sends, one.failures, one.error) for one in found]

    assert report() == [(APP, "shop.save", "waiting", 0, 0, None)] * 2
    run(world)
    first, second = claim(world)
    sent(world, first)
    with world.store.write() as connection:
        deliveries.postpone(world.store, connection, [second], "its broker is away", 60)
    assert report() == [
        (APP, "shop.save", "sent", 1, 0, None),
        (APP, "shop.save", "due", 0, 1, "its broker is away"),
    ]
    done = job(world, CONFIRMED, key="confirmed")
    run(world)
    sent(world, *claim(world))
    confirm(world, done)
    with world.store.read() as connection:
        (row,) = callbacks.callbacks_of(connection, done)
    assert (row.task, row.state, row.due_at) == ("shop.save", "confirmed", None), "its signature is deleted by now"


def test_applications_do_not_wait_for_each_other(world: World) -> None:
    job(world)
    other = job(world, Callback("save", "ledger", SIGNATURE), words="other")
    run(world)
    assert [one.notice["job"] for one in claim(world, "ledger")] == [other]
    with world.store.read() as connection:
        assert deliveries.any_due(world.store, connection, APP)
        assert not deliveries.any_due(world.store, connection, "ledger"), "claimed"


def test_a_batch_has_one_callback_for_all_its_jobs(world: World) -> None:
    batch = world.batch("contracts", *specs(3))
    assert add(world, batch_id=batch.id)
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    world.end(lease, jobs[:1])
    world.end(lease, jobs[1:2], FAILURE)
    assert claim(world) == []
    world.end(lease, jobs[2:])
    (one,) = claim(world)
    assert Decimal(one.notice.pop("cost_usd")) == Decimal("0.03")
    counts = {"total": 3, "succeeded": 2, "failed": 1, "expired": 0, "cancelled": 0}
    assert one.notice == {"batch": "contracts", **counts}


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_batch_that_is_cancelled_ends_once(world: World, jobs: int) -> None:
    batch = world.batch("contracts", *specs(jobs), opened=False)
    add(world, batch_id=batch.id)
    for _ in range(2):
        cancel(world, batch)
        later(world, 61)
    (one,) = claim(world)
    assert (one.notice["total"], one.notice["cancelled"]) == (jobs, jobs)
    sent(world, one)
    cancel(world, batch)
    assert claim(world) == []


def test_an_empty_batch_ends_when_it_is_complete(world: World) -> None:
    batch = world.batch("nothing", opened=False)
    add(world, batch_id=batch.id)
    assert claim(world) == []
    world.open(batch)
    sent(world, *claim(world))
    world.open(batch)
    assert claim(world) == [], "it had ended before"


def test_a_batch_whose_jobs_end_before_it_is_complete_ends_when_it_is(world: World) -> None:
    batch = world.batch("contracts", spec(deadline_at=world.now() + 100), opened=False)
    add(world, batch_id=batch.id)
    world.sql("UPDATE jobs SET deadline_at = 1")
    world.expire()
    assert claim(world) == []
    world.open(batch)
    assert [one.notice["expired"] for one in claim(world)] == [1]


def test_a_batch_that_had_ended_is_due_at_once(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    run(world)
    add(world, batch_id=batch.id)
    assert claim(world) == [], "its submit may add requests"
    due_if_done(world, batch.id)
    assert len(claim(world)) == 1
    due_if_done(world, batch.id)
    assert claim(world) == []


def test_a_batch_that_had_ended_and_gets_more_requests_is_told_of_at_its_new_end(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    run(world)
    add(world, batch_id=batch.id)
    world.batch("contracts", spec(words="one more"))
    due_if_done(world, batch.id)
    assert claim(world) == []
    run(world)
    assert [one.notice["total"] for one in claim(world)] == [2]


def test_the_end_before_a_retry_is_not_confirmed_after_it(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    (row,) = world.sql("SELECT id FROM jobs")
    add(world, CONFIRMED, job_id=row.id)
    run(world, FAILURE)
    sent(world, *claim(world))
    assert begin(world, row.id)
    retry(world, batch)
    confirm(world, row.id)
    run(world)
    assert [one.notice["status"] for one in claim(world)] == ["succeeded"]


def test_each_end_is_told_but_not_one_that_a_retry_undid_first(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    add(world, batch_id=batch.id)
    (first, _) = world.sql("SELECT id FROM jobs ORDER BY id")
    add(world, job_id=first.id)
    run(world, FAILURE)
    claimed = claim(world)
    assert len(claimed) == 2
    assert retry(world, batch) == 2
    sent(world, *claimed)
    assert claim(world) == [], "they go on"
    run(world, FAILURE)
    again = claim(world)
    assert [one.id for one in again] == [one.id for one in claimed]
    assert again[0].ended_at > claimed[0].ended_at
    sent(world, *again)
    retry(world, batch)
    run(world)
    of_batch, of_job = sorted(claim(world), key=lambda one: one.notice.get("job", ""))
    assert (of_batch.notice["succeeded"], of_job.notice["status"]) == (2, "succeeded")


def test_it_goes_with_its_job_and_its_batch(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    add(world, batch_id=batch.id)
    job(world, words="single")
    run(world)
    world.sql("UPDATE flows SET active = false")
    for _ in retention.prune(world.store, retention.Terms(world.now() + 10, world.now() + 10)):
        pass
    assert world.value("SELECT count(*) FROM jobs") == 0
    assert world.value("SELECT count(*) FROM deliveries") == 0


def test_a_batch_is_resumed_without_a_second_callback(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    assert add(world, batch_id=batch.id)
    run(world)
    with world.store.write() as connection:
        batches.begin_loading(world.store, connection, "contracts")
        assert not deliveries.add(world.store, connection, ONCE, batch_id=batch.id)
        batches.open_batch(world.store, connection, batch.id)
    sent(world, *claim(world))
    assert claim(world) == []


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (Callback("save", APP, {"task": "t", "args": [1, {2}]}), "argument 2 of the callback 'save'"),
        (Callback("save", APP, {"task": "t", "kwargs": {"when": object()}}), "keyword argument 'when'"),
        (Callback("save", APP, {"task": "t", "options": {"eta": Decimal(1)}}), "option 'eta'"),
        (Callback("save", APP, {"task": "t", "args": [float("nan")]}), "argument 1"),
        (Callback("save", APP, {"task": "t", "args": ["x" * MAX_SIGNATURE_BYTES]}), "262,144 are allowed"),
        (Callback("save", APP, {"task": "t", "args": ["a\0b"]}), "a NUL character"),
        (Callback("save", APP, {"args": []}), "no signature of a task"),
        (Callback("", APP, SIGNATURE), "1 to 200 printable characters"),
    ],
)
def test_an_unfit_signature_is_refused_without_its_data(world: World, callback: Callback, words: str) -> None:
    (accepted,) = world.add(spec())
    with pytest.raises(InvalidRequest) as refused:
        add(world, callback, job_id=accepted.id)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300
    assert world.value("SELECT count(*) FROM deliveries") == 0
