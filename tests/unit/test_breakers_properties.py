"""Invariants of breakers, under calls and probes of two models of one route in any order."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.utils import str_if_bytes
from tests.unit.breakers_world import (
    HEALTH,
    LOST_AFTER_S,
    MODEL,
    NEIGHBOUR,
    ROUTE,
    WHOLE_ROUTE,
    Breaker,
    ClockedRedis,
    World,
    quota,
)

from trivet_routing.limits import STEP_CALLS
from trivet_routing.permits import Change
from trivet_tasks.jobs import Permit
from trivet_tasks.outcomes import HealthSignal, Outcome, Scope, signal_of
from trivet_tasks.shared_state import PREFIX

MOST = 50
SHUT = ("open", "probing")
MODELS = st.sampled_from([MODEL, NEIGHBOUR])
PROBES = st.one_of(
    st.just([HealthSignal.GOOD] * HEALTH.close_after_successes),
    st.lists(st.sampled_from([HealthSignal.GOOD, HealthSignal.GOOD, *HealthSignal]), max_size=3),
)
SIGNALS = st.one_of(
    st.just(HealthSignal.GOOD), st.sampled_from([HealthSignal.GOOD, HealthSignal.FAILED]), st.sampled_from(HealthSignal)
)


@dataclass
class Probe:
    """A token that was handed out: until it is lost, used or settled no other is given."""

    model: str
    token: str
    lost_at: float
    held: Permit | None = None


class Breakers(RuleBasedStateMachine):
    """Two models of one route, workers that call, schedulers that look."""

    def __init__(self, client: ClockedRedis, group: str) -> None:
        super().__init__()
        self.world = World(client)
        limits = quota(most=MOST, group=group)
        self.breakers = {model: self.world.breaker(model, limits) for model in (MODEL, NEIGHBOUR)}
        self.said = dict.fromkeys((MODEL, NEIGHBOUR, WHOLE_ROUTE), "healthy")
        self.shares = dict.fromkeys(self.said, 1.0)
        self.stepped_at = dict.fromkeys(self.said, 0.0)
        self.goods = dict.fromkeys(self.said, 0)
        self.under_way: list[Probe] = []
        self.spent_tokens: list[tuple[str, str]] = []

    # what happens

    @rule(model=MODELS, count=st.integers(1, 12))
    def call(self, model: str, count: int) -> None:
        breaker = self.breakers[model]
        shut, room = self.is_shut(model), breaker.view().places - breaker.view().in_flight
        granted = breaker.take(count).granted
        if shut or breaker.view().state == "limited":
            assert granted == 0
        else:
            assert granted == max(0, min(count, room))

    @rule(model=MODELS, count=st.integers(1, 12), signal=SIGNALS, pause_s=st.sampled_from([0.0, 0.5, 40.0]))
    def settle(self, model: str, count: int, signal: HealthSignal, pause_s: float) -> None:
        breaker = self.breakers[model]
        if breaker.held:
            held, breaker.held = breaker.held[:count], breaker.held[count:]
            self.give_back(breaker, held, signal, pause_s)

    @rule(model=MODELS, at_once=st.sampled_from([False, False, True]))
    def look(self, model: str, at_once: bool) -> None:
        due, asked = self.breakers[model].view().wait_s <= 0.001, self.asked(model)
        token = self.breakers[model].claim(at_once=at_once)
        if token is None:
            return
        others = [p for p in self.under_way if p.lost_at > self.world.now and self.guards_same(p.model, model)]
        assert not others, "one at a time"
        if not at_once:
            assert due
            assert asked or self.said[model] != "healthy" or self.said[WHOLE_ROUTE] != "healthy"
        if asked or self.said[model] != "healthy" or self.said[WHOLE_ROUTE] != "healthy":
            self.under_way.append(Probe(model, token, self.world.now + LOST_AFTER_S))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def start_probe(self, data: Any) -> None:
        probe = data.draw(st.sampled_from(self.under_way))
        breaker = self.breakers[probe.model]
        shut = self.is_shut(probe.model)
        before = len(breaker.held)
        granted = breaker.take(1, probe=probe.token).granted
        if granted == 0:
            return
        held = breaker.held.pop()
        assert len(breaker.held) == before
        if shut:
            assert probe.held is None, "a token is good for one call"
            in_flight = [p for p in self.under_way if p.held and p.lost_at > self.world.now]
            assert not [p for p in in_flight if self.guards_same(p.model, probe.model)], "one at a time"
        if probe.held is None:
            probe.held = held
        else:
            breaker.held.append(held)

    @precondition(lambda self: any(probe.held for probe in self.under_way))
    @rule(data=st.data(), signal=SIGNALS)
    def end_probe(self, data: Any, signal: HealthSignal) -> None:
        probe = data.draw(st.sampled_from([probe for probe in self.under_way if probe.held]))
        self.under_way.remove(probe)
        assert probe.held
        self.spent_tokens.append((probe.model, probe.token))
        self.give_back(self.breakers[probe.model], [probe.held], signal, 1.0)

    @precondition(lambda self: self.spent_tokens)
    @rule(data=st.data())
    def deliver_again(self, data: Any) -> None:
        model, token = data.draw(st.sampled_from(self.spent_tokens))
        if self.is_shut(model):
            assert self.breakers[model].take(probe=token).granted == 0

    @rule(seconds=st.sampled_from([0.1, 2.0, 10.0, 11.0, 20.0, 25.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(model=MODELS, steps=st.integers(1, 4))
    def work_well_for_a_while(self, model: str, steps: int) -> None:
        """Make as many calls as may be made, so that recoveries come to their end."""
        breaker = self.breakers[model]
        for _ in range(steps):
            self.world.pass_time(HEALTH.recovery_step_s)
            for _ in range(STEP_CALLS):
                granted = breaker.take(2 * MOST).granted
                share = min(self.shares[model], self.shares[WHOLE_ROUTE])
                assert granted <= max(1, MOST * share), "never more than its share"
                if granted:
                    held, breaker.held = breaker.held[-granted:], breaker.held[:-granted]
                    self.give_back(breaker, held, HealthSignal.GOOD)

    @rule(model=MODELS, then=st.integers(0, 4))
    def come_back(self, model: str, then: int) -> None:
        self.fall_ill(model, HealthSignal.FAILED)
        self.be_probed(model, [HealthSignal.GOOD] * HEALTH.close_after_successes)
        self.work_well_for_a_while(model, then)

    @rule(
        model=MODELS,
        signal=st.sampled_from([HealthSignal.FAILED, HealthSignal.UNUSABLE_MODEL, HealthSignal.UNUSABLE_ROUTE]),
    )
    def fall_ill(self, model: str, signal: HealthSignal) -> None:
        breaker = self.breakers[model]
        for _ in range(HEALTH.open_after_failures):
            if breaker.take().granted:
                self.give_back(breaker, [breaker.held.pop()], signal)

    @rule(model=MODELS, signals=PROBES)
    def be_probed(self, model: str, signals: list[HealthSignal]) -> None:
        breaker = self.breakers[model]
        for signal in signals:
            self.world.pass_time(LOST_AFTER_S)
            self.under_way = [p for p in self.under_way if p.lost_at > self.world.now]
            token, shut = breaker.claim(), self.is_shut(model)
            if token is None:
                continue
            assert breaker.claim() is None
            assert breaker.claim(at_once=True) is None, "one at a time"
            granted = breaker.take(5, probe=token).granted
            if shut:
                assert granted <= 1
                assert breaker.take(probe=token).granted == 0, "a token is good for one call"
                assert breaker.take(5).granted == 0, "no other call passes"
            if granted:
                probe, breaker.held = breaker.held[-granted:], breaker.held[:-granted]
                self.give_back(breaker, probe, signal, 1.0)

    @rule()
    def forget(self) -> None:
        self.breakers[MODEL].limits.forget(ROUTE)
        self.said = dict.fromkeys(self.said, "healthy")
        self.shares = dict.fromkeys(self.said, 1.0)
        self.under_way.clear()

    # what is known of it

    def is_shut(self, model: str) -> bool:
        return self.said[model] in SHUT or self.said[WHOLE_ROUTE] in SHUT

    def asked(self, name: str) -> bool:
        """Return whether a breaker that works is in doubt."""
        return bool(self.world.client.hexists(f"{PREFIX}breaker:{ROUTE}:{name}", "asked"))

    def guards_same(self, one: str, other: str) -> bool:
        """Return whether probes of the two are probes of one breaker."""
        return one == other or self.said[WHOLE_ROUTE] != "healthy"

    def give_back(self, breaker: Breaker, held: list[Permit], signal: HealthSignal, pause_s: float = 0.0) -> None:
        """Compare the breaker before and after; only a result of a call of this generation may have moved anything."""
        known = {held.id for held in held if breaker.is_held(held)}
        for level, name in enumerate((breaker.model, WHOLE_ROUTE)):
            generation = str_if_bytes(self.world.client.hget(f"{PREFIX}breaker:{ROUTE}:{name}", "gen") or b"0")
            if signal is HealthSignal.GOOD:
                self.goods[name] += sum(
                    one.generation.split(".")[level] == generation and one.id in known for one in held
                )
        self.learn(breaker.model, breaker.settle_these(held, signal, pause_s=pause_s))

    def learn(self, model: str, changes: list[Change]) -> None:
        for change in changes:
            if change.state == "limited":
                continue
            name, before = change.model, self.said[change.model]
            assert name in (model, WHOLE_ROUTE), "neighbours are left alone"
            if change.state == "recovering" and before == "recovering":
                steps = HEALTH.recovery_shares
                assert change.share == steps[steps.index(self.shares[name]) + 1], "step by step"
            elif change.state == "recovering":
                assert before in SHUT
                assert change.share == HEALTH.recovery_shares[0]
            if change.state == "healthy":
                assert before == "recovering"
                assert self.shares[name] == HEALTH.recovery_shares[-2]
            if before == "recovering" and change.state != "open":
                assert self.world.now - self.stepped_at[name] >= HEALTH.recovery_step_s
                assert self.goods[name] >= STEP_CALLS
            self.said[name] = change.state
            self.shares[name] = change.share
            self.stepped_at[name], self.goods[name] = self.world.now, 0

    # what always holds

    @invariant()
    def every_change_was_told(self) -> None:
        """SQL learns of changes only: it must be able to derive every state from them."""
        for name, said in self.said.items():
            breaker = self.world.client.hgetall(f"{PREFIX}breaker:{ROUTE}:{name}")
            assert str_if_bytes(breaker.get(b"state", b"healthy")) == said
            if said == "recovering":
                assert float(breaker[b"share"]) == self.shares[name]
            else:
                assert not {b"share", b"step", b"ramp"} & breaker.keys()
        unhealthy = sorted((ROUTE, name) for name, said in self.said.items() if said != "healthy" or self.asked(name))
        assert self.breakers[MODEL].limits.unhealthy() == unhealthy

    @invariant()
    def views_are_consistent(self) -> None:
        for model, breaker in self.breakers.items():
            view = breaker.view()
            assert view.shut == self.is_shut(model)
            recovering = [name for name in (model, WHOLE_ROUTE) if self.said[name] == "recovering"]
            assert view.share == min((self.shares[name] for name in recovering), default=1.0)
            assert (view.state == "recovering") <= bool(recovering)
            assert (view.state == "healthy") <= (not recovering)
            assert (view.wait_s > 0) == (view.state in (*SHUT, "limited"))
            assert 1 <= view.places <= MOST
            if recovering and not view.shut and view.in_flight < view.places:
                assert view.in_flight < max(1, MOST * view.share), "room only within the share"
            assert 0 <= view.failed <= view.calls


@pytest.mark.parametrize("group", ["", "claude-*"])
def test_breakers_hold_what_they_promise(valkey: ClockedRedis, no_jitter: None, group: str) -> None:
    class OfThisGroup(Breakers):
        def __init__(self) -> None:
            super().__init__(valkey, group)

    run_state_machine_as_test(
        OfThisGroup,
        settings=settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=True),
    )


OF_THE_ROUTE = {Outcome.RATE_LIMITED, Outcome.UNUSABLE, Outcome.OVERLOADED, Outcome.CONNECTION}
PRIVATE = [outcome for outcome in Outcome if outcome not in (Outcome.SUCCEEDED, *OF_THE_ROUTE)]
"""Result that one request may bring about again and again where it was sent."""


@given(
    failures=st.lists(
        st.tuples(st.sampled_from([*PRIVATE, None]), st.booleans(), st.sampled_from([0.0, 0.5, 7.0, 40.0])), max_size=40
    ),
    others=st.sampled_from([0, 1, 5]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_one_jobs_private_failures_close_no_route_that_answers_others(
    valkey: ClockedRedis, failures: list[tuple[Outcome | None, bool, float]], others: int
) -> None:
    world = World(valkey)
    breaker = world.breaker()
    for outcome, checked, seconds in failures:
        signal = HealthSignal.NEUTRAL if outcome is None else signal_of(outcome, Scope.FEATURE)
        if signal is HealthSignal.DOUBTED and checked:
            signal = HealthSignal.CHECK
        breaker.call(signal, job="poison")
        breaker.calls(others)
        world.pass_time(seconds)
        if (token := breaker.claim()) is not None:
            assert breaker.take(probe=token).granted == 1
            breaker.settle_these([breaker.held.pop()], HealthSignal.GOOD)
        assert breaker.state == "healthy"
