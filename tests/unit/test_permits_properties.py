"""Workers ask for and give back permits in any order: no limit is overrun, counted as a provider counts."""

from dataclasses import dataclass, field
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.breakers_world import TIMEOUT_S, Breaker, ClockedRedis, World, quota

from trivet_routing.limits import PERMIT_GRACE_S
from trivet_routing.permits import Quota
from trivet_tasks.jobs import Permit
from trivet_tasks.outcomes import HealthSignal

MINUTE_S = 60.0
GROUP = "claude-*+other"
MODELS = ("claude-a", "claude-b")
LEASE_S = TIMEOUT_S + PERMIT_GRACE_S

Step: TypeAlias = tuple[str, int, int, float, float]
"""Step: kind, worker, count, and two numbers from 0 to 1: sizes as parts of the limits, or time."""

SHARES = st.sampled_from([0.0, 0.001, 0.01, 0.017, 0.1, 0.3, 0.5, 0.7, 1.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["take", "take", "await"]), st.integers(0, 3), st.integers(1, 20), SHARES, SHARES),
        st.tuples(st.sampled_from(["good", "less", "unused"]), st.integers(0, 3), st.integers(1, 20), SHARES, SHARES),
        st.tuples(st.just("rush"), st.integers(0, 3), st.sampled_from([1, 5, 20, 58, 61]), SHARES, SHARES),
        st.tuples(st.just("time"), st.just(0), st.sampled_from([0, 1, 1, 7, 30, 59, 60]), SHARES, st.just(0.0)),
    ),
    max_size=25,
)


@dataclass
class Call:
    """A call as its provider sees it."""

    at: float
    uses: tuple[int, int, int]
    held: Permit
    over: bool = False


@dataclass
class Account:
    """The provider's own count of what reached it, over a rolling minute."""

    limits: Quota
    calls: list[Call] = field(default_factory=list)

    def check(self, now: float) -> None:
        lately = [call.uses for call in self.calls if call.at > now - MINUTE_S]
        allowed = (self.limits.requests, self.limits.input_tokens, self.limits.output_tokens)
        for used, limit in zip(zip(*lately, strict=True), allowed, strict=False):
            assert limit == 0 or sum(used) <= limit
        in_flight = [call for call in self.calls if not call.over and call.at > now - LEASE_S]
        assert len(in_flight) <= self.limits.max_concurrency


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=STEPS,
    limits=st.builds(
        quota,
        st.sampled_from([0, 1, 7, 600]),
        st.sampled_from([0, 60, 6_000]),
        st.sampled_from([0, 100, 90_000]),
        factor=st.sampled_from([1, 5]),
        most=st.sampled_from([1, 3, 40]),
        group=st.sampled_from(["", GROUP]),
    ),
)
def test_no_rolling_minute_gets_more_than_its_limits(valkey: ClockedRedis, steps: list[Step], limits: Quota) -> None:
    """Requests and tokens, small calls and large; those that used less than was reserved, and those never made."""
    world = World(valkey)
    models = MODELS if limits.group else MODELS[:1]
    workers = [world.breaker(models[number % len(models)], limits) for number in range(4)]
    account = Account(limits)
    for what, number, count, one, other in steps:
        breaker = workers[number]
        sizes = (
            int(one * (limits.input_tokens or 100)),
            int(other * (limits.output_tokens or 100) / limits.output_factor),
        )
        match what:
            case "take" | "await":
                ask(world, account, breaker, count, sizes, patient=what == "await")
            case "rush":
                for _ in range(count):
                    ask(world, account, breaker, 20, sizes, patient=False)
                    account.check(world.now)
                    give_back(account, breaker, "good", 20, 1.0)
                    world.pass_time(1)
            case "time":
                world.pass_time(count + one)
            case _:
                give_back(account, breaker, what, count, one)
        account.check(world.now)
        view = breaker.view()
        assert view.wait_s >= 0
        assert min(view.headroom, view.input_headroom, view.output_headroom) >= 0
        assert 0 <= view.in_flight <= view.places <= limits.max_concurrency


def ask(world: World, account: Account, breaker: Breaker, count: int, sizes: tuple[int, int], *, patient: bool) -> None:
    """Take what fits; a caller that waits as long as told gets its permit."""
    for _ in range(5):
        before = len(breaker.held)
        grant = breaker.take(count, *sizes)
        assert 0 <= grant.granted <= count
        for held in breaker.held[before:]:
            uses = 1, held.input_tokens, round(held.output_tokens * account.limits.output_factor)
            account.calls.append(Call(world.now, uses, held))
        if grant.granted or not patient or grant.reason == "concurrency":
            assert grant.granted or grant.wait_s > 0
            return
        assert grant.wait_s < 400
        world.pass_time(grant.wait_s)
    raise AssertionError("he waited as he was told, and waits still")


def give_back(account: Account, breaker: Breaker, what: str, count: int, share: float) -> None:
    held = breaker.held[:count]
    if not held:
        return
    calls = [call for call in account.calls if call.held in held]
    if what == "unused":
        account.calls = [call for call in account.calls if call not in calls]
        breaker.settle(HealthSignal.UNUSED, count=count)
        return
    part = share if what == "less" else 1.0
    for call in calls:
        call.over = True
        permit = call.held
        used = int(part * permit.input_tokens), int(part * permit.output_tokens)
        call.uses = 1, used[0], round(used[1] * account.limits.output_factor)
        breaker.settle_these([call.held], used=used)
    breaker.held = breaker.held[count:]
