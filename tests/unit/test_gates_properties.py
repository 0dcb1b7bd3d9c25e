"""Whatever comes of calls and probes, of two models of one route in any order: what must hold of gates holds."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.utils import str_if_bytes
from tests.unit.gates_world import (
    HEALTH,
    LOST_AFTER_S,
    MODEL,
    NEIGHBOUR,
    ROUTE,
    WHOLE_ROUTE,
    ClockedRedis,
    Gate,
    Held,
    World,
    quota,
)

from trivet_routing.limits import STEP_CALLS
from trivet_routing.outcome_rules import verdict_of
from trivet_routing.permits import Change, Verdict
from trivet_tasks.outcomes import Outcome, Scope
from trivet_tasks.shared_state import PREFIX

MOST = 50
SHUT = ("open", "probing")
MODELS = st.sampled_from([MODEL, NEIGHBOUR])
PROBES = st.one_of(
    st.just([Verdict.GOOD] * HEALTH.close_after_successes),
    st.lists(st.sampled_from([Verdict.GOOD, Verdict.GOOD, *Verdict]), max_size=3),
)
VERDICTS = st.one_of(st.just(Verdict.GOOD), st.sampled_from([Verdict.GOOD, Verdict.FAILED]), st.sampled_from(Verdict))


@dataclass
class Probe:
    """A token that was handed out: until it is lost, used or settled nobody gets another."""

    model: str
    token: str
    lost_at: float
    held: Held | None = None


class Gates(RuleBasedStateMachine):
    """Two models of one route, workers that call, schedulers that look."""

    def __init__(self, client: ClockedRedis, group: str) -> None:
        super().__init__()
        self.world = World(client)
        limits = quota(most=MOST, group=group)
        self.gates = {model: self.world.gate(model, limits) for model in (MODEL, NEIGHBOUR)}
        self.said = dict.fromkeys((MODEL, NEIGHBOUR, WHOLE_ROUTE), "healthy")
        self.shares = dict.fromkeys(self.said, 1.0)
        self.stepped_at = dict.fromkeys(self.said, 0.0)
        self.goods = dict.fromkeys(self.said, 0)
        self.under_way: list[Probe] = []
        self.spent_tokens: list[tuple[str, str]] = []

    # what happens

    @rule(model=MODELS, count=st.integers(1, 12))
    def call(self, model: str, count: int) -> None:
        gate = self.gates[model]
        shut, room = self.is_shut(model), gate.view().places - gate.view().in_flight
        granted = gate.take(count).granted
        if shut or gate.view().state == "limited":
            assert granted == 0
        else:
            assert granted == max(0, min(count, room))

    @rule(model=MODELS, count=st.integers(1, 12), verdict=VERDICTS, pause_s=st.sampled_from([0.0, 0.5, 40.0]))
    def settle(self, model: str, count: int, verdict: Verdict, pause_s: float) -> None:
        gate = self.gates[model]
        if gate.held:
            held, gate.held = gate.held[:count], gate.held[count:]
            self.give_back(gate, held, verdict, pause_s)

    @rule(model=MODELS, at_once=st.sampled_from([False, False, True]))
    def look(self, model: str, at_once: bool) -> None:
        due, asked = self.gates[model].view().wait_s <= 0.001, self.asked(model)
        token = self.gates[model].claim(at_once=at_once)
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
        gate = self.gates[probe.model]
        shut = self.is_shut(probe.model)
        before = len(gate.held)
        granted = gate.take(1, probe=probe.token).granted
        if granted == 0:
            return
        held = gate.held.pop()
        assert len(gate.held) == before
        if shut:
            assert probe.held is None, "a token is good for one call"
            in_flight = [p for p in self.under_way if p.held and p.lost_at > self.world.now]
            assert not [p for p in in_flight if self.guards_same(p.model, probe.model)], "one at a time"
        if probe.held is None:
            probe.held = held
        else:
            gate.held.append(held)

    @precondition(lambda self: any(probe.held for probe in self.under_way))
    @rule(data=st.data(), verdict=VERDICTS)
    def end_probe(self, data: Any, verdict: Verdict) -> None:
        probe = data.draw(st.sampled_from([probe for probe in self.under_way if probe.held]))
        self.under_way.remove(probe)
        assert probe.held
        self.spent_tokens.append((probe.model, probe.token))
        self.give_back(self.gates[probe.model], [probe.held], verdict, 1.0)

    @precondition(lambda self: self.spent_tokens)
    @rule(data=st.data())
    def deliver_again(self, data: Any) -> None:
        model, token = data.draw(st.sampled_from(self.spent_tokens))
        if self.is_shut(model):
            assert self.gates[model].take(probe=token).granted == 0

    @rule(seconds=st.sampled_from([0.1, 2.0, 10.0, 11.0, 20.0, 25.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(model=MODELS, steps=st.integers(1, 4))
    def work_well_for_a_while(self, model: str, steps: int) -> None:
        """As much as may be, so that recoveries come to their end."""
        gate = self.gates[model]
        for _ in range(steps):
            self.world.pass_time(HEALTH.recovery_step_s)
            for _ in range(STEP_CALLS):
                granted = gate.take(2 * MOST).granted
                share = min(self.shares[model], self.shares[WHOLE_ROUTE])
                assert granted <= max(1, MOST * share), "never more than its share"
                if granted:
                    held, gate.held = gate.held[-granted:], gate.held[:-granted]
                    self.give_back(gate, held, Verdict.GOOD)

    @rule(model=MODELS, then=st.integers(0, 4))
    def come_back(self, model: str, then: int) -> None:
        self.fall_ill(model, Verdict.FAILED)
        self.be_probed(model, [Verdict.GOOD] * HEALTH.close_after_successes)
        self.work_well_for_a_while(model, then)

    @rule(model=MODELS, verdict=st.sampled_from([Verdict.FAILED, Verdict.UNUSABLE_MODEL, Verdict.UNUSABLE_ROUTE]))
    def fall_ill(self, model: str, verdict: Verdict) -> None:
        gate = self.gates[model]
        for _ in range(HEALTH.open_after_failures):
            if gate.take().granted:
                self.give_back(gate, [gate.held.pop()], verdict)

    @rule(model=MODELS, verdicts=PROBES)
    def be_probed(self, model: str, verdicts: list[Verdict]) -> None:
        gate = self.gates[model]
        for verdict in verdicts:
            self.world.pass_time(LOST_AFTER_S)
            self.under_way = [p for p in self.under_way if p.lost_at > self.world.now]
            token, shut = gate.claim(), self.is_shut(model)
            if token is None:
                continue
            assert gate.claim() is None
            assert gate.claim(at_once=True) is None, "one at a time"
            granted = gate.take(5, probe=token).granted
            if shut:
                assert granted <= 1
                assert gate.take(probe=token).granted == 0, "a token is good for one call"
                assert gate.take(5).granted == 0, "no other call passes"
            if granted:
                probe, gate.held = gate.held[-granted:], gate.held[:-granted]
                self.give_back(gate, probe, verdict, 1.0)

    @rule()
    def forget(self) -> None:
        self.gates[MODEL].limits.forget(ROUTE)
        self.said = dict.fromkeys(self.said, "healthy")
        self.shares = dict.fromkeys(self.said, 1.0)
        self.under_way.clear()

    # what is known of it

    def is_shut(self, model: str) -> bool:
        return self.said[model] in SHUT or self.said[WHOLE_ROUTE] in SHUT

    def asked(self, name: str) -> bool:
        """Whether a gate that works is in doubt."""
        return bool(self.world.client.hexists(f"{PREFIX}gate:{ROUTE}:{name}", "asked"))

    def guards_same(self, one: str, other: str) -> bool:
        """Whether probes of the two are probes of one gate."""
        return one == other or self.said[WHOLE_ROUTE] != "healthy"

    def give_back(self, gate: Gate, held: list[Held], verdict: Verdict, pause_s: float = 0.0) -> None:
        """What came of the calls; only a word of a call of this generation may have moved anything."""
        known = {held.want.permit_id for held in held if gate.is_held(held)}
        for level, name in enumerate((gate.model, WHOLE_ROUTE)):
            generation = str_if_bytes(self.world.client.hget(f"{PREFIX}gate:{ROUTE}:{name}", "gen") or b"0")
            if verdict is Verdict.GOOD:
                self.goods[name] += sum(
                    one.generation.split(".")[level] == generation and one.want.permit_id in known for one in held
                )
        self.learn(gate.model, gate.settle_these(held, verdict, pause_s=pause_s))

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
        """SQL learns of changes alone: it must be able to tell how everything stands."""
        for name, said in self.said.items():
            gate = self.world.client.hgetall(f"{PREFIX}gate:{ROUTE}:{name}")
            assert str_if_bytes(gate.get(b"state", b"healthy")) == said
            if said == "recovering":
                assert float(gate[b"share"]) == self.shares[name]
            else:
                assert not {b"share", b"step", b"ramp"} & gate.keys()
        unwell = sorted((ROUTE, name) for name, said in self.said.items() if said != "healthy" or self.asked(name))
        assert self.gates[MODEL].limits.unwell() == unwell

    @invariant()
    def views_are_consistent(self) -> None:
        for model, gate in self.gates.items():
            view = gate.view()
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
def test_gates_hold_what_they_promise(valkey: ClockedRedis, no_jitter: None, group: str) -> None:
    class OfThisGroup(Gates):
        def __init__(self) -> None:
            super().__init__(valkey, group)

    run_state_machine_as_test(
        OfThisGroup,
        settings=settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=True),
    )


OF_THE_ROUTE = {Outcome.RATE_LIMITED, Outcome.UNUSABLE, Outcome.OVERLOADED, Outcome.CONNECTION}
PRIVATE = [outcome for outcome in Outcome if outcome not in (Outcome.SUCCEEDED, *OF_THE_ROUTE)]
"""What one request may bring about again and again where it was sent."""


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
    gate = world.gate()
    for outcome, checked, seconds in failures:
        verdict = Verdict.NEUTRAL if outcome is None else verdict_of(outcome, Scope.FEATURE)
        if verdict is Verdict.DOUBTED and checked:
            verdict = Verdict.CHECK
        gate.call(verdict, job="poison")
        gate.calls(others)
        world.pass_time(seconds)
        if (token := gate.claim()) is not None:
            assert gate.take(probe=token).granted == 1
            gate.settle_these([gate.held.pop()], Verdict.GOOD)
        assert gate.state == "healthy"
