"""Keys of the gateway on either database: their lives, their budgets, and that no secret is in it."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import ParamSpec, TypeVar

import pytest
from sqlalchemy import select
from tests.directories import TWO_ROUTES
from tests.store.budgeted import MOST, Budgeted, alike, budget, budgeted_world
from tests.store.world import MODEL, InThread, World, spec, until_blocked

from trivet.admin import Admin, NewKey
from trivet.gateway.access import Access, Forbidden, Principal, RateLimited
from trivet_store import gateway_keys, schema
from trivet_store.cluster import registry
from trivet_store.jobs import cancelling, upkeep
from trivet_store.ledger import budgets
from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.gateway_keys import KEY_TAG, digest_of, new_token, read_budget, read_terms
from trivet_tasks.latency import Latency
from trivet_tasks.states import KeyState

ANA = "ana@build-7"
P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture
def admin(world: World, store_url: str) -> Iterator[Admin]:
    with Admin(settings=Settings.model_validate({"store": {"url": store_url}})) as admin:
        yield admin


@pytest.fixture
def budgeted(world: World) -> Iterator[Budgeted]:
    with budgeted_world(world) as made:
        yield made


def state(admin: Admin, made: NewKey) -> KeyState:
    found = admin.keys.find(made.key.id)
    assert found is not None
    return found.key.state(found.now)


def age(world: World, made: NewKey, seconds: float) -> None:
    """Let the times of a key lie so much further back."""
    with world.store.write() as connection:
        table = schema.gateway_keys
        shifted = {"created_at": table.c.created_at - seconds, "expires_at": table.c.expires_at - seconds}
        connection.execute(table.update().where(table.c.id == made.key.id).values(shifted))


def test_a_key_keeps_its_terms(admin: Admin) -> None:
    made = admin.keys.create(
        "search", tenant="acme", tags={"team": "search"}, classes=["batch", "interactive"], models=["claude-haiku-*"],
        residency=["eu"], compliance=["hipaa"], requests_per_minute=600, lives_s=3_600, by=ANA,
    )  # fmt: skip
    (kept,) = admin.keys.list().keys
    assert kept == made.key
    assert kept.terms == read_terms(
        "search", tenant="acme", tags={"team": "search"}, classes=["batch", "interactive"], models=["claude-haiku-*"],
        residency=["eu"], compliance=["hipaa"], requests_per_minute=600,
    )  # fmt: skip
    assert kept.terms.classes == (Latency.BATCH, Latency.INTERACTIVE)
    assert kept.expires_at == pytest.approx(kept.created_at + 3_600)
    assert (kept.created_by, kept.digest) == (ANA, digest_of(made.token.text))


def test_no_secret_is_in_the_database(admin: Admin, world: World) -> None:
    made = admin.keys.create("search", by=ANA)
    again = admin.keys.rotate("search", by=ANA)
    admin.keys.revoke("search", by=ANA)
    with world.store.read() as connection:
        text = " ".join(
            str(tuple(row)) for table in schema.metadata.tables.values() for row in connection.execute(select(table))
        )
    for token in (made.token, again.token):
        assert token.key_id in text
        assert token.text not in text
        assert token.text.rpartition("_")[2] not in text
        assert token.text not in f"{made} {again} {token!r}"


def test_a_name_is_one_keys_until_it_is_revoked(admin: Admin) -> None:
    admin.keys.create("search")
    with pytest.raises(InvalidRequest, match="there is a key called 'search'"):
        admin.keys.create("search")
    assert admin.keys.revoke("search")
    assert not admin.keys.revoke("search")
    assert state(admin, admin.keys.create("search")) is KeyState.ACTIVE
    with pytest.raises(NotFound, match="No key is called 'serach'"):
        admin.keys.revoke("serach")


def test_every_change_is_an_event_with_its_author(admin: Admin, world: World) -> None:
    made = admin.keys.create("search", budget="20/day", by=ANA)
    again = admin.keys.rotate("search", grace_s=60, by="ben@ops")
    admin.keys.revoke("search", by=ANA)
    assert world.events() == [
        f"key created: search ({made.key.id}) by {ANA}, $20.00 per day",
        f"key rotated: search: {again.key.id} replaces {made.key.id}, which works for 60 s more, by ben@ops",
        f"key revoked: search by {ANA}",
    ]


def test_a_rotated_key_works_for_its_grace(admin: Admin, world: World) -> None:
    old = admin.keys.create("search", tenant="acme")
    new = admin.keys.rotate("search", grace_s=60)
    assert new.key.terms == old.key.terms
    assert new.replaces is not None
    assert new.replaces.replaced_by == new.key.id
    assert (state(admin, old), state(admin, new)) == (KeyState.REPLACED, KeyState.ACTIVE)
    age(world, old, 61)
    assert (state(admin, old), state(admin, new)) == (KeyState.EXPIRED, KeyState.ACTIVE)


def test_rotation_never_lengthens_the_life_of_the_old_secret(admin: Admin) -> None:
    old = admin.keys.create("search", lives_s=60)
    new = admin.keys.rotate("search", grace_s=3_600)
    assert new.replaces is not None
    assert new.replaces.expires_at == old.key.expires_at
    assert new.key.expires_at == pytest.approx(new.key.created_at + 60)


def test_a_revocation_ends_a_grace_too(admin: Admin) -> None:
    old, new = admin.keys.create("search"), admin.keys.rotate("search")
    assert admin.keys.revoke("search")
    assert (state(admin, old), state(admin, new)) == (KeyState.REVOKED, KeyState.REVOKED)
    with pytest.raises(NotFound, match="'search', or it was revoked"):
        admin.keys.rotate("search")


def test_of_two_rotations_at_once_one_succeeds(postgres_world: World) -> None:
    store = postgres_world.store
    first, second = new_token(), new_token()
    with store.write() as connection:
        gateway_keys.create(store, connection, new_token(), read_terms("search"), by=ANA)

    def rotate() -> None:
        with store.write() as connection:
            gateway_keys.rotate(store, connection, "search", second, grace_s=0, by=ANA)

    with store.write() as connection:
        gateway_keys.rotate(store, connection, "search", first, grace_s=0, by=ANA)
        other = InThread(rotate)
        until_blocked(postgres_world, other)
    with pytest.raises(InvalidRequest, match="was changed at this moment"):
        other.result()
    with store.read() as connection:
        assert gateway_keys.newest(connection, "search").id == first.key_id


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "a b"}, "name: must be 1 to 64 letters"),
        ({"name": "x" * 65}, "name: must be 1 to 64 letters"),
        ({"tenant": "t" * 201}, "tenant: must have 1 to 200 characters"),
        ({"admin": True, "tenant": "acme"}, "an admin key sees every tenant"),
        ({"tags": {KEY_TAG: "other"}}, "tags.trivet_key: is set by Trivet"),
        ({"tags": {f"t{n}": "v" for n in range(20)}}, "at most 19 tags"),
        ({"classes": ["quick"]}, "latency: must be realtime"),
        ({"requests_per_minute": 0}, "requests_per_minute: must be from 1"),
        ({"lives_s": 0}, "lives_s: must be from 1 s"),
        ({"budget": "20/week"}, "neither an amount of USD per day or month"),
        ({"budget": "-5/day"}, "neither an amount of USD per day or month"),
        ({"budget": "NaN/day"}, "neither an amount of USD per day or month"),
    ],
)
def test_wrong_terms_are_refused(admin: Admin, wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        admin.keys.create(**{"name": "search", **wrong})  # type: ignore[arg-type]
    assert admin.keys.list().keys == ()


def test_a_budget_of_a_key_counts_its_jobs_alone_and_survives_the_files_of_schedulers(
    admin: Admin, budgeted: Budgeted
) -> None:
    admin.keys.create("search", budget=f"{MOST * 2}/day")
    budgeted.register()
    budgeted.register(budget("team", 100, tag="team=x"))
    budgeted.register()
    (shown,) = admin.budgets.list().budgets
    assert (shown.name, shown.scope, shown.limit_usd) == ("key:search", "tag trivet_key=search", MOST * 2)
    budgeted.add(*alike(5, tags={KEY_TAG: "search"}), *alike(3, tags={KEY_TAG: "other"}))
    assert budgeted.dispatched() == 2 + 3
    assert admin.budgets.raise_limit("key:search", MOST * 3).limit_usd == MOST * 3
    assert budgeted.dispatched() == 1
    with pytest.raises(InvalidRequest, match="of its key"):
        admin.budgets.raise_limit("key:search", MOST)


def test_hundreds_of_keys_may_have_budgets(world: World, budgeted: Budgeted) -> None:
    store, count = world.store, 600  # more than SQLite joins SELECTs
    with store.write() as connection:
        for number in range(count):
            own = read_budget(f"key{number}", f"{MOST * 2}/{'day' if number % 2 else 'month'}")
            assert isinstance(own, BudgetSettings)
            budgets.add_of_key(connection, own, store.now(connection))
    tagged = [spec("document 0", tags={KEY_TAG: f"key{number}"}) for number in (0, 1, 1, 1, count - 1)]
    budgeted.add(*tagged)
    assert budgeted.dispatched() == 4
    budgeted.end(budgeted.take())
    spent = {number: budgeted.balance(f"key:key{number}").spent.usd for number in (0, 1, 2, count - 1)}
    assert spent == {0: MOST, 1: MOST * 2, 2: 0, count - 1: MOST}
    assert budgeted.dispatched() == 0


def test_the_budget_of_a_revoked_key_holds_its_jobs_until_the_last_has_ended(admin: Admin, budgeted: Budgeted) -> None:
    world = budgeted.world
    admin.keys.create("search", budget=f"{MOST}/day")
    budgeted.add(*alike(2, tags={KEY_TAG: "search"}))
    assert budgeted.dispatched() == 1
    admin.keys.revoke("search")
    assert [one.name for one in admin.budgets.list().budgets] == ["key:search"]
    assert budgeted.dispatched() == 0
    budgeted.end(budgeted.take())
    (held,) = world.sql("SELECT id, flow_id FROM jobs WHERE state = 'waiting'")
    with world.store.write() as connection:
        budgets.remove_orphans(connection)
    assert [one.name for one in admin.budgets.list().budgets] == ["key:search"]
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, held.id)
        upkeep.retire_if_empty(connection, held.flow_id)
    budgeted.watch()
    assert admin.budgets.list().budgets == ()


def test_a_new_key_of_the_name_has_the_budget_that_it_was_given(admin: Admin, budgeted: Budgeted) -> None:
    admin.keys.create("search", budget=f"{MOST}/day")
    budgeted.add(*alike(2, tags={KEY_TAG: "search"}))
    admin.keys.revoke("search")
    admin.keys.create("search")
    assert admin.budgets.list().budgets == ()
    assert budgeted.dispatched() == 2


def test_a_key_may_use_a_budget_of_the_configuration_that_counts_its_jobs(admin: Admin, budgeted: Budgeted) -> None:
    budgeted.register(budget("team", tag="team=x"), budget("acme", tenant="acme"), budget("all"))
    assert admin.keys.create("a", tags={"team": "x"}, budget="team").key.terms.budget == "team"
    assert admin.keys.create("b", tenant="acme", budget="acme").key.terms.budget == "acme"
    assert admin.keys.create("c", budget="all").key.terms.budget == "all"
    with pytest.raises(InvalidRequest, match="'team' counts tag team=x, and so not all jobs of this key"):
        admin.keys.create("d", budget="team")
    with pytest.raises(NotFound, match="No budget is called 'none'"):
        admin.keys.create("d", budget="none")
    admin.keys.revoke("c")
    assert [one.name for one in admin.budgets.list().budgets] == ["acme", "all", "team"]


def test_a_budget_has_room_for_what_fits_and_says_when_its_window_turns(admin: Admin, budgeted: Budgeted) -> None:
    world = budgeted.world
    with world.store.write() as connection:
        registry.register(world.store, connection, {one.name: one.settings for one in TWO_ROUTES})
    budgeted.register(budget("all", 2))
    tokens = len("document 0")
    budgeted.add(*alike(1))
    budgeted.dispatched()
    budgeted.end(budgeted.take())
    found = admin.keys.budgets()
    assert found.shortfall("all", MODEL, tokens, 100) is None
    assert found.knows("all")
    assert not found.knows("none")
    lacks = found.shortfall("all", MODEL, tokens, 1_000)
    assert lacks is not None
    assert lacks.left_usd == MOST
    assert lacks.needs_usd is not None
    assert lacks.needs_usd > MOST
    assert lacks.window_ends_at is not None
    assert lacks.window_ends_at == world.now() // 86_400 * 86_400 + 86_400
    assert re.fullmatch(
        r"The budget all of this key has \$[\d.]+ left, and this request may cost \$[\d.]+: lower max_tokens. "
        r"It has room again at \d{4}-\d\d-\d\d 00:00:00Z.",
        lacks.words(),
    )
    budgeted.add(*alike(1))
    budgeted.dispatched()
    budgeted.end(budgeted.take())
    over = admin.keys.budgets().shortfall("all", MODEL, 1, 1)
    assert over is not None
    assert over.words().startswith("The budget all of this key is used up. It has room again at ")


def test_a_request_without_room_in_its_budget_is_refused_at_the_gateway(admin: Admin, budgeted: Budgeted) -> None:
    world = budgeted.world
    with world.store.write() as connection:
        registry.register(world.store, connection, {one.name: one.settings for one in TWO_ROUTES})
    token = admin.keys.create("search", budget="0.01/day").token.text

    async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(work, *args, **kwargs)

    async def check(max_tokens: int) -> None:
        access = Access(admin.keys, run)
        principal = await access.admit({"x-api-key": token})
        asked = {"model": MODEL, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hello"}]}
        await access.check_budget(principal, principal.bind(asked), 100)
        await access.close()

    asyncio.run(check(10))
    with pytest.raises(RateLimited, match=r"^The budget key:search of this key has \$0\.01 left, and this") as caught:
        asyncio.run(check(100_000))
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 86_400


def test_a_key_whose_budget_is_gone_is_refused_and_shown(admin: Admin, budgeted: Budgeted) -> None:
    budgeted.register(budget("team"))
    token = admin.keys.create("search", budget="team").token.text
    assert admin.keys.list().missing_budgets == frozenset()
    budgeted.register(budget("other"))

    async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(work, *args, **kwargs)

    async def ask(check: Callable[[Access, Principal], Awaitable[None]]) -> None:
        access = Access(admin.keys, run)
        try:
            await check(access, await access.admit({"x-api-key": token}))
        finally:
            await access.close()

    asked = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
    with pytest.raises(Forbidden, match="The budget team of this key is not known"):
        asyncio.run(ask(lambda access, principal: access.check_budget(principal, asked, 100)))
    with pytest.raises(Forbidden, match="The budget team of this key is not known"):
        asyncio.run(ask(lambda access, principal: access.check_budget_known(principal)))
    assert admin.keys.list().missing_budgets == {"team"}


def test_only_the_first_of_several_starts_adopts_a_key(world: World) -> None:
    store, token, other = world.store, new_token(), new_token()
    terms = read_terms("local", admin=True)
    for asked, here in ((token, True), (token, True), (other, False)):
        with store.write() as connection:
            assert gateway_keys.adopt(store, connection, asked, terms, by=ANA) is here
    with store.read() as connection:
        assert [key.id for key in gateway_keys.every(connection)] == [token.key_id]


def test_the_last_use_is_recorded_for_a_group(admin: Admin) -> None:
    one, two, three = (admin.keys.create(name) for name in ("one", "two", "three"))
    admin.keys.note_used([one.key.id, two.key.id])
    admin.keys.note_used([])
    found = admin.keys.list()
    used = {key.name: key.last_used_at for key in found.keys}
    assert used["three"] is three.key.last_used_at is None
    assert used["one"] == used["two"] == pytest.approx(found.now, abs=10)


def test_two_processes_may_adopt_the_same_key_at_once(postgres_world: World) -> None:
    store, token, terms = postgres_world.store, new_token(), read_terms("local", admin=True)

    def adopt() -> bool:
        with store.write() as connection:
            return gateway_keys.adopt(store, connection, token, terms, by=ANA)

    with store.write() as connection:
        assert gateway_keys.adopt(store, connection, token, terms, by=ANA)
        other = InThread(adopt)
        until_blocked(postgres_world, other)
    assert other.result()
