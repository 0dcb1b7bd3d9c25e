"""No budget is overdrawn, in any order of submits, dispatches, calls, settlements, losses, rescues and raises."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from tests.store.budgeted import MOST, Budgeted, alike, budget
from tests.store.counted import check_spend
from tests.store.machines import StoreMachine, machine_settings
from tests.store.world import WAIT, finished

from trivet_store.ledger import budgets
from trivet_store.steps import ClaimedJob
from trivet_tasks.outcomes import Outcome

TEAMS: list[dict[str, Any]] = [{}, {"tags": {"team": "search"}}, {"tags": {"team": "mail"}}]


class Spending(StoreMachine):
    """One SQLite database, one dispatcher; no call is followed by another without being dispatched anew."""

    @initialize(whole=st.integers(1, 12), search=st.integers(1, 6))
    def begin(self, whole: int, search: int) -> None:
        self.open()
        self.app = Celery("test", broker="memory://", set_as_current=False)
        self.budgeted = Budgeted(self.world, self.app)
        self.budgeted.register(budget("whole", jobs=whole), budget("search", jobs=search, tag="team=search"))
        self.calls: list[tuple[str, ClaimedJob]] = []

    def teardown(self) -> None:
        if hasattr(self, "app"):
            self.app.close()
        super().teardown()

    @rule(count=st.integers(1, 6), whose=st.sampled_from(TEAMS))
    def submit(self, count: int, whose: dict[str, Any]) -> None:
        self.budgeted.add(*alike(count, **whose))

    @rule()
    def dispatch(self) -> None:
        self.budgeted.dispatcher.run_once()

    @rule()
    def take(self) -> None:
        self.calls += [(self.budgeted.lease, job) for job in self.budgeted.take()]

    @rule(which=st.integers(0, 20), share=st.integers(0, 100), how=st.sampled_from(["ends", "waits", "is cut"]))
    def settle(self, which: int, share: int, how: str) -> None:
        """Also late and doubled, at any price up to the most."""
        if not self.calls:
            return
        lease, job = self.calls[which % len(self.calls)]
        cost = str(MOST * share / 100)
        if how == "ends":
            self.world.finish(finished(job, lease, cost=cost))
        else:
            cut = how == "is cut"
            outcome = Outcome.TIMEOUT if cut else Outcome.OVERLOADED
            self.world.finish(finished(job, lease, WAIT, outcome=outcome, cost=cost, estimated=cut))

    @rule()
    def die(self) -> None:
        self.world.let_die(self.budgeted.lease)
        self.world.rescue()
        self.budgeted.lease = self.world.lease()

    @rule(name=st.sampled_from(["whole", "search"]), more=st.integers(1, 3))
    def raise_one(self, name: str, more: int) -> None:
        limit = self.budgeted.balance(name).limit
        with self.world.store.write() as connection:
            budgets.raise_limit(self.world.store, connection, name, limit + more * MOST, "me")

    @rule()
    def watch(self) -> None:
        self.budgeted.watch()

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        if not hasattr(self, "world"):
            return
        check_spend(self.world)
        for name, of in (("whole", ""), ("search", """ AND j.tags = '{"team":"search"}'""")):
            calls = self.world.sql(
                f"SELECT coalesce(sum(cost_usd), 0) AS cost FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE true{of}"
            )
            queued = self.world.value(f"SELECT count(*) FROM jobs j WHERE state = 'dispatched'{of}")
            committed = Decimal(calls[0].cost).scaleb(-12) + queued * MOST
            balance = self.budgeted.balance(name)
            assert committed <= balance.limit, name
            assert committed == balance.spent.usd + balance.reserved, name


@pytest.fixture(scope="module", autouse=True)
def _template(sqlite_template: Path) -> None:
    Spending.template = sqlite_template


Spending.TestCase.settings = machine_settings(25)
TestSpending = Spending.TestCase
