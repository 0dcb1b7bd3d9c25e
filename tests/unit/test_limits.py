"""Permits and gates, on a real Valkey. Time passes here by moving what is stored into the past."""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.embedded import EmbeddedValkey
from trivet_scheduler.limits import (
    BURST_S,
    PERMIT_GRACE_S,
    WHOLE_ROUTE,
    Change,
    GateView,
    Grant,
    Limits,
    Rates,
    Spent,
    Verdict,
    Want,
)
from trivet_tasks.broker_address import redis_url
from trivet_tasks.route_settings import RouteSettings
from trivet_tasks.settings import HealthSettings
from trivet_tasks.shared_state import PREFIX, connect

ROUTE, MODEL = "bedrock-us-east-1", "claude-sonnet-5-5"
TIMEOUT_S = 15.0
HEALTH = HealthSettings(open_after_failures=3, probe_interval_s=10, unusable_probe_max_s=3600, limited_backoff_s=2)
FREE = Rates(0, 0, 0, 1.0, 1_000)


def rates(
    requests: float = 0, tokens_in: float = 0, tokens_out: float = 0, *, factor: float = 1, most: int = 1_000
) -> Rates:
    """Limits per second."""
    return Rates(requests, tokens_in, tokens_out, factor, most)


@dataclass
class Gate:
    """One (route, model) as the tests drive it."""

    client: redis.Redis
    limits: Limits
    model: str = MODEL
    rates: Rates = FREE
    asked: int = 0
    held: list[Want] = field(default_factory=list)

    def of(self, model: str = MODEL, with_rates: Rates | None = None) -> "Gate":
        return Gate(self.client, self.limits, model, with_rates or self.rates)

    def wants(self, count: int, tokens_in: int = 0, tokens_out: int = 0) -> list[Want]:
        self.asked += count
        return [
            Want(f"{self.model}:{id(self)}:{self.asked - n}", tokens_in, tokens_out) for n in reversed(range(count))
        ]

    def take(self, wants: list[Want] | int = 1, tokens_in: int = 0, tokens_out: int = 0) -> Grant:
        if isinstance(wants, int):
            wants = self.wants(wants, tokens_in, tokens_out)
        grant = self.limits.take(ROUTE, self.model, self.rates, wants, TIMEOUT_S)
        self.held += wants[: grant.granted]
        return grant

    def settle(
        self, verdict: Verdict, seconds: float = 0.0, *, count: int = 1, used: tuple[int, int] | None = None
    ) -> list[Change]:
        """Give back the oldest permits."""
        wants, self.held = self.held[:count], self.held[count:]
        return self.settle_these(wants, verdict, seconds, used=used)

    def settle_these(
        self, wants: list[Want], verdict: Verdict, seconds: float = 0.0, *, used: tuple[int, int] | None = None
    ) -> list[Change]:
        spent = [
            Spent(
                want,
                *(used or (want.input_tokens, want.output_tokens)),
                verdict,
                seconds,
                f"{verdict}: said the provider",
            )
            for want in wants
        ]
        return self.limits.settle(ROUTE, self.model, self.rates, spent)

    def view(self) -> GateView:
        return self.limits.view([(ROUTE, self.model, self.rates)])[ROUTE, self.model]

    def in_flight(self) -> int:
        return int(self.client.zcard(f"{PREFIX}calls:{ROUTE}:{self.model}"))

    def bucket(self, name: str) -> float:
        return float(self.client.hget(f"{PREFIX}gate:{ROUTE}:{self.model}", name) or 0)

    def fail(self, count: int = 3) -> list[Change]:
        """That many calls fail one after the other."""
        changes = []
        for _ in range(count):
            assert self.take().granted == 1
            changes += self.settle(Verdict.FAILED)
        return changes

    def pass_time(self, seconds: float) -> None:
        """Everything stored is so much older."""
        for key in self.client.scan_iter(f"{PREFIX}*"):
            if self.client.type(key) == b"zset":
                for member in self.client.zrange(key, 0, -1):
                    self.client.zincrby(key, -seconds, member)
                continue
            for name in ("at", "retry_at", "closed_until", "since"):
                if self.client.hexists(key, name):
                    self.client.hincrbyfloat(key, name, -seconds)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder: Path = tmp_path_factory.mktemp("valkey") / ".trivet"
    with EmbeddedValkey(folder):
        client = connect(redis_url(folder))
        yield client
        client.close()


