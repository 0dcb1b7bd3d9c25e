"""The ledger against the providers' bill, while providers fail, calls get hedges, requests repeat and processes die."""

from argparse import Namespace

from tests.chaos.rounds import run_round
from tests.postgres import PostgresServer


def test_the_settled_sum_is_the_bill(chaos_database: str, chaos_postgres: PostgresServer | None, seed: int) -> None:
    args = Namespace(jobs=600, every=4.0, faults=True)
    done = run_round(1, chaos_database, chaos_postgres, seed, args)
    found = done.findings
    assert found.good, found
    assert found.ended == found.jobs == done.submitted >= args.jobs
    assert found.settled_usd == found.bill_usd > 0
    assert min(found.faults_met, found.hedges, found.cached, found.unknown) > 0, f"not everything was met: {found}"
