"""Measuring routes: what ends it early."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from tests.builders import ANTHROPIC

from trivet.admin import route_measure
from trivet_store.cluster.registry import RegisteredRoute

MODEL = "claude-sonnet-5-5"


@pytest.mark.parametrize("broken", [KeyboardInterrupt, OSError])
def test_no_route_makes_further_calls_once_it_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, broken: type[BaseException]
) -> None:
    calls: list[str] = []

    def probe_now(connections: Any, route: RegisteredRoute, *_: Any) -> Any:
        calls.append(route.name)
        return SimpleNamespace(good=True, latency_s=0.1, cost_usd=Decimal("0.001"), output_tokens=1)

    faults = iter([broken])

    def break_off() -> None:
        if len(calls) > 10:
            for fault in faults:
                raise fault

    monkeypatch.setattr(route_measure, "probe_now", probe_now)
    connections: Any = SimpleNamespace(
        prober=None,
        now=lambda: 0.0,
        directory=SimpleNamespace(costs=SimpleNamespace(maximum=lambda *_: Decimal("0.001"))),
    )
    routes = [RegisteredRoute(name, ANTHROPIC, False) for name in ("one", "two")]
    with pytest.raises(broken):
        route_measure.measure(
            connections, routes, model=MODEL, calls=100_000, max_usd=Decimal(10**9), on_call=break_off
        )
    assert len(calls) < 100_000
