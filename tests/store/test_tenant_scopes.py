"""Reading and changing the work of one tenant alone: jobs, batches, costs, budgets."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.store.world import World, spec, specs, statements

from trivet.admin import Admin
from trivet.client.client import Client
from trivet_store.ledger import budgets
from trivet_store.reports import cost_savings, results
from trivet_store.reports.costs import Span
from trivet_tasks.config.budgets import BudgetSettings, Per
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.jobs import JobSpec
from trivet_tasks.states import JobState
from trivet_tasks.tenant_scope import TenantScope

ACME, ZETA, NOBODY = TenantScope("acme"), TenantScope("zeta"), TenantScope(None)


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    """The world's database; no server listens where the shared state should be."""
    config = tmp_path / "trivet.toml"
    config.write_text(f'[store]\nurl = "{store_url}"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    return load_settings(config)


@pytest.fixture
def admin(settings: Settings) -> Iterator[Admin]:
    """The operations API over the world's database."""
    with Admin(settings=settings) as admin:
        yield admin


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client over the world's database."""
    with Client(settings=settings) as client:
        yield client


def indexes_used(world: World, read: Callable[[Connection], object]) -> set[str]:
    """Return the indexes by which a reader finds its rows."""
    explain = "EXPLAIN" if world.store.url.startswith("postgresql") else "EXPLAIN QUERY PLAN"
    with statements(world.store) as seen, world.store.read() as connection:
        read(connection)
    with world.store.read() as connection:
        plans = [row for sql, given in seen for row in connection.exec_driver_sql(f"{explain} {sql}", given)]
    return set(re.findall(r"\b(?:ix|jobs)_\w+", " ".join(str(tuple(row)) for row in plans)))


@pytest.mark.parametrize(("scope", "index"), [(ACME, "ix_jobs_of_tenant"), (NOBODY, "ix_jobs_without_tenant")])
def test_the_jobs_of_a_scope_are_found_without_passing_those_of_others(
    world: World, scope: TenantScope, index: str
) -> None:
    world.add(*(spec(f"document {number}", tenant="zeta") for number in range(50)))
    used = indexes_used(
        world, lambda connection: results.recent_jobs(connection, state=None, batch_id=None, limit=5, scope=scope)
    )
    assert index in used
    assert "jobs_pkey" not in used


@pytest.mark.parametrize("scope", [ACME, NOBODY])
def test_savings_of_a_scope_are_read_from_cached_answers(world: World, scope: TenantScope) -> None:
    world.add(*(spec(f"document {number}", tenant="zeta") for number in range(50)))
    used = indexes_used(world, lambda connection: cost_savings.answer_savings(connection, ["day"], Span(), scope=scope))
    assert "ix_job_results_cached" in used


def test_jobs_are_those_of_the_tenant(world: World, admin: Admin, client: Client) -> None:
    (of_acme, of_zeta, of_nobody) = world.add(spec("a", tenant="acme", key="k"), spec("z", tenant="zeta"), spec("n"))
    for scope, job in ((ACME, of_acme), (ZETA, of_zeta), (NOBODY, of_nobody)):
        assert [one.id for one in admin.jobs.list(scope=scope)] == [job.id]
        assert client.job(job.id, scope=scope).id == job.id
    with pytest.raises(NotFound, match=f"No job has the id '{of_acme.id}'"):
        client.job(of_acme.id, scope=ZETA)
    with pytest.raises(NotFound, match=f"No job has the id '{of_nobody.id}'"):
        admin.jobs.life(of_nobody.id, scope=ACME)
    assert admin.jobs.by_key("k", scope=ACME).id == of_acme.id
    with pytest.raises(NotFound):
        admin.jobs.by_key("k", tenant="acme", scope=ZETA)
    assert admin.jobs.list(scope=ZETA, state=JobState.SUCCEEDED) == ()
    assert len(admin.jobs.list()) == 3


def test_a_probe_is_nobodys(world: World, client: Client) -> None:
    probe = world.probe()
    with pytest.raises(NotFound):
        client.job(probe.id, scope=NOBODY)


def test_pages_of_jobs_and_batches_follow_each_other(world: World, admin: Admin, client: Client) -> None:
    jobs = [one.id for one in world.add(*specs(5, tenant="acme"))][::-1]
    first = [job.id for job in admin.jobs.list(scope=ACME, limit=2)]
    second = [job.id for job in admin.jobs.list(scope=ACME, limit=9, before=first[-1])]
    assert first + second == jobs
    for name in ("a", "b", "c"):
        client.submit_specs([spec(name, tenant="acme")], name=name)
    client.submit_specs([spec("of zeta", tenant="zeta")], name="z")
    names = [batch.name for batch in admin.batches.list(2, scope=ACME)]
    assert names == ["c", "b"]
    assert [batch.name for batch in admin.batches.list(scope=ACME, before="b")] == ["a"]
    with pytest.raises(NotFound, match="'z'"):
        admin.batches.list(scope=ACME, before="z")


def test_a_batch_is_of_the_tenant_of_all_its_requests(admin: Admin, client: Client) -> None:
    client.submit_specs(specs(3, tenant="acme"), name="whole")
    client.submit_specs([*specs(2, tenant="acme"), spec("z", tenant="zeta")], name="two")
    client.submit_specs([spec("a", tenant="acme"), spec("n")], name="partly")
    client.submit_specs(specs(2), name="none")
    assert [batch.name for batch in admin.batches.list(scope=ACME)] == ["whole"]
    assert [batch.name for batch in admin.batches.list(scope=NOBODY)] == ["none"]
    assert admin.batches.list(scope=ZETA) == ()
    assert admin.batches.progress("whole").tenant == "acme"
    assert (admin.batches.progress("two").tenant, admin.batches.progress("two").mixed) == (None, True)
    for name in ("two", "partly", "none", "never"):
        with pytest.raises(NotFound, match=f"No batch is called '{name}'"):
            client.batch(name, scope=ACME)
        with pytest.raises(NotFound, match=f"No batch is called '{name}'"):
            admin.jobs.list(batch=name, scope=ACME)
        with pytest.raises(NotFound, match=f"No batch is called '{name}'"):
            admin.jobs.by_key("k", batch=name, scope=ACME)


def test_a_batch_is_mixed_by_a_later_group(monkeypatch: pytest.MonkeyPatch, admin: Admin, client: Client) -> None:
    monkeypatch.setattr("trivet.client.submitting.GROUP_ROWS", {"sqlite": 2, "postgresql": 2})
    client.submit_specs([*specs(4, tenant="acme"), spec("z", tenant="zeta"), *specs(2, tenant="acme")], name="late")
    assert (admin.batches.progress("late").tenant, admin.batches.progress("late").mixed) == (None, True)
    client.submit_specs(specs(5, tenant="acme"), name="even")
    assert (admin.batches.progress("even").tenant, admin.batches.progress("even").mixed) == ("acme", False)


def test_a_name_that_another_tenant_has_is_taken(client: Client) -> None:
    client.submit_specs([spec("a", tenant="acme")], name="contracts", scope=ACME)
    with pytest.raises(InvalidRequest, match="the name 'contracts' is taken"):
        client.submit_specs([spec("a", tenant="zeta")], name="contracts", scope=ZETA)
    again = client.submit_specs([spec("a", tenant="acme")], name="contracts", scope=ACME)
    assert again.progress().total == 1


def test_a_batch_that_broke_off_at_its_first_request_is_its_tenants(client: Client) -> None:
    def breaks() -> Iterator[JobSpec]:
        yield from ()
        raise InvalidRequest("messages: must not be empty.", field="messages")

    with pytest.raises(InvalidRequest, match="must not be empty"):
        client.submit_specs(breaks(), name="broken", scope=ACME)
    with pytest.raises(InvalidRequest, match="is taken"):
        client.submit_specs([spec("z", tenant="zeta")], name="broken", scope=ZETA)
    assert client.batch("broken", scope=ACME).discard() == 0


def test_costs_are_those_of_the_tenants_jobs(world: World, admin: Admin) -> None:
    world.add(*specs(2, tenant="acme"), spec("z", tenant="zeta"), spec("n"))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(4)), cost="0.10")
    probe = world.probe()
    world.end(lease, world.take(lease, [probe]), cost="5")
    assert admin.costs.report(scope=ACME).total.cost_usd == Decimal("0.2")
    assert admin.costs.report(scope=ZETA).total.cost_usd == Decimal("0.1")
    assert admin.costs.report(scope=NOBODY).total.cost_usd == Decimal("0.1"), "without Trivet's own probe"
    assert [row.group for row in admin.costs.report(["tenant"], scope=ACME).rows] == [("acme",)]
    assert admin.costs.report().total.cost_usd == Decimal("5.4")


