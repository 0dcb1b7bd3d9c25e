"""Authentication at the gateway: whose a request is, for how long that is remembered, and what a key fixes in it."""

import asyncio
import threading
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.admin import FoundKey, GatewayKey, KeyBudgets
from trivet.gateway.access import KEPT_S, Access, Forbidden, Principal, RateLimited, Unauthenticated
from trivet_routing.budget_headroom import Balance
from trivet_store.ledger.budgets import BudgetRow
from trivet_store.ledger.spending import Spent
from trivet_tasks.config.budgets import BudgetSettings, window
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest, StoreUnavailable
from trivet_tasks.gateway_keys import KEY_TAG, Token, digest_of, new_token, read_budget, read_terms
from trivet_tasks.latency import Latency
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.requests.reading import parse_request
from trivet_tasks.states import BudgetState

P = ParamSpec("P")
T = TypeVar("T")
NOW = 1_800_000_000.0


class Keys:
    """Keys in memory, as the operations API would find them, and what was asked of them."""

    def __init__(self) -> None:
        self.rows: dict[str, GatewayKey] = {}
        self.looked_up: list[str] = []
        self.counted: list[tuple[str, int]] = []
        self.noted: list[set[str]] = []
        self.budgets_read = 0
        self.wait_s = 0.0
        self.clock = 0.0
        self.away = False
        self.on_noted: Callable[[], object] = lambda: None

    def add(self, name: str = "search", *, expires_at: float | None = None, **terms: Any) -> Token:
        token = new_token()
        self.rows[token.key_id] = GatewayKey(
            token.key_id, digest_of(token.text), read_terms(name, **terms), NOW, "ana", expires_at, None, None, None
        )
        return token

    def change(self, token: Token, **fields: Any) -> None:
        row = self.rows[token.key_id]
        kept = {name: getattr(row, name) for name in GatewayKey.__slots__}
        self.rows[token.key_id] = GatewayKey(**{**kept, **fields})

    def find(self, key_id: str) -> FoundKey | None:
        if self.away:
            raise StoreUnavailable("The database is away.")
        self.looked_up.append(key_id)
        row = self.rows.get(key_id)
        return None if row is None else FoundKey(row, NOW + self.clock)

    def take_request(self, name: str, per_minute: int) -> float:
        self.counted.append((name, per_minute))
        return self.wait_s

    def note_used(self, key_ids: Collection[str]) -> None:
        if self.away:
            raise StoreUnavailable("The database is away.")
        self.noted.append(set(key_ids))
        self.on_noted()

    def budgets(self) -> KeyBudgets:
        self.budgets_read += 1
        own = read_budget("spending", "20/day")
        assert isinstance(own, BudgetSettings)
        row = BudgetRow(own, BudgetState.OK, "", NOW, None, None, None, None, None)
        balance = Balance(row, window(own.per, NOW), own.usd, Spent())
        return KeyBudgets({own.name: balance}, {}, CostModel(), NOW)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(work, *args, **kwargs)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def access(keys: Keys) -> Access:
    return Access(keys, in_thread, lambda: keys.clock)


def admitted(access: Access, *tokens: str) -> list[Principal]:
    """Admit requests one after another, in one event loop."""

    async def work() -> list[Principal]:
        found = [await access.admit({"x-api-key": token}) for token in tokens]
        await access.close()
        return found

    return asyncio.run(work())


def refusal(access: Access, headers: dict[str, str]) -> str:
    with pytest.raises(Unauthenticated) as caught:
        access.authenticate(headers)
    return caught.value.message


