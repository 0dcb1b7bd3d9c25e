"""Dispatching: order, claim numbers, many dispatchers at once, flows; and that its queries stay index scans."""

from collections.abc import Callable

from sqlalchemy import Connection, text
from tests.directories import dispatcher
from tests.store.world import (
    MODEL,
    OTHER_ROUTE,
    ROUTE,
    InThread,
    World,
    spec,
    specs,
    statements,
    together,
    until_blocked,
)

from trivet_store.cluster import health, leases
from trivet_store.jobs import batches, dispatching, rescuing, separating, transitions, upkeep
from trivet_store.jobs.dispatching import Outstanding
from trivet_store.jobs.enqueue import DirectDispatch
from trivet_store.reports.attempts import used_output
from trivet_store.reports.batch_ends import batch_ends
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency


def test_jobs_are_claimed_in_the_order_of_their_ranks(world: World) -> None:
    accepted = world.add(*specs(30))
    first = [job.id for job in world.dispatch(10)]
    second = [job.id for job in world.dispatch(20)]
    assert first + second == [entry.id for entry in accepted]


def test_a_claimed_job_carries_what_its_permit_needs(world: World) -> None:
    (accepted,) = world.add(spec("hello"))
    before = world.now()
    assert world.dispatch(within_s=15) == [DispatchedJob(accepted.id, 1, len("hello"), 100)]
    job = world.job(accepted.id)
    assert (job.state, job.route, job.claim) == ("dispatched", ROUTE, 1)
    assert before + 14 < job.dispatched_until < before + 15 + 30


def test_each_claim_raises_the_number(world: World) -> None:
    world.add(spec())
    for number in (1, 2, 3):
        (claimed,) = world.dispatch()
        assert claimed.claim == number
        world.give_back([claimed])


def test_a_job_no_longer_waiting_is_passed_over(world: World) -> None:
    one, two = world.add(*specs(2))
    world.dispatch(1)
    with world.store.write() as connection:
        marked = transitions.dispatch(connection, [one.id, two.id, "nobody"], OTHER_ROUTE, 4e9)
    assert [job.id for job in marked] == [two.id]
    assert (world.job(one.id).route, world.job(one.id).claim) == (ROUTE, 1)


def test_two_dispatchers_never_claim_one_job_twice(world: World) -> None:
    accepted = world.add(*specs(150))
    claimed: list[DispatchedJob] = []

    def claim_all() -> None:
        while got := world.dispatch(7):
            claimed.extend(got)

    together(claim_all, claim_all, claim_all)
    assert sorted(job.id for job in claimed) == sorted(entry.id for entry in accepted)
    assert {job.claim for job in claimed} == {1}


def test_a_claim_passes_over_rows_that_another_holds(postgres_world: World) -> None:
    world = postgres_world
    accepted = world.add(*specs(10))
    ids = [entry.id for entry in accepted]
    with world.store.write() as one, world.store.write() as other:
        first = transitions.dispatch(one, ids[:4], ROUTE, 4e9)
        second = transitions.dispatch(other, ids[2:8], ROUTE, 4e9)
    assert sorted(job.id for job in first) == ids[:4]
    assert sorted(job.id for job in second) == ids[4:8]


def test_the_heads_of_many_flows_are_each_flow_s_first(world: World) -> None:
    flows = 2 * dispatching.FLOWS_AT_ONCE + 3
    for number in range(flows):
        world.batch(f"batch-{number}", *specs(3))
    with world.store.read() as connection:
        ids = [flow.id for flow in dispatching.flows_with_waiting(connection, 0.0)]
        found = dispatching.heads(connection, ids, 2)
        whole = dispatching.heads(connection, ids, 3)
    assert len(ids) == flows
    by_flow: dict[int, list[float]] = {}
    for head in whole:
        by_flow.setdefault(head.flow_id, []).append(head.rank)
    assert all(len(ranks) == 3 for ranks in by_flow.values())
    assert sorted((head.flow_id, head.rank) for head in found) == sorted(
        (flow, rank) for flow, ranks in by_flow.items() for rank in sorted(ranks)[:2]
    )