@pytest.fixture
def gate(valkey: redis.Redis) -> Gate:
    valkey.flushdb()
    return Gate(valkey, Limits(valkey, HEALTH))


def at(seconds: float) -> object:
    """That long, give or take what a slow machine needs in between."""
    return pytest.approx(seconds, abs=2.0)


# permits


def test_without_limits_all_go(gate: Gate) -> None:
    assert gate.take(50, 100_000, 100_000) == Grant(50, 0.0, "")
    assert gate.in_flight() == gate.view().in_flight == 50


def test_never_more_in_flight_than_allowed(gate: Gate) -> None:
    gate.rates = rates(most=5)
    assert gate.take(3).granted == 3
    grant = gate.take(4)
    assert grant.granted == 2
    refused = gate.take(1)
    assert (refused.granted, refused.reason) == (0, "concurrency")
    assert 0 < refused.wait_s <= 1
    gate.settle(Verdict.GOOD, 0.5, count=2)
    assert gate.take(9).granted == 2
    assert gate.in_flight() == 5


def test_the_first_that_does_not_fit_ends_it(gate: Gate) -> None:
    """All or nothing for each call, in their order: a small one does not overtake a large one."""
    gate.rates = rates(tokens_in=100)
    small, large, after = (Want(name, tokens, 0) for name, tokens in (("a", 10), ("b", 295), ("c", 10)))
    grant = gate.take([small, large, after])
    assert (grant.granted, grant.reason) == (1, "input_tokens")
    assert grant.wait_s == pytest.approx(0.05, abs=0.03)
    assert gate.client.zrange(f"{PREFIX}calls:{ROUTE}:{MODEL}", 0, -1) == [b"a"]
    assert gate.bucket("i") == pytest.approx(290, abs=1)


def test_what_lacks_one_of_three_takes_none_of_them(gate: Gate) -> None:
    gate.rates = rates(10, 1_000, 10)
    gate.take(1, 0, 30)
    before = gate.bucket("r"), gate.bucket("i")
    grant = gate.take(1, 500, 20)
    assert (grant.granted, grant.reason) == (0, "output_tokens")
    after = gate.bucket("r"), gate.bucket("i")
    assert all(new >= old for new, old in zip(after, before, strict=True))
    assert gate.in_flight() == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (rates(requests=10), "requests"),
        (rates(tokens_in=1_000), "input_tokens"),
        (rates(tokens_out=2_000), "output_tokens"),
    ],
)
def test_a_bucket_holds_a_burst_and_fills_at_its_rate(gate: Gate, limits: Rates, reason: str) -> None:
    """Each call wants one request, 100 tokens in, 200 out: ten a second."""
    gate.rates = limits
    first = gate.take(200, 100, 200).granted
    assert 10 * BURST_S <= first <= 10 * BURST_S + 5, "a burst, and what came while we asked"
    refused = gate.take(1, 100, 200)
    assert (refused.granted, refused.reason) in ((0, reason), (1, ""))
    assert refused.wait_s <= 0.11
    gate.pass_time(1.0)
    assert 9 <= gate.take(200, 100, 200).granted <= 15
    gate.pass_time(3600)
    assert gate.view().headroom >= 1
    assert gate.take(200, 100, 200).granted == 10 * BURST_S, "never more than a burst"


def test_the_wait_is_what_the_missing_tokens_need(gate: Gate) -> None:
    gate.rates = rates(tokens_out=10)
    gate.take(1, 0, 30)
    assert gate.take(1, 0, 20).wait_s == pytest.approx(2.0, abs=0.5)


def test_a_rolling_minute_gets_what_its_limit_says_and_not_more(gate: Gate) -> None:
    """From full buckets, asking all the time: what a provider counts over any minute."""
    route = RouteSettings.model_validate({"provider": "bedrock", "requests_per_minute": 600})
    gate.rates = Rates.of(route)
    granted = gate.take(200).granted
    for _ in range(100):
        gate.settle(Verdict.GOOD, 0.1, count=len(gate.held))
        gate.pass_time(0.57)
        granted += gate.take(200).granted
    # a slow machine adds its own time to the 57 s: up to 3 s of it are within the minute
    assert 0.95 * 600 <= granted <= 600