def test_a_key_is_taken_from_either_header(access: Access, keys: Keys) -> None:
    token = keys.add(tenant="acme").text
    for headers in (
        {"x-api-key": token},
        {"authorization": f"Bearer {token}"},
        {"authorization": f"bearer  {token} "},
        {"x-api-key": f" {token}", "authorization": f"Bearer {token}"},
        {"x-api-key": token, "authorization": "Basic YTpi"},
    ):
        assert access.authenticate(headers).tenant == "acme"
    other = keys.add("other").text
    assert "two different keys" in refusal(access, {"x-api-key": token, "authorization": f"Bearer {other}"})
    for missing in ({}, {"x-api-key": " "}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer"}):
        assert refusal(access, missing).startswith("A key is needed")


def test_a_wrong_a_revoked_and_an_expired_key_are_refused_in_the_same_words(access: Access, keys: Keys) -> None:
    good, revoked, expired = keys.add(), keys.add("revoked"), keys.add("expired", expires_at=NOW)
    keys.change(revoked, revoked_at=NOW)
    wrong_secret = good.text[:-1] + ("0" if good.text[-1] != "0" else "1")
    said = {
        refusal(access, {"x-api-key": token})
        for token in (
            revoked.text,
            expired.text,
            wrong_secret,
            new_token().text,
            "sk-ant-nonsense",
            "trivet_é",
            "\ud800",
        )
    }
    assert said == {"The key is not valid. Whoever runs this Trivet can give you another."}


def test_every_look_up_compares_digests_in_constant_time(
    access: Access, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    good, unknown = keys.add(), new_token()
    access.authenticate({"x-api-key": good.text})
    for token in (unknown.text, "nonsense"):
        refusal(access, {"x-api-key": token})
    assert compared == [
        (digest_of(good.text), digest_of(good.text)),
        (digest_of(unknown.text), ""),
        (digest_of("nonsense"), ""),
    ]


def test_a_key_is_looked_up_once_in_a_few_seconds(access: Access, keys: Keys) -> None:
    token = keys.add()
    assert len({one.key_id for one in admitted(access, *[token.text] * 50)}) == 1
    assert keys.looked_up == [token.key_id]
    keys.clock = KEPT_S - 0.1
    admitted(access, token.text)
    assert len(keys.looked_up) == 1
    keys.clock = KEPT_S
    admitted(access, token.text)
    assert len(keys.looked_up) == 2


def test_a_revoked_key_stops_within_five_seconds(access: Access, keys: Keys) -> None:
    token = keys.add()
    admitted(access, token.text)
    keys.change(token, revoked_at=NOW)
    keys.clock = 5.0
    refusal(access, {"x-api-key": token.text})


def test_the_time_of_a_slow_look_up_counts(access: Access, keys: Keys) -> None:
    token = keys.add()
    found = keys.find

    def find(key_id: str) -> FoundKey | None:
        before = found(key_id)
        keys.clock += 3
        return before

    keys.find = find  # type: ignore[method-assign]
    admitted(access, token.text)
    keys.change(token, revoked_at=NOW)
    keys.clock = 4.9
    admitted(access, token.text)
    keys.clock = 5.0
    refusal(access, {"x-api-key": token.text})


def test_a_key_stops_at_its_end_though_it_is_remembered(access: Access, keys: Keys) -> None:
    token = keys.add(expires_at=NOW + 2)
    admitted(access, token.text)
    keys.clock = 1.9
    admitted(access, token.text)
    keys.clock = 2.0
    refusal(access, {"x-api-key": token.text})


def test_a_rotated_key_works_for_its_grace(access: Access, keys: Keys) -> None:
    token = keys.add(expires_at=NOW + 60)
    keys.change(token, replaced_by="0123456789ab")
    assert admitted(access, token.text)
    keys.clock = 60.0
    refusal(access, {"x-api-key": token.text})


def test_guesses_cost_one_look_up_each_and_nonsense_none(access: Access, keys: Keys) -> None:
    guess = new_token()
    for _ in range(10):
        refusal(access, {"x-api-key": guess.text})
        refusal(access, {"x-api-key": "nonsense"})
    assert keys.looked_up == [guess.key_id]
    keys.rows[guess.key_id] = GatewayKey(
        guess.key_id, digest_of(guess.text), read_terms("late"), NOW, "ana", None, None, None, None
    )
    keys.clock = KEPT_S
    assert access.authenticate({"x-api-key": guess.text}).name == "late"


def test_guesses_do_not_drive_out_keys_that_work(access: Access, keys: Keys) -> None:
    token = keys.add()
    access.authenticate({"x-api-key": token.text})
    for number in range(10_001):
        refusal(access, {"x-api-key": f"guess {number}"})
    access.authenticate({"x-api-key": token.text})
    assert keys.looked_up == [token.key_id]


def test_requests_that_arrive_together_look_a_key_up_few_times(access: Access, keys: Keys) -> None:
    token = keys.add()
    at_once = 0
    most = 0
    lock = threading.Lock()
    found = keys.find

    def find(key_id: str) -> FoundKey | None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return found(key_id)
        finally:
            with lock:
                at_once -= 1

    keys.find = find  # type: ignore[method-assign]

    async def work() -> None:
        await asyncio.gather(*(access.admit({"x-api-key": token.text}) for _ in range(200)))
        await asyncio.gather(
            *(access.admit({"x-api-key": new_token().text}) for _ in range(50)), return_exceptions=True
        )
        await access.close()

    asyncio.run(work())
    assert keys.looked_up.count(token.key_id) <= 2
    assert most <= 2


def test_guesses_do_not_delay_keys_that_worked_before(access: Access, keys: Keys) -> None:
    token, guesses = keys.add(), [new_token() for _ in range(5)]
    admitted(access, token.text)
    keys.clock = KEPT_S
    found, answered = keys.find, threading.Event()

    def find(key_id: str) -> FoundKey | None:
        if key_id != token.key_id:
            assert answered.wait(30)
        return found(key_id)

    keys.find = find  # type: ignore[method-assign]

    async def work() -> None:
        guessing = [asyncio.create_task(access.admit({"x-api-key": guess.text})) for guess in guesses]
        await asyncio.sleep(0)
        assert (await access.admit({"x-api-key": token.text})).name == "search"
        answered.set()
        said = await asyncio.gather(*guessing, return_exceptions=True)
        assert all(isinstance(one, Unauthenticated) for one in said)
        await access.close()

    asyncio.run(work())


def test_a_key_without_a_rate_asks_nobody_and_one_with_a_rate_once(access: Access, keys: Keys) -> None:
    free, limited = keys.add("free"), keys.add("limited", requests_per_minute=1_200)
    admitted(access, free.text, limited.text, limited.text)
    assert keys.counted == [("limited", 1_200)] * 2
    keys.wait_s = 1.5
    with pytest.raises(RateLimited, match=r"limited may send 1,200 requests a minute. Try again in 1.5 s") as caught:
        admitted(access, limited.text)
    assert caught.value.retry_after_s == 1.5


def test_uses_are_recorded_in_groups_and_again_after_an_outage(
    access: Access, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = keys.add("one"), keys.add("two")
    monkeypatch.setattr("trivet.gateway.access.USED_S", 0.01)

    async def work() -> None:
        recorded, loop = asyncio.Event(), asyncio.get_running_loop()
        keys.on_noted = lambda: loop.call_soon_threadsafe(recorded.set)
        for token in (one, two, one, one):
            await access.admit({"x-api-key": token.text})
        assert keys.noted == []
        await asyncio.wait_for(recorded.wait(), 10)
        keys.away = True
        await access.admit({"x-api-key": one.text})
        await access.close()
        keys.away = False
        await access.close()

    asyncio.run(work())
    assert keys.noted == [{one.key_id, two.key_id}, {one.key_id}]


def test_a_database_that_is_away_stops_only_keys_that_are_not_remembered(access: Access, keys: Keys) -> None:
    token, other = keys.add(), keys.add("other")
    access.authenticate({"x-api-key": token.text})
    keys.away = True
    access.authenticate({"x-api-key": token.text})
    with pytest.raises(StoreUnavailable):
        access.authenticate({"x-api-key": other.text})
    keys.away = False
    access.authenticate({"x-api-key": other.text})


def test_budgets_are_read_once_a_second_and_only_for_keys_that_have_one(access: Access, keys: Keys) -> None:
    plain, spending = Principal("1", "plain"), Principal("2", "spending", budget="key:spending")
    request = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": []}

    async def check(principal: Principal, times: int, given: dict[str, Any] = request) -> None:
        await asyncio.gather(*(access.check_budget(principal, given, 100) for _ in range(times)))

    async def work() -> None:
        await check(plain, 5)
        await check(spending, 5, {"model": 7, "max_tokens": "many"})
        assert keys.budgets_read == 0
        await check(spending, 50)
        assert keys.budgets_read == 1
        keys.clock = 1.0
        await check(spending, 50)
        assert keys.budgets_read == 2

    asyncio.run(work())


def test_a_key_allows_only_its_models_classes_and_tenant() -> None:
    key = Principal(
        "1", "search", tenant="acme", classes=frozenset({Latency.BATCH, Latency.INTERACTIVE}),
        models=("claude-haiku-*", "claude-sonnet-4-5"),
    )  # fmt: skip
    request = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": []}
    assert key.bind(request)["latency"] == "interactive"
    assert key.bind({**request, "model": "claude-sonnet-4-5-20250929"})["tenant"] == "acme"
    for wrong, says in (
        (
            {"model": "claude-opus-4-5"},
            "model: the key search does not allow claude-opus-4-5. It allows claude-haiku-*,",
        ),
        ({"latency": "async"}, "latency: the key search does not allow async. It allows interactive, batch."),
        ({"tenant": "other"}, "tenant: the key search is of the tenant acme. Leave the field out."),
        ({"tenant": ["acme"]}, "tenant: the key search is of the tenant acme."),
        ({"tags": {KEY_TAG: "search"}}, "tags.trivet_key: this tag is set by the gateway"),
    ):
        with pytest.raises(Forbidden) as caught:
            key.bind({**request, **wrong})
        assert caught.value.message.startswith(says)
    with pytest.raises(Forbidden, match="is without a tenant"):
        Principal("1", "plain").bind({**request, "tenant": "acme"})
    assert Principal("1", "ops", admin=True).bind({**request, "tenant": "acme"})["tenant"] == "acme"


def test_tags_of_the_key_win_and_its_places_are_added() -> None:
    key = Principal("1", "search", tags={"team": "search"}, residency=("eu",), compliance=("hipaa",))
    bound = key.bind({"tags": {"team": "mine", "run": "7"}, "residency": "de", "compliance": ["soc2"], "x": 1})
    assert bound == {
        "tags": {"team": "search", "run": "7", KEY_TAG: "search"}, "residency": ["de", "eu"],
        "compliance": ["hipaa", "soc2"], "latency": "interactive", "x": 1,
    }  # fmt: skip


def test_only_an_admin_key_sees_other_tenants() -> None:
    acme, plain, admin = Principal("1", "a", tenant="acme"), Principal("2", "b"), Principal("3", "c", admin=True)
    assert [acme.sees(tenant) for tenant in ("acme", "other", None)] == [True, False, False]
    assert [plain.sees(tenant) for tenant in ("acme", None)] == [False, True]
    assert all(admin.sees(tenant) for tenant in ("acme", None))
    admin.require_admin()
    with pytest.raises(Forbidden, match="needs an admin key"):
        acme.require_admin()


OWN = st.fixed_dictionaries(
    {},
    optional={
        "tenant": st.sampled_from(["acme", "other", "", "ACME", "acme ", None, 7, ["acme"]]),
        "latency": st.sampled_from(["batch", "realtime", "async", None, 4]),
        "tags": st.sampled_from([None, 3, {"team": "y"}, {KEY_TAG: "other"}, {"tenant": "other"}]),
        "residency": st.sampled_from([None, "us", ["eu"], [], 5]),
        "key": st.just("k"),
    },
)
"""Trivet's own fields, right and wrong."""
MODELS = st.sampled_from(["claude-haiku-4-5", "claude-opus-4-5"])
WHOLE = st.builds(lambda own, model: {"model": model, "max_tokens": 10, "prompt": "hello", **own}, OWN, MODELS)


def around(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return requests with another inside, as lines of Anthropic's batches and in `extra_body`."""
    lines = st.builds(lambda own, params: {**own, "params": params}, st.one_of(st.just({}), OWN), inner)
    extras = st.builds(lambda whole, extra: {**whole, "extra_body": extra}, WHOLE, st.one_of(OWN, inner))
    return st.one_of(lines, extras)


BODIES = st.recursive(WHOLE, around, max_leaves=4)
KEYS = st.sampled_from([Principal("1", "search", tenant="acme", tags={"team": "x"}, residency=("eu",),
                                  models=("claude-haiku-*",), classes=frozenset({Latency.BATCH, Latency.INTERACTIVE})),
                        Principal("2", "plain", models=("claude-haiku-*",))])  # fmt: skip


@given(key=KEYS, body=BODIES)
def test_no_request_of_a_key_becomes_a_job_of_another_tenant(key: Principal, body: dict[str, Any]) -> None:
    try:
        spec = parse_request(key.bind(body), settings=Settings(), now=NOW)
    except (Forbidden, InvalidRequest):
        return
    assert spec.tenant == key.tenant
    assert spec.tags[KEY_TAG] == key.name
    assert spec.model.startswith("claude-haiku")
    assert set(key.residency) <= set(spec.residency)
    assert not key.classes or spec.latency in key.classes
    assert dict(key.tags).items() <= dict(spec.tags).items()


def test_the_property_above_meets_requests_that_are_accepted() -> None:
    body = {"model": "claude-haiku-4-5", "max_tokens": 10, "prompt": "hello"}
    key = Principal("1", "search", tenant="acme")
    for given_body in (body, {"params": body, "custom_id": "a"}, {**body, "tenant": "acme"}):
        assert parse_request(key.bind(given_body), settings=Settings(), now=NOW).tenant == "acme"