def test_credit_is_counted_by_one_dispatcher_at_a_time(postgres_world: World) -> None:
    world = postgres_world
    world.add(*specs(3))

    def count() -> list[Outstanding]:
        with world.store.write() as connection:
            dispatching.lock(world.store, connection)
            return dispatching.outstanding(connection)

    with world.store.write() as connection:
        dispatching.lock(world.store, connection)
        ids = [head.id for head in world.heads(connection, 3)]
        transitions.dispatch(connection, ids, ROUTE, 4e9)
        other = InThread(count)
        until_blocked(world, other)
        assert not other.over
    assert [(row.route, row.jobs) for row in other.result()] == [(ROUTE, 3)]


def test_dispatched_and_running_jobs_are_outstanding(world: World) -> None:
    """Queued ones count with the tokens that they are going to ask for."""
    world.add(*[spec("x" * 10) for _ in range(10)])
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(4))
    world.dispatch(4, OTHER_ROUTE)
    world.dispatch(1)
    world.end(lease, jobs[:1])
    world.add(spec("x" * 7, latency=Latency.REALTIME), direct=DirectDispatch("vertex", 4e9))
    with world.store.read() as connection:
        found = dispatching.outstanding(connection)
    assert sorted(found) == sorted(
        [
            Outstanding(ROUTE, Latency.BATCH, MODEL, jobs=4, queued=1, input_tokens=10, output_tokens=100),
            Outstanding(OTHER_ROUTE, Latency.BATCH, MODEL, jobs=4, queued=4, input_tokens=40, output_tokens=400),
            Outstanding("vertex", Latency.REALTIME, MODEL, jobs=1, queued=1, input_tokens=7, output_tokens=100),
        ]
    )


def test_outstanding_jobs_are_counted_by_class_and_model(world: World) -> None:
    world.add(spec("a"), spec("b", model="claude-haiku-4-5"), spec("c", latency=Latency.ASYNC), spec("d"))
    world.dispatch(4)
    with world.store.read() as connection:
        found = {(row.latency, row.model): row.jobs for row in dispatching.outstanding(connection)}
    assert found == {
        (Latency.BATCH, MODEL): 2,
        (Latency.BATCH, "claude-haiku-4-5"): 1,
        (Latency.ASYNC, MODEL): 1,
    }


def test_urgent_jobs_are_those_whose_deadline_is_near(world: World) -> None:
    now = world.now()
    terms = {"later": now + 900, "soon": now + 100, "sooner": now + 50, "running": now + 10}
    ids = {name: world.add(spec(name, deadline_at=at))[0].id for name, at in terms.items()}
    world.add(spec("whenever"))
    with world.store.write() as connection:
        transitions.dispatch(connection, [ids["running"]], ROUTE, 4e9)
    with world.store.write() as connection:
        urgent = dispatching.urgent(connection, now + 300, 10)
        assert [head.id for head in urgent] == [ids["sooner"], ids["soon"]]
        assert [h.id for h in dispatching.urgent(connection, now + 300, 1)] == [ids["sooner"]]


def test_the_clock_does_not_go_back(world: World) -> None:
    with world.store.write() as connection:
        for rank in (5.0, 3.0):
            dispatching.advance_clock(connection, rank)
    assert world.value("SELECT rank FROM virtual_clock WHERE id = 1") == 5.0


def test_flows_say_what_their_jobs_need(world: World) -> None:
    one = spec(residency=("eu",), compliance=("hipaa", "soc2"), features=("files",), latency=Latency.ASYNC)
    world.add(one, spec("plain"))
    with world.store.read() as connection:
        flows = {flow.latency: flow for flow in dispatching.flows_with_waiting(connection, 0.0)}
    assert flows[Latency.ASYNC][2:9] == (MODEL, ("eu",), ("hipaa", "soc2"), ("files",), False, None, "{}")
    assert flows[Latency.BATCH][2:9] == (MODEL, (), (), (), False, None, "{}")


def _retire(world: World, flow_id: int) -> None:
    with world.store.write() as connection:
        upkeep.retire_if_empty(connection, flow_id)


def _active(world: World) -> list[int]:
    return [row.id for row in world.sql("SELECT id FROM flows WHERE active")]


def test_flows_without_a_living_job_are_found(world: World) -> None:
    lease, (job,) = world.running(1)
    world.add(spec(latency=Latency.ASYNC))
    with world.store.read() as connection:
        assert upkeep.empty_flows(connection, 10) == []
    world.end(lease, [job])
    with world.store.read() as connection:
        assert upkeep.empty_flows(connection, 10) == [world.job(job.id).flow_id]