def test_a_call_larger_than_the_whole_bucket_goes_when_it_is_full_and_leaves_a_debt(gate: Gate) -> None:
    gate.rates = rates(tokens_in=100)
    gate.take(1, 10)
    assert gate.take(1, 1_000).granted == 0
    gate.pass_time(10)
    assert gate.take(1, 1_000).granted == 1
    assert gate.bucket("i") == pytest.approx(300 - 1_000, abs=1)
    assert gate.take(1, 1).wait_s == pytest.approx(7.0, abs=0.5)
    assert gate.view().wait_s == pytest.approx(7.0, abs=0.5)


def test_slow_limits_still_let_one_go(gate: Gate) -> None:
    gate.rates = rates(requests=0.01)
    assert gate.take(5).granted == 1
    assert gate.take(1).wait_s == pytest.approx(100, abs=2)


def test_what_was_not_used_flows_back(gate: Gate) -> None:
    gate.rates = rates(0.001, 100, 100)
    gate.take(1, 200, 200)
    gate.settle(Verdict.GOOD, 0.5, used=(50, 20))
    assert gate.bucket("i") == pytest.approx(300 - 50, abs=20)
    assert gate.bucket("o") == pytest.approx(300 - 20, abs=20)
    assert gate.bucket("r") == pytest.approx(0, abs=0.1), "the request was made"


def test_a_permit_not_used_gives_all_of_it_back(gate: Gate) -> None:
    gate.rates = rates(0.001, 0.001, 0.001)
    assert gate.take(1, 200, 200).granted == 1
    gate.settle(Verdict.UNUSED, used=(0, 0))
    assert gate.bucket("r") == pytest.approx(1, abs=0.1)
    assert gate.bucket("i") == pytest.approx(0.003, abs=0.1)
    assert gate.in_flight() == 0


def test_more_than_was_reserved_is_a_debt(gate: Gate) -> None:
    gate.rates = rates(tokens_in=100)
    gate.take(1, 100)
    gate.settle(Verdict.GOOD, 0.5, used=(900, 0))
    assert gate.bucket("i") == pytest.approx(300 - 900, abs=20)


def test_nothing_flows_back_above_the_brim(gate: Gate) -> None:
    gate.rates = rates(1, 100, 100)
    gate.take(1, 200, 200)
    gate.pass_time(60)
    gate.settle(Verdict.GOOD, 0.5, used=(0, 0))
    assert (gate.bucket("i"), gate.bucket("o")) == (300, 300)


def test_a_permit_given_back_twice_flows_back_once(gate: Gate) -> None:
    """The answer to the first may have been lost on its way to us."""
    gate.rates = rates(0.001, 1, 1)
    wants = gate.wants(1, 3, 3)
    gate.take(wants)
    assert gate.take(1).granted == 0
    for _ in range(3):
        gate.settle_these(wants, Verdict.UNUSED, used=(0, 0))
    gate.take(1, 3, 3)
    for _ in range(3):
        gate.settle_these(wants, Verdict.UNUSED, used=(0, 0))
    assert gate.bucket("r") < 0.5


def test_output_counts_by_the_routes_factor(gate: Gate) -> None:
    gate.rates = rates(tokens_out=100, factor=5)
    gate.take(1, 0, 40)
    assert gate.bucket("o") == pytest.approx(300 - 200, abs=1)
    gate.settle(Verdict.GOOD, 0.5, used=(0, 10))
    assert gate.bucket("o") == pytest.approx(300 - 50, abs=20)
    assert gate.view().output_headroom == pytest.approx(50, abs=10)


def test_calls_made_without_a_limit_are_no_debt_when_one_is_set(gate: Gate) -> None:
    for _ in range(20):
        gate.take(50, 100_000, 100_000)
        gate.settle(Verdict.GOOD, 0.1, count=50)
    limited = gate.of(with_rates=rates(10, 1_000, 1_000))
    gate.pass_time(3)
    assert limited.take(1, 10, 10).granted == 1


def test_each_model_has_its_own(gate: Gate) -> None:
    gate.rates = rates(requests=0.01, most=1)
    assert gate.take(1).granted == 1
    assert gate.of("claude-haiku-5").take(1).granted == 1


def test_a_permit_whose_holder_died_heals(gate: Gate) -> None:
    gate.rates = rates(most=2)
    gate.take(2)
    assert gate.view().in_flight == 2
    gate.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 5)
    assert gate.take(1).granted == 0
    gate.pass_time(6)
    # a dispatcher looks first: were it to see two in flight it would send nothing, and nobody would heal anything
    assert gate.view().in_flight == 0
    assert gate.take(3).granted == 2


