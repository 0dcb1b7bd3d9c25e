"""A whole run through PgBouncer in transaction mode, which is killed and started again in the middle."""

from pathlib import Path

from tests.chaos.outages import Outages
from tests.postgres import PostgresServer
from tests.servers.pgbouncer import PgBouncer
from tests.timing import until

from trivet.testing import running_trivet

JOBS = 300
SECTIONS: dict[str, dict[str, object]] = {
    "classes.batch": {"budget_s": 240, "attempt_timeout_s": 120},
    "health": {"probe_interval_s": 1.0},
    "store": {"pool_size": 4, "max_overflow": 4},
}


def test_no_job_is_lost_and_none_is_paid_twice(
    pgbouncer: PgBouncer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    sections = SECTIONS | {"store": {"url": pgbouncer.url, **SECTIONS["store"]}}
    latency = ("--latency-median", "1.0", "--seed", "1")
    with running_trivet(tmp_path, store_url=pgbouncer.url, workers=1, simulator=latency, sections=sections) as trivet:
        outages = Outages(trivet, tmp_path, postgres_server)
        trivet.client.submit_many(
            [{"prompt": f"Page {number}"} for number in range(JOBS)], name="pooled", model="claude-haiku-4-5", max_tokens=40,
            latency="batch", cache=False,
        )  # fmt: skip
        for _ in range(2):
            until(outages.under_way, "calls at the providers")
            done = outages.states("pooled")["succeeded"]
            pgbouncer.kill()
            until(lambda: not outages.under_way(), "answers that nobody can write down")
            pgbouncer.start()

            def goes_on(done: int = done) -> bool:
                return outages.states("pooled")["succeeded"] > done

            until(goes_on, "work to go on")
        until(lambda: outages.states("pooled")["succeeded"] == JOBS, "the end of all jobs", 240)
        outages.audit()
        assert len([call for call in trivet.simulator.calls() if call.attempt]) == JOBS
    for log in (tmp_path / ".trivet" / "logs").glob("*.log"):
        said = log.read_text(encoding="utf-8")
        assert "prepared statement" not in said, log.name
        assert "could not be recorded" not in said, log.name
