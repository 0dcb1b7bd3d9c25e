"""Statements over many rows: what either database makes of every kind of value, and how PostgreSQL finds the rows."""

import re
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select, text
from tests.store.world import World, spec

from trivet_store import schema
from trivet_store.database import many_rows
from trivet_store.database.engine import Store
from trivet_store.database.locking import with_locks
from trivet_store.database.many_rows import RowsStatement, execute_rows
from trivet_store.database.postgres import plan_freely
from trivet_store.jobs import claiming, ending, enqueue, finishing, transitions

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


_OF_A_JOBS_WAY = {
    "requests": (claiming._REQUESTS, "job_requests_pkey"),
    "fence": (finishing._FENCE, "jobs_pkey"),
    "settle": (finishing._SETTLE, "attempts_pkey"),
    "costs": (ending._COSTS, "ix_attempts_job"),
    "keys": (enqueue._BY_KEY, "ix_jobs_key"),
    **{
        name: (statement, "jobs_pkey")
        for name, statement in vars(transitions).items()
        if isinstance(statement, RowsStatement) and "UPDATE jobs" in statement.sql
    },
}


@pytest.mark.parametrize("name", _OF_A_JOBS_WAY)
def test_a_plan_made_on_empty_tables_finds_rows_by_their_ids_when_these_have_grown(
    postgres_url: str, name: str
) -> None:
    statement, index = _OF_A_JOBS_WAY[name]
    store = Store(postgres_url)
    with closing(store), store.read() as connection:
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        rows = many_rows._of_json(statement, connection.dialect, "$1")
        locking = with_locks(statement.sql, "postgresql")
        query = re.sub(r"(?<!:):(lease_id|route|model|latency|why)\b", "'x'", locking.replace("{rows}", rows))
        query = re.sub(r"(?<!:):(probe|isolated)\b", "false", query)
        connection.exec_driver_sql("PREPARE one (text) AS " + re.sub(r"(?<!:):(now|until)\b", "1.5", query))
        plan = "\n".join(connection.exec_driver_sql("EXPLAIN EXECUTE one ('[]')").scalars())
        assert f"Index Scan using {index}" in plan or f"Index Only Scan using {index}" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "Bitmap" not in plan, plan


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