def test_a_flow_is_retired_when_all_its_jobs_have_ended(world: World) -> None:
    lease, (job,) = world.running(1)
    flow = world.job(job.id).flow_id
    _retire(world, flow)
    assert _active(world) == [flow], "one is running and may come back"
    world.end(lease, [job])
    _retire(world, flow)
    assert _active(world) == []
    world.add(spec("again"))
    assert _active(world) == [flow]


def test_a_flow_with_delayed_jobs_only_stays_active(world: World) -> None:
    (accepted,) = world.add(spec(not_before=world.now() + 60))
    flow = world.job(accepted.id).flow_id
    _retire(world, flow)
    assert _active(world) == [flow]


def test_a_flow_is_not_retired_under_a_job_that_comes_in_meanwhile(postgres_world: World) -> None:
    world = postgres_world
    lease, (job,) = world.running(1)
    world.end(lease, [job])
    flow = world.job(job.id).flow_id
    with world.store.write() as connection:
        world.insert(connection, [spec("new")])
        retiring = InThread(lambda: _retire(world, flow))
        until_blocked(world, retiring)
    retiring.result()
    assert _active(world) == [flow]


def _fill(world: World, count: int) -> None:
    """Many jobs in every state, of them a handful each that the loops are about to find."""
    (first,) = world.add(spec("one"))
    flow = world.job(first.id).flow_id
    states = {0: "waiting", 1: "succeeded", 2: "delayed"}
    rows = [
        {
            "id": f"{n:032x}", "flow": flow, "state": states[n % 3], "rank": 1000 + n / 16, "now": 1000.0 + n,
            "ended": 2000.0 if n % 3 == 1 else None, "due": 4e9 if n % 3 == 2 else None,
            "deadline": 4e9 if n % 2 else None,
        }
        for n in range(count)
    ]  # fmt: skip
    calls = [
        {"id": f"{n:032x}", "job": f"{n % count:032x}", "lease": f"{n % 50:032x}", "at": 1000.0 + n}
        for n in range(count)
    ]
    with world.store.write() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, flow_id, fingerprint, state, rank, created_at, ended_at, not_before, deadline_at,"
                " input_estimate, max_tokens)"
                " VALUES (:id, :flow, '', :state, :rank, :now, :ended, :due, :deadline, 1, 1)"
            ),
            rows,
        )
        connection.execute(
            text(
                "INSERT INTO attempts (id, job_id, claim, round, lease_id, route, provider, model, wire_model, latency,"
                " started_at, outcome, estimated)"
                " VALUES (:id, :job, 1, 0, :lease, 'r', 'p', 'm', 'w', 'batch', :at, 'succeeded', false)"
            ),
            calls,
        )
    world.sql("ANALYZE")


