"""Statements over many rows: what either database makes of every kind of value, and how PostgreSQL finds the rows."""

import re
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

from sqlalchemy import Connection, select, text
from tests.store.world import WAIT, World, finished, go_on, spec, specs, statements

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.many_rows import RowsStatement, execute_rows
from trivet_store.database.postgres import plan_freely

_ADD = RowsStatement(
    schema.batches,
    """
    INSERT INTO batches (id, name, state, created_at, error, cost_usd)
    SELECT r.id, r.name, r.state, r.created_at, r.error, r.cost_usd FROM {rows} WHERE true
    ON CONFLICT (name) DO NOTHING
    """,
)
_SET = RowsStatement(
    schema.batches, "UPDATE batches SET seq = batches.seq + r.seq, error = r.error FROM {rows} WHERE batches.id = r.id"
)


def _row(number: int, **values: object) -> dict[str, object]:
    return {
        "id": number,
        "name": f"b{number}",
        "state": "open",
        "created_at": 1.5,
        "error": None,
        "cost_usd": Decimal(0),
        **values,
    }


def test_every_kind_of_value_arrives_as_it_was(world: World) -> None:
    words = "quotes \" ' \\ \\u0000 100 % :id r.id {rows} é ☂ 😀\n\t"
    exact = Decimal("0.000000000001")
    with world.store.write() as connection:
        execute_rows(connection, _ADD, [_row(1, error=words, cost_usd=exact, created_at=1e-7), _row(2, unused=b"\xff")])
    with world.store.read() as connection:
        first, second = connection.execute(select(schema.batches).order_by(schema.batches.c.id)).all()
    assert (first.error, first.cost_usd, first.created_at) == (words, exact, 1e-7)
    assert (second.error, second.cost_usd, second.state) == (None, Decimal(0), "open")


def test_a_conflict_leaves_the_row_that_was_there(world: World) -> None:
    with world.store.write() as connection:
        execute_rows(connection, _ADD, [_row(1), _row(2)])
        execute_rows(connection, _ADD, [_row(3, name="b2", state="loading"), _row(4)])
        names = connection.execute(
            select(schema.batches.c.id, schema.batches.c.name).order_by(schema.batches.c.id)
        ).all()
    assert [tuple(row) for row in names] == [(1, "b1"), (2, "b2"), (4, "b4")]


def test_an_update_reads_the_row_it_changes(world: World) -> None:
    with world.store.write() as connection:
        execute_rows(connection, _ADD, [_row(1), _row(2), _row(3)])
        for _ in range(2):
            execute_rows(connection, _SET, [{"id": 1, "seq": 5, "error": None}, {"id": 3, "seq": 7, "error": "x"}])
        found = connection.execute(select(schema.batches.c.seq, schema.batches.c.error).order_by(schema.batches.c.id))
        assert [tuple(row) for row in found] == [(10, None), (0, None), (14, "x")]


def test_bytes_of_a_document_arrive_as_bytes(world: World) -> None:
    body = '{"text": "\\u0000 \\ud800 \u2602 \\\\ \\" %s"}'.encode()
    (job,) = world.add(replace(spec(), body=body))
    with world.store.read() as connection:
        found = connection.execute(select(schema.job_requests.c.body).where(schema.job_requests.c.job_id == job.id))
        assert bytes(found.scalar_one()) == body


def test_no_rows_are_no_statement(world: World) -> None:
    with world.store.read() as connection:
        pass
    execute_rows(connection, _ADD, [])  # closed, it would refuse one


def _on_a_jobs_way(world: World) -> list[str]:
    """Statements over many rows of jobs that are accepted, claimed, given back, and end or go on."""
    with statements(world.store) as seen:
        world.add(spec("keyed", key="a key"), *specs(4))
        world.give_back(world.dispatch(1))
        lease = world.lease()
        ended, failed, limited, _ = world.take(lease, world.dispatch(4))
        world.finish(finished(ended, lease), finished(failed, lease, go_on()), finished(limited, lease, WAIT))
    return sorted({sql for sql, _ in seen if "json_to_recordset" in sql})


def _plan(connection: Connection, statement: str) -> str:
    """Return the plan that PostgreSQL makes before it knows the values."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    query = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement).replace("%%", "%")
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN (GENERIC_PLAN) {query}").scalars())


def test_a_plan_made_on_empty_tables_finds_rows_by_their_ids_when_these_have_grown(postgres_world: World) -> None:
    found = _on_a_jobs_way(postgres_world)
    assert len(found) >= 12
    with postgres_world.store.read() as connection:
        plans = [_plan(connection, statement) for statement in found]
    for plan in plans:
        assert "Seq Scan" not in plan, plan
        assert "Bitmap" not in plan, plan
    used = set(re.findall(r"Index (?:Only )?Scan using (\w+)", "\n".join(plans)))
    assert used >= {"jobs_pkey", "job_requests_pkey", "attempts_pkey", "ix_attempts_job", "ix_jobs_key"}


def test_sqlite_finds_jobs_by_their_keys_without_reading_all(sqlite_world: World) -> None:
    with statements(sqlite_world.store) as seen:
        sqlite_world.add(spec("keyed", key="a key"))
    (found,) = {sql for sql, _ in seen if "key_owner" in sql and "json_each" in sql}
    with sqlite_world.store.read() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {found}", ("[]",))]
    assert "SEARCH jobs USING INDEX ix_jobs_key (key=? AND key_owner=?)" in plan


def test_a_report_may_read_whole_tables(postgres_url: str) -> None:
    store = Store(postgres_url)
    with closing(store), store.read() as connection:
        explain = "EXPLAIN SELECT count(*) FROM attempts WHERE cost_usd > 0"
        allowed = connection.execute(text("SHOW enable_seqscan")).scalar()
        plan_freely(connection)
        assert (allowed, connection.execute(text("SHOW enable_seqscan")).scalar()) == ("off", "on")
        assert "Seq Scan on attempts" in "\n".join(connection.exec_driver_sql(explain).scalars())
    with closing(store), store.read() as connection:
        assert connection.execute(text("SHOW enable_seqscan")).scalar() == "off", "only in that transaction"
