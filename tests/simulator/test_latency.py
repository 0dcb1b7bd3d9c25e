"""Latencies are drawn as asked for."""

from __future__ import annotations

import random
import statistics

import pytest

from trivet_simulator import Latency


def test_fixed_with_a_time_per_token() -> None:
    assert Latency(0.2, per_output_token_s=0.01).draw(random.Random(1), 50) == pytest.approx(0.7)


def test_lognormal_has_its_median_and_p95() -> None:
    rng = random.Random(7)
    drawn = [Latency(0.2, 0.6).draw(rng, 0) for _ in range(20_000)]
    assert statistics.median(drawn) == pytest.approx(0.2, rel=0.05)
    assert statistics.quantiles(drawn, n=20)[-1] == pytest.approx(0.6, rel=0.05)


def test_the_same_seed_draws_the_same() -> None:
    first, second = ([Latency(0.2, 0.6).draw(rng, 0) for _ in range(5)] for rng in (random.Random(3), random.Random(3)))
    assert first == second