def test_many_at_once_never_have_too_many_in_flight(gate: Gate) -> None:
    gate.rates = rates(most=7)
    most, errors = 0, []
    over = threading.Event()

    def work(seed: int) -> None:
        mine = Gate(gate.client, gate.limits, MODEL, gate.rates)
        draw = random.Random(seed)
        for _ in range(60):
            mine.take(draw.randint(1, 4))
            if draw.random() < 0.7:
                mine.settle(draw.choice([Verdict.GOOD, Verdict.NEUTRAL, Verdict.UNUSED]), count=len(mine.held))
        mine.settle(Verdict.GOOD, count=len(mine.held))

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, gate.in_flight())

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join(60)
    over.set()
    watcher.join(10)
    assert not errors
    assert 0 < most <= 7
    assert gate.in_flight() == 0


# health


def test_it_opens_after_failures_in_a_row(gate: Gate) -> None:
    assert gate.fail(2) == []
    assert gate.view().state == "healthy"
    (change,) = gate.fail(1)
    assert change == Change(ROUTE, MODEL, "open", "failed: said the provider", at(10))  # type: ignore[arg-type]
    view = gate.view()
    assert (view.state, view.cause) == ("open", "failed: said the provider")
    assert view.wait_s == at(10)
    refused = gate.take(5)
    assert (refused.granted, refused.reason) == (0, "open")
    assert refused.wait_s == at(10)


def test_a_success_between_starts_the_count_anew(gate: Gate) -> None:
    gate.fail(2)
    gate.take()
    gate.settle(Verdict.GOOD, 0.5)
    assert gate.fail(2) == []
    assert gate.view().state == "healthy"


def test_what_is_not_the_routes_fault_does_not_count(gate: Gate) -> None:
    for verdict in (Verdict.NEUTRAL, Verdict.UNUSED):
        for _ in range(5):
            gate.take()
            assert gate.settle(verdict) == []
    assert gate.view().state == "healthy"
    gate.fail(2)
    gate.take()
    gate.settle(Verdict.NEUTRAL)
    assert gate.fail(1)[0].state == "open", "and does not break a row of failures either"


def test_a_wave_of_failures_opens_it_once(gate: Gate) -> None:
    gate.take(20)
    changes = gate.settle(Verdict.FAILED, count=10)
    changes += gate.settle(Verdict.FAILED, count=10)
    assert [change.state for change in changes] == ["open"]
    assert gate.view().wait_s == at(10)


def test_one_models_trouble_leaves_its_neighbours_alone(gate: Gate) -> None:
    gate.fail()
    assert gate.of("claude-haiku-5").take(3).granted == 3


def test_one_probe_at_a_time_however_many_ask(gate: Gate) -> None:
    gate.fail()
    gate.pass_time(11)
    granted: list[int] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        mine = gate.of()
        barrier.wait(10)
        granted.extend(mine.take(10).granted for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(granted), sum(granted)) == (40, 1)
    assert gate.view().state == "probing"


def test_a_good_probe_closes_it(gate: Gate) -> None:
    gate.fail()
    gate.pass_time(11)
    assert gate.take(10).granted == 1
    (change,) = gate.settle(Verdict.GOOD, 0.5)
    assert (change.model, change.state, change.seconds) == (MODEL, "healthy", 0)
    assert gate.view().state == "healthy"
    assert gate.take(10).granted == 10
    gate.settle(Verdict.GOOD, 0.5, count=10)
    assert gate.fail(2) == [], "the row of failures is over too"


def test_a_bad_probe_keeps_it_open(gate: Gate) -> None:
    gate.fail()
    for _ in range(3):
        gate.pass_time(11)
        assert gate.take(10).granted == 1
        assert gate.settle(Verdict.FAILED) == [], "no news"
        assert gate.view().state == "open"
        assert gate.take().wait_s == at(10)


def test_a_probe_that_was_lost_is_followed_by_another(gate: Gate) -> None:
    gate.fail()
    gate.pass_time(11)
    assert gate.take().granted == 1
    assert gate.take().reason == "probing"
    gate.pass_time(TIMEOUT_S + 2)
    assert gate.take().granted == 1


@pytest.mark.parametrize("verdict", [Verdict.UNUSED, Verdict.NEUTRAL])
def test_a_probe_that_says_nothing_lets_another_try_at_once(gate: Gate, verdict: Verdict) -> None:
    gate.fail()
    gate.pass_time(11)
    gate.take()
    gate.settle(verdict)
    assert gate.take(5).granted == 1
    gate.settle(Verdict.GOOD, 0.5)
    assert gate.view().state == "healthy"


