"""Pauses and priorities: of a batch, a tenant, a class; of jobs before and after; durable, named, and without side effects."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.directories import dispatcher
from tests.store.world import InThread, World, spec, specs

from trivet.admin import Admin
from trivet_store import controls, retention
from trivet_store.controls import Control, ControlKind, Work
from trivet_store.jobs import batches, cancelling, dispatching, rescuing, separating, upkeep
from trivet_store.jobs.enqueue import BatchRef
from trivet_store.reports import backlog
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest, NotFound, SetByOperator
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency

ACME = Work(ControlKind.TENANT, "acme")
ASYNC = Work(ControlKind.CLASS, "async")


def of(batch: BatchRef) -> Work:
    return Work(ControlKind.BATCH, batch.name, batch.id)


def pause(world: World, work: Work, reason: str = "") -> bool:
    with world.store.write() as connection:
        return controls.pause(world.store, connection, work, by="ana@build-7", reason=reason)


def resume(world: World, work: Work) -> bool:
    with world.store.write() as connection:
        return controls.resume(world.store, connection, work, by="ana@build-7")


def prioritize(world: World, work: Work, priority: int) -> None:
    with world.store.write() as connection:
        controls.prioritize(world.store, connection, work, priority, by="ana@build-7")


def separate(world: World) -> int:
    """Move the jobs of controlled tenants as schedulers do. Returns their number."""
    moved = 0
    while world.due().strays:
        with world.store.write() as connection:
            moved += sum(separating.separate(connection, stray) for stray in separating.strays(connection))
    return moved


def tenants(world: World, dispatched: Sequence[DispatchedJob]) -> set[str]:
    return {world.job(job.id).tenant for job in dispatched}


def test_an_owner_undoes_nothing_that_an_operator_set(world: World) -> None:
    work = of(world.batch("contracts", *specs(3)))

    def owner(change: Callable[..., Any], *given: Any) -> Any:
        with world.store.write() as connection:
            return change(world.store, connection, work, *given, by="the key acme", owner=True)

    assert owner(controls.pause)
    assert owner(controls.resume)
    assert not owner(controls.resume)
    assert owner(controls.pause)
    assert pause(world, work)  # in place of the owner's
    assert not owner(controls.pause)
    with pytest.raises(SetByOperator, match="paused by an operator"):
        owner(controls.resume)
    assert resume(world, work)
    owner(controls.prioritize, -3)
    owner(controls.prioritize, 0)
    prioritize(world, work, -5)
    owner(controls.prioritize, -7)
    owner(controls.prioritize, -5)
    for priority in (-4, 0, 1):
        with pytest.raises(SetByOperator, match="only an operator"):
            owner(controls.prioritize, priority)
    prioritize(world, work, 0)
    owner(controls.prioritize, -1)
    owner(controls.prioritize, 0)
    with pytest.raises(SetByOperator, match="only an operator"):
        owner(controls.prioritize, 1)


def test_nothing_of_a_paused_batch_begins_until_it_is_resumed(world: World) -> None:
    contracts, other = world.batch("contracts", *specs(3)), world.batch("other", *specs(2))
    assert pause(world, of(contracts), "the prompt is wrong")
    world.add(spec("one more"), batch=contracts)
    world.open(contracts)
    assert {world.job(job.id).batch_id for job in world.dispatch()} == {other.id}
    (paused,) = world.progress("contracts").paused
    assert paused.words() == "batch contracts is paused by ana@build-7: the prompt is wrong"
    assert world.progress("other").paused == ()
    assert resume(world, of(contracts))
    assert len(world.dispatch()) == 4
    assert world.progress("contracts").paused == ()
    assert world.events() == [
        "work paused: batch contracts by ana@build-7: the prompt is wrong",
        "work resumed: batch contracts by ana@build-7",
    ]


def test_a_batch_that_is_done_is_not_paused(world: World) -> None:
    contracts = world.batch("contracts", *specs(2))
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, contracts.id)
        cancelling.cancel_waiting(world.store, connection, contracts.id)
    with pytest.raises(InvalidRequest, match="'contracts' is done: nothing of it waits"):
        pause(world, of(contracts))
    with world.store.read() as connection:
        assert controls.every(connection) == []
    assert world.events() == []


def test_a_second_pause_changes_nothing(world: World) -> None:
    assert pause(world, ASYNC, "first")
    assert not pause(world, ASYNC, "second")
    with world.store.read() as connection:
        (control,) = controls.every(connection)
    assert control.reason == "first"
    assert resume(world, ASYNC)
    assert not resume(world, ASYNC)


def test_a_paused_class_waits_and_the_others_go(world: World) -> None:
    world.add(*specs(2), *specs(3, latency=Latency.ASYNC))
    pause(world, ASYNC)
    assert len(world.dispatch()) == 2
    with world.store.read() as connection:
        rows = {row.latency: row for row in backlog.by_class(connection)}
    assert (rows["async"].waiting, rows["async"].paused, rows["async"].total) == (0, 3, 3)


def test_a_paused_tenant_waits_wherever_its_jobs_are(world: World) -> None:
    world.batch("mixed", *specs(3, tenant="acme"), *specs(3, tenant="beta"))
    world.add(*specs(2, tenant="acme"), *specs(2, tenant="beta"), spec("nobody's"))
    pause(world, ACME)
    assert separate(world) == 5
    world.add(*specs(2, tenant="acme", latency=Latency.ASYNC))
    world.batch("later", *specs(2, tenant="acme"), *specs(1, tenant="beta"))
    assert not world.due().strays, "new ones go to flows of their own"
    went = world.dispatch()
    assert len(went) == 7
    assert "acme" not in tenants(world, went)
    assert len(world.progress("mixed").paused) == len(world.progress("later").paused) == 1
    resume(world, ACME)
    assert tenants(world, world.dispatch()) == {"acme"}


def test_a_tenants_jobs_move_from_the_head_of_the_line_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = world.add(*specs(6, tenant="acme"))
    prioritize(world, ACME, -1)
    monkeypatch.setattr(separating, "MOVED_AT_ONCE", 2)
    with world.store.write() as connection:
        (stray,) = separating.strays(connection)
        assert separating.separate(connection, stray) == 2
    assert {job.id for job in world.dispatch()} == {job.id for job in jobs}
    rows = world.sql("SELECT j.id FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE f.tenant = 'acme' ORDER BY j.rank")
    assert [row.id for row in rows] == [job.id for job in jobs[:2]]


def test_a_tenants_pause_counts_for_jobs_that_are_yet_to_be_moved(world: World) -> None:
    world.add(*specs(3, tenant="acme"), *specs(3, tenant="beta"), spec("nobody's"))
    urgent = world.add(spec("soon", tenant="acme", deadline_at=world.now() + 200))
    pause(world, ACME)
    with world.store.read() as connection:
        assert not dispatching.urgent(connection, world.now() + 300, 5)
    assert tenants(world, world.dispatch()) == {"beta", None}
    resume(world, ACME)
    went = world.dispatch()
    assert tenants(world, went) == {"acme"}
    assert urgent[0].id in {job.id for job in went}


def test_only_flows_with_strays_are_found_among_thousands_of_controls(world: World) -> None:
    world.batch("mixed", *specs(2, tenant="acme"), *specs(2, tenant="beta"))
    world.add(*specs(2, tenant="acme"), spec("nobody's"))
    for number in range(50):
        prioritize(world, Work(ControlKind.TENANT, f"tenant {number}"), 1)
    assert not world.due().strays
    prioritize(world, ACME, 1)
    with world.store.read() as connection:
        found = separating.strays(connection)
    assert {stray.tenant for stray in found} == {"acme"}
    assert len({stray.flow_id for stray in found}) == 2
    separate(world)
    world.add(*specs(2, tenant="acme"))
    assert not world.due().strays


def test_a_producer_that_was_under_way_hides_no_job_from_the_pause(postgres_world: World) -> None:
    world = postgres_world
    with world.store.write() as connection:
        world.insert(connection, specs(3, tenant="acme"))
        InThread(lambda: pause(world, ACME)).result()
        assert not world.due().strays
    assert separate(world) == 3
    assert world.dispatch() == []


def test_a_cancel_and_an_open_reach_the_flows_of_a_tenant(world: World) -> None:
    batch = world.batch("mixed", *specs(2, tenant="acme"), *specs(2, tenant="beta"), opened=False)
    prioritize(world, ACME, 1)
    separate(world)
    assert world.dispatch() == [], "it is held as the batch is"
    world.open(batch)
    assert len(world.dispatch()) == 4


def test_jobs_in_queues_wait_again_and_those_that_run_end(world: World) -> None:
    lease_id, running = world.running(2, tenant="acme")
    world.add(*specs(3, tenant="acme"))
    queued = world.dispatch()
    world.add(spec("another's", tenant="beta"))
    world.dispatch()
    probe = world.probe()
    pause(world, ACME)
    separate(world)
    pause(world, Work(ControlKind.CLASS, "deferred"))
    assert world.due().paused
    with world.store.write() as connection:
        assert upkeep.recall_paused(world.store, connection) == len(queued) == 3
    assert not world.due().paused
    assert {world.job(job.id).state for job in queued} == {"waiting"}
    assert world.job(probe.id).state == "dispatched"
    assert world.take(lease_id, queued) == [], "their messages are stale"
    world.end(lease_id, running)
    assert {world.job(job.id).state for job in running} == {"succeeded"}


def test_a_pause_of_a_class_leaves_probes_alone(world: World) -> None:
    probe = world.probe()
    pause(world, Work(ControlKind.CLASS, "batch"))
    assert not world.due().paused
    assert len(world.take(world.lease(), [probe])) == 1


def test_a_job_whose_worker_died_stays_paused(world: World) -> None:
    pause(world, ACME)
    resume(world, ACME)
    prioritize(world, ACME, 2)
    lease_id, _ = world.running(2, tenant="acme")
    pause(world, ACME)
    world.let_die(lease_id)
    with world.store.write() as connection:
        held = rescuing.hold_dead(world.store, connection, ())
        assert held
        assert rescuing.rescue(world.store, connection, held).jobs == 2
    assert world.dispatch() == []
    resume(world, ACME)
    assert len(world.dispatch()) == 2


def test_paused_jobs_near_their_deadline_displace_nobody(world: World) -> None:
    now = world.now()
    world.add(*specs(50, tenant="acme", deadline_at=now + 60))
    (mine,) = world.add(spec("mine", deadline_at=now + 200))
    pause(world, ACME)
    separate(world)
    with world.store.read() as connection:
        assert [head.id for head in dispatching.urgent(connection, now + 300, 5)] == [mine.id]


def test_a_job_whose_pause_ends_while_it_expires_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = world.add(spec("late", deadline_at=world.now() + 0.001))
    pause(world, Work(ControlKind.CLASS, "batch"), "maintenance")
    monkeypatch.setattr(controls, "pauses_of_job", lambda *_: ())  # on PostgreSQL it may be resumed in between
    assert world.expire()[0] == [job.id]


def test_a_paused_job_that_expires_says_so(world: World) -> None:
    (job,) = world.add(spec("late", deadline_at=world.now() + 0.001))
    pause(world, Work(ControlKind.CLASS, "batch"), "maintenance")
    assert world.expire()[0] == [job.id]
    message = world.value("SELECT error_message FROM job_results WHERE job_id = :id", id=job.id)
    assert message.endswith("The class batch is paused: maintenance.")


def test_work_of_higher_priority_goes_first_and_by_rank_among_itself(sqlite_world: World) -> None:
    world = sqlite_world
    early, late = world.batch("early", *specs(40)), world.batch("late", *specs(40))
    low = world.batch("low", *specs(5))
    prioritize(world, of(late), 3)
    prioritize(world, of(low), -1)
    with dispatcher(world.store, slots=30) as one:
        assert one.run_once().dispatched == 45
    counts = {row.batch_id: row.n for row in world.sql(_DISPATCHED)}
    assert counts == {late.id: 40, early.id: 5}


def test_priorities_of_batch_tenant_and_class_add_up(world: World) -> None:
    batch = world.batch("mixed", *specs(1, tenant="acme", latency=Latency.ASYNC))
    for work, priority in ((of(batch), 4), (ACME, -1), (ASYNC, 2)):
        prioritize(world, work, priority)
    separate(world)
    with world.store.read() as connection:
        assert [flow.priority for flow in dispatching.flows_with_waiting(connection, 0.0)] == [5]


def test_jobs_behind_one_of_higher_priority_that_no_route_takes_are_not_kept(sqlite_world: World) -> None:
    world = sqlite_world
    far = world.batch("far", *specs(30, residency=("moon",)))
    near = world.batch("near", *specs(10))
    prioritize(world, of(far), 10)
    with dispatcher(world.store, slots=30) as one:
        one.run_once()
    assert {row.batch_id: row.n for row in world.sql(_DISPATCHED)} == {near.id: 10}


def test_work_that_goes_first_does_not_send_newcomers_to_the_end_of_the_line(sqlite_world: World) -> None:
    world = sqlite_world
    big = world.batch("big", *specs(200, tenant="big"))
    world.batch("old", *specs(200, tenant="old"))
    prioritize(world, of(big), 1)
    with dispatcher(world.store, slots=80) as one:
        assert one.run_once().dispatched == 120
    prioritize(world, of(big), 0)
    pause(world, of(big))
    new = world.batch("new", *specs(50, tenant="new"))
    claimed = [world.job(job.id).batch_id for job in world.dispatch(20)]
    assert 8 <= claimed.count(new.id) <= 12


@pytest.mark.parametrize("priority", [-11, 11])
def test_a_priority_out_of_bounds_is_refused(world: World, priority: int) -> None:
    with pytest.raises(InvalidRequest, match="from -10 to 10"):
        prioritize(world, ASYNC, priority)


def test_a_control_without_effect_is_forgotten_and_that_of_a_batch_goes_with_it(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    prioritize(world, ASYNC, 3)
    prioritize(world, ASYNC, 0)
    prioritize(world, of(batch), 2)
    lease_id = world.lease()
    world.end(lease_id, world.take(lease_id, world.dispatch()))
    world.sql("UPDATE flows SET active = :active", active=False)
    assert world.value("SELECT count(*) FROM controls") == 1
    later = world.now() + 60
    list(retention.prune(world.store, retention.Terms(later, later)))
    assert world.value("SELECT count(*) FROM batches") == world.value("SELECT count(*) FROM controls") == 0


def test_the_operations_check_what_they_are_given(world: World) -> None:
    world.batch("contracts", *specs(1))
    with Admin(settings=Settings.model_validate({"store": {"url": world.store.url}})) as admin:
        for wrong in ({}, {"batch": "contracts", "tenant": "acme"}, {"latency": "quick"}):
            given: dict[str, Any] = dict(wrong)
            with pytest.raises(InvalidRequest):
                admin.controls.pause(**given)
        with pytest.raises(NotFound):
            admin.controls.pause(batch="contract")
        assert admin.controls.pause(batch="contracts", reason="wait\nfor it", by="ana").changed
        (control,) = admin.controls.list()
        assert isinstance(control, Control)
        assert (control.kind, control.value, control.paused_by, control.reason) == (
            "batch",
            "contracts",
            "ana",
            "wait for it",
        )
        assert not admin.controls.pause(batch="contracts").changed
        world.add(spec(tenant="acme"))
        assert [admin.controls.pause(tenant=tenant).idle for tenant in ("acme", "amce")] == [False, True]
        assert [admin.controls.prioritize(1, tenant=tenant).idle for tenant in ("acme", "amce")] == [False, True]
        for tenant in ("acme", "amce"):
            admin.controls.prioritize(0, tenant=tenant)
            admin.controls.resume(tenant=tenant)
        assert admin.batches.blocked("contracts").paused
        assert admin.controls.resume(batch="contracts").changed
        assert admin.controls.list() == ()


def test_a_cancelled_batch_is_held_whatever_is_resumed(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    pause(world, of(batch))
    with world.store.write() as connection:
        batches.hold(connection, batch.id, held=True)
    resume(world, of(batch))
    assert world.dispatch() == []


_DISPATCHED = "SELECT batch_id, count(*) AS n FROM jobs WHERE state = 'dispatched' GROUP BY batch_id"
