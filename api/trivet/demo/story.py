"""The story: what is done to the providers, and when. Driven by how far the batch is, not by the clock."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trivet_simulator import Control

FULL_STOP_S = 3.0
"""How long no route at all takes calls."""


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the story: at which share of ended jobs, what a person is told, what is done."""

    at: float
    text: str
    do: Callable[[Control], None]


def _bring_back(control: Control) -> None:
    control.up("bedrock")
    control.clear("vertex")


STEPS = (
    Step(
        0.15,
        "Vertex AI refuses three calls of four: 429, retry-after 3 s",
        lambda control: control.fault("vertex", 429, share=0.75, retry_after_s=3.0),
    ),
    Step(0.25, "Bedrock goes down: its port is closed", lambda control: control.down("bedrock")),
    Step(
        0.42,
        f"the Anthropic API answers 429 as well, for {FULL_STOP_S:g} s",
        lambda control: control.fault("anthropic", 429, for_s=FULL_STOP_S),
    ),
    Step(0.60, "Bedrock and Vertex AI come back", _bring_back),
)


class Story:
    """Tells the steps in their order, each once, as the batch gets there."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._left = list(STEPS)

    def go_on(self, share: float) -> Iterator[Step]:
        """Do the steps that are due at this share of ended jobs (0 to 1); nothing when all jobs have ended."""
        while self._left and self._left[0].at <= share < 1:
            step = self._left.pop(0)
            step.do(self._control)
            yield step