def test_a_probe_that_is_limited_lets_another_try_after_the_pause(gate: Gate) -> None:
    gate.fail()
    gate.pass_time(11)
    gate.take()
    gate.settle(Verdict.LIMITED, 5)
    assert gate.take().granted == 0
    gate.pass_time(5.5)
    assert gate.take(5).granted == 1


@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.FAILED, Verdict.UNUSED, Verdict.NEUTRAL])
def test_late_words_of_calls_from_before_leave_a_probe_alone(gate: Gate, verdict: Verdict) -> None:
    """They say how it was, not how it is; and one call at a time means one."""
    gate.take(1)
    before = gate.of()
    before.held, gate.held = gate.held, []
    gate.fail()
    gate.pass_time(11)
    assert gate.take(5).granted == 1
    assert before.settle(verdict, 0.5) == []
    assert gate.view().state == "probing"
    assert gate.of().take(5).granted == 0
    assert gate.settle(Verdict.GOOD, 0.5)[0].state == "healthy"


def test_latency_is_a_moving_average_of_good_calls(gate: Gate) -> None:
    assert gate.view().latency_s is None
    gate.take(3)
    gate.settle(Verdict.GOOD, 2.0)
    gate.settle(Verdict.FAILED, 60.0)
    assert gate.view().latency_s == pytest.approx(2.0)
    gate.settle(Verdict.GOOD, 4.0)
    assert gate.view().latency_s == pytest.approx(2.2)


# limited by the provider


def test_retry_after_closes_it_that_long(gate: Gate) -> None:
    gate.take(2)
    (change,) = gate.settle(Verdict.LIMITED, 20)
    assert change == Change(ROUTE, MODEL, "limited", "limited: said the provider", at(20))  # type: ignore[arg-type]
    refused = gate.take()
    assert (refused.granted, refused.reason) == (0, "limited")
    assert refused.wait_s == at(20)
    view = gate.view()
    assert (view.state, view.cause) == ("limited", "limited: said the provider")
    gate.pass_time(21)
    assert gate.view().state == "healthy"
    assert gate.take(5).granted == 5


def test_a_later_longer_one_wins_and_a_shorter_does_not(gate: Gate) -> None:
    gate.take(3)
    gate.settle(Verdict.LIMITED, 20)
    assert gate.settle(Verdict.LIMITED, 5) == []
    assert gate.view().wait_s == at(20)
    assert gate.settle(Verdict.LIMITED, 7200) == [], "it was limited already"
    assert gate.view().wait_s == at(7200)


def test_a_good_answer_does_not_open_the_window_early(gate: Gate) -> None:
    gate.take(2)
    gate.settle(Verdict.LIMITED, 20)
    gate.settle(Verdict.GOOD, 0.5)
    assert gate.take().wait_s == at(20)


def test_without_retry_after_it_rests_longer_each_time(gate: Gate) -> None:
    pauses = []
    for _ in range(8):
        gate.take()
        gate.settle(Verdict.LIMITED)
        pauses.append(gate.view().wait_s)
        gate.pass_time(61)
    assert pauses == [pytest.approx(pause, abs=1) for pause in (2, 4, 8, 16, 32, 60, 60, 60)]
    gate.take()
    gate.settle(Verdict.GOOD, 0.5)
    gate.take()
    gate.settle(Verdict.LIMITED)
    assert gate.view().wait_s == pytest.approx(2, abs=1)


def test_one_wave_of_refusals_counts_once(gate: Gate) -> None:
    gate.take(30)
    changes = gate.settle(Verdict.LIMITED, count=15)
    changes += gate.settle(Verdict.LIMITED, count=15)
    assert len(changes) == 1
    assert gate.view().wait_s == pytest.approx(2, abs=1)


def test_being_limited_is_no_failure(gate: Gate) -> None:
    gate.take(10)
    gate.settle(Verdict.LIMITED, 1, count=10)
    gate.pass_time(2)
    assert gate.view().state == "healthy"
    assert gate.take(10).granted == 10


# unusable


def test_a_model_that_is_not_to_be_had_closes_only_itself(gate: Gate) -> None:
    gate.take()
    (change,) = gate.settle(Verdict.UNUSABLE_MODEL)
    assert (change.model, change.state) == (MODEL, "open")
    assert gate.take().reason == "open"
    assert gate.of("claude-haiku-5").take().granted == 1


