"""Time that an answer takes: fixed, or lognormal with a median and a 95th percentile; plus a time per output token."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trivet_simulator.checks import ControlError, known, number

Z95 = 1.6448536269514722
"""The standard normal's 95th percentile."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds: `median_s`, `p95_s` (None: always the median), and `per_output_token_s` on top."""

    median_s: float = 0.0
    p95_s: float | None = None
    per_output_token_s: float = 0.0

    def __post_init__(self) -> None:
        if self.p95_s is not None and (self.median_s <= 0 or self.p95_s < self.median_s):
            raise ControlError("p95_s", "must not be below median_s, and median_s must be above 0")

    def draw(self, rng: random.Random, output_tokens: int) -> float:
        """One call's latency in seconds."""
        base = self.median_s
        if self.p95_s is not None:
            base *= math.exp(rng.gauss(0.0, 1.0) * math.log(self.p95_s / self.median_s) / Z95)
        return base + self.per_output_token_s * output_tokens

    def as_json(self) -> dict[str, Any]:
        """The fields as the control port shows them."""
        return asdict(self)


def latency_from(document: Mapping[str, Any]) -> Latency:
    """Read a latency from control input; ControlError names a bad field."""
    known(document, ("median_s", "p95_s", "per_output_token_s"))
    return Latency(
        median_s=number(document, "median_s", high=86_400) or 0.0,
        p95_s=number(document, "p95_s", high=86_400),
        per_output_token_s=number(document, "per_output_token_s", high=60) or 0.0,
    )