def test_the_queries_of_the_loops_are_index_scans(sqlite_world: World) -> None:
    """With 20,000 jobs in the table: what runs every half second or at every heartbeat must not read them all."""
    world = sqlite_world
    _fill(world, 20_000)
    lease = world.lease()
    world.add(*specs(40))
    contracts = world.batch("contracts", *specs(20))
    world.take(lease, world.dispatch(20))
    world.dispatch(20)
    dead = world.lease(worker="dead")
    world.take(dead, world.dispatch(20))
    world.let_die(dead)
    world.add(*specs(20))
    world.dispatch(20)
    world.register(ROUTE, drained=True)
    world.register(*(f"another {n}" for n in range(20)))
    flow = world.value("SELECT flow_id FROM jobs LIMIT 1")
    loops: dict[str, Callable[[Connection], object]] = {
        "due": lambda c: upkeep.due(world.store, c),
        "empty drained": lambda c: upkeep.empty_drained(world.store, c),
        "under way": lambda c: health.under_way(c),
        "used lately": lambda c: health.used_lately(c, 4e9),
        "answers": lambda c: used_output(c, 0.0, 2_000),
        "flows": lambda c: dispatching.flows_with_waiting(c, 0.0),
        "outstanding": lambda c: dispatching.outstanding(c),
        "claim": lambda c: dispatching.heads(c, [flow], 200),
        "urgent": lambda c: dispatching.urgent(c, 4e9, 40),
        "empty flows": lambda c: upkeep.empty_flows(c, 20),
        "retire": lambda c: upkeep.retire_if_empty(c, flow),
        "wake": lambda c: upkeep.wake_delayed(world.store, c),
        "recall": lambda c: upkeep.recall_unclaimed(world.store, c),
        "rescue": lambda c: rescuing.rescue(world.store, c, "nobody"),
        "expire": lambda c: upkeep.expire_late(world.store, c),
        "heartbeat": lambda c: leases.renew(world.store, c, lease, 1, None, 15),
        "progress": lambda c: batches.progress(c, "contracts"),
        "ends": lambda c: batch_ends(c, contracts.id, 4e9),
        "recall paused": lambda c: upkeep.recall_paused(world.store, c),
        "strays": lambda c: separating.strays(c),
    }
    scans: list[str] = []
    used: dict[str, set[str]] = {}
    searched: dict[str, list[str]] = {}
    for name, loop in loops.items():
        with world.store.write() as connection, statements(world.store) as seen:
            loop(connection)
        for statement, parameters in seen:
            with world.store.read() as connection:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            for step in (row.detail for row in plan):
                searched.setdefault(name, []).append(step)
                used.setdefault(name, set()).update(word for word in step.split() if word.startswith("ix_"))
                scanned = step.split()[1] if step.startswith("SCAN") else ""
                if scanned in ("jobs", "j", "attempts", "a") and "INDEX ix_" not in step:
                    scans.append(f"{name}: {step}: {' '.join(statement.split())}")
                if "TEMP B-TREE FOR ORDER BY" in step and name in ("claim", "urgent", "wake", "expire"):
                    scans.append(f"{name}: sorts: {' '.join(statement.split())}")
    assert not scans, "\n".join(scans)
    assert used["claim"] == {"ix_jobs_flow"}
    for name in ("urgent", "expire"):
        assert used[name] - {"ix_controls_batch"} == {"ix_jobs_deadline"}, name
    assert used["wake"] == {"ix_jobs_delayed"}
    for name in ("outstanding", "recall", "rescue", "heartbeat", "progress"):
        assert "ix_jobs_outstanding" in used[name], name
    for name in ("due", "empty drained"):
        steps = [step for step in searched[name] if step.startswith("SEARCH j ")]
        assert steps, searched[name]
        assert all("INDEX ix_jobs_outstanding (route=? AND state=?)" in step for step in steps), steps
    assert used["empty drained"] == {"ix_jobs_outstanding"}
    assert used["under way"] == {"ix_attempts_unsettled"}
    assert used["answers"] == {"ix_attempts_started"}
    assert used["used lately"] == {"ix_attempts_started"}
    assert used["ends"] - {"ix_flows_batch"} == {"ix_attempts_job", "ix_jobs_batch", "ix_jobs_flow"}


def test_urgent_jobs_go_ahead_within_their_share(world: World) -> None:
    plain = world.add(*specs(60))
    now = world.now()
    urgent = [world.add(spec(f"urgent {n}", deadline_at=now + 200 - n))[0].id for n in range(20)]
    with dispatcher(world.store, slots=10) as one:
        done = one.run_once()
    claimed = {row.id for row in world.sql("SELECT id FROM jobs WHERE state = 'dispatched'")}
    assert (done.dispatched, done.more) == (15, True), "ten places and half as much again"
    assert claimed & set(urgent) == set(urgent[-3:]), "a fifth of them, the nearest deadlines"
    assert claimed - set(urgent) == {entry.id for entry in plain[:12]}


def test_an_urgent_job_does_not_send_newcomers_to_the_end_of_the_line(sqlite_world: World) -> None:
    world = sqlite_world
    world.batch("old", *specs(200, tenant="old"))
    world.add(spec("urgent", tenant="old", deadline_at=world.now() + 100))
    with dispatcher(world.store, slots=10) as one:
        one.run_once()
    new = world.batch("new", *specs(50, tenant="new"))
    claimed = [world.job(job.id).batch_id for job in world.dispatch(20)]
    assert 8 <= claimed.count(new.id) <= 12


def test_many_schedulers_send_no_more_than_the_routes_can_take(world: World) -> None:
    world.add(*specs(100))
    counts: list[int] = []

    def run() -> None:
        with dispatcher(world.store, slots=10) as one:
            counts.extend(one.run_once().dispatched for _ in range(3))

    together(run, run, run)
    assert sum(counts) == 15
    assert world.states() == {"dispatched": 15, "waiting": 85}
    outstanding = world.sql("SELECT route, count(*) AS n FROM jobs WHERE state = 'dispatched' GROUP BY route")
    assert sorted(row.n for row in outstanding) == [7, 8], "shared between equal routes"