def test_an_account_that_refuses_us_closes_the_whole_route(gate: Gate) -> None:
    other = gate.of("claude-haiku-5")
    gate.take()
    (change,) = gate.settle(Verdict.UNUSABLE_ROUTE)
    assert (change.model, change.state) == (WHOLE_ROUTE, "open")
    assert (other.take().reason, gate.take().reason) == ("open", "open")
    assert (other.view().state, other.view().cause) == ("open", "unusable_route: said the provider")


def test_one_probe_speaks_for_the_whole_route(gate: Gate) -> None:
    other = gate.of("claude-haiku-5")
    gate.take()
    gate.settle(Verdict.UNUSABLE_ROUTE)
    gate.pass_time(11)
    assert other.take(5).granted == 1
    assert gate.take(5).granted == 0
    (change,) = other.settle(Verdict.GOOD, 0.5)
    assert (change.model, change.state) == (WHOLE_ROUTE, "healthy")
    assert gate.take(5).granted == 5


@pytest.mark.parametrize("verdict", [Verdict.UNUSABLE_ROUTE, Verdict.UNUSABLE_MODEL])
def test_probes_of_what_refuses_us_back_off_to_an_hour(gate: Gate, verdict: Verdict) -> None:
    pauses = []
    for _ in range(11):
        assert gate.take(3).granted >= 1
        gate.settle(verdict, count=len(gate.held))
        pauses.append(gate.view().wait_s)
        gate.pass_time(3601)
    assert pauses == [at(min(10 * 2**n, 3600)) for n in range(11)]


def test_what_was_set_right_is_forgotten_by_hand(gate: Gate) -> None:
    gate.take(2)
    gate.settle(Verdict.UNUSABLE_ROUTE)
    gate.settle(Verdict.LIMITED, 3600)
    other = gate.of("claude-haiku-5")
    gate.limits.forget(ROUTE)
    assert gate.take(5).granted == 5
    assert other.take(5).granted == 5
    assert gate.view().state == "healthy"


def test_many_gates_are_seen_at_once(gate: Gate) -> None:
    gate.fail()
    seen = gate.limits.view([(ROUTE, MODEL, FREE), (ROUTE, "claude-haiku-5", FREE), ("other", MODEL, FREE)])
    assert {key: view.state for key, view in seen.items()} == {
        (ROUTE, MODEL): "open",
        (ROUTE, "claude-haiku-5"): "healthy",
        ("other", MODEL): "healthy",
    }
    assert gate.limits.view([]) == {}


STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 6), st.integers(0, 400), st.integers(0, 400)),
    st.tuples(st.just("settle"), st.integers(1, 6), st.sampled_from(list(Verdict)), st.integers(0, 800)),
    st.tuples(st.just("again"), st.integers(1, 3), st.just(Verdict.UNUSED), st.just(0)),
    st.tuples(st.just("time"), st.sampled_from([0.1, 2.0, 12.0, 50.0, 4000.0]), st.none(), st.none()),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=st.lists(STEP, max_size=25),
    limits=st.builds(
        rates,
        st.sampled_from([0, 0.5, 20]),
        st.sampled_from([0, 100]),
        st.sampled_from([0, 100]),
        most=st.integers(1, 6),
    ),
)
def test_whatever_comes_nothing_overflows(valkey: redis.Redis, steps: list[tuple[object, ...]], limits: Rates) -> None:
    valkey.flushdb()
    gate = Gate(valkey, Limits(valkey, HEALTH), rates=limits)
    given_back: list[Want] = []
    for what, number, one, other in steps:
        match what, number, one, other:
            case "take", int(), int(), int():
                assert 0 <= gate.take(number, one, other).granted <= number
            case "settle", int(), Verdict(), int():
                given_back = gate.held[:number]
                gate.settle(one, float(other % 7), count=number, used=(other, other))
            case "again", int(), Verdict(), _:
                gate.settle_these(given_back[:number], one)
            case "time", float(), _, _:
                gate.pass_time(number)
        assert 0 <= gate.in_flight() <= limits.max_concurrency
        for name, rate, least in (
            ("r", limits.requests, 1),
            ("i", limits.input_tokens, 0),
            ("o", limits.output_tokens, 0),
        ):
            assert gate.bucket(name) <= max(rate * BURST_S, least) + 1e-6
        view = gate.view()
        assert 0 <= view.in_flight <= limits.max_concurrency
        assert view.wait_s >= 0
        assert view.headroom >= 0