def test_calls_without_a_price_and_savings_are_those_of_the_tenants_jobs(world: World, admin: Admin) -> None:
    world.add(spec("a", tenant="acme"), spec("z", tenant="zeta"))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(2)), cost=None)
    assert [one.calls for one in admin.costs.report(scope=ACME).unpriced] == [1]
    assert admin.costs.report(scope=NOBODY).unpriced == []
    world.sql("UPDATE job_results SET cached = true WHERE job_id IN (SELECT id FROM jobs WHERE tenant = 'acme')")
    for by in ([], ["day"], ["batch", "model"]):
        answered = admin.costs.report(by, scope=ACME).answered
        assert answered is not None
        assert (answered.hits, answered.unpriced) == (1, 1)
    assert admin.costs.report(scope=ZETA).answered is None


def test_budgets_are_the_tenants_and_the_keys_own(world: World, admin: Admin) -> None:
    scopes: dict[str, dict[str, str]] = {
        "all": {},
        "acme": {"tenant": "acme"},
        "zeta": {"tenant": "zeta"},
        "key": {"tag": "trivet_key=k"},
    }
    given = [BudgetSettings.model_validate({"name": name, "usd": 5, "per": Per.DAY, **scopes[name]}) for name in scopes]
    with world.store.write() as connection:
        budgets.register(world.store, connection, given)
    assert [one.name for one in admin.budgets.list().budgets] == ["acme", "all", "key", "zeta"]
    assert [one.name for one in admin.budgets.list(scope=ACME).budgets] == ["acme"]
    assert [one.name for one in admin.budgets.list(scope=ACME, also=["key"]).budgets] == ["acme", "key"]
    assert admin.budgets.list(scope=NOBODY).budgets == ()


def test_events_after_one_are_read_in_order(world: World, admin: Admin) -> None:
    world.register("anthropic", "vertex")
    admin.routes.drain("anthropic", by="anna", why="a test")
    first = max(one.id or 0 for one in admin.events.past(0))
    admin.routes.drain("vertex")
    (only,) = admin.events.past(first)
    assert "route='vertex'" in repr(only.what)
    texts = [event.text for event in admin.events.list(since=0) if event.kind == "route drained"]
    assert texts == ["by anna: a test", "by an operator"]
