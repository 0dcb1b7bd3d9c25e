"""Builders of what `trivet routes` shows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.text import Text
from tests.builders import MODEL, pace

from trivet.admin import ClusterStatus, ModelStatus, RouteStatus
from trivet_routing.permits import Quota
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.latency import Latency
from trivet_tasks.states import RouteState

NOW = 1_800_000_000.0
HAIKU = "claude-haiku-4-5"
LIMITED = {
    "provider": "bedrock",
    "requests_per_minute": 600,
    "input_tokens_per_minute": 300_000,
    "limits": [{"models": ["claude-haiku-*"], "requests_per_minute": 1_000}],
}


def model(name: str = MODEL, state: str = "healthy", settings: Any = None, **terms: Any) -> ModelStatus:
    quota = Quota.of(RouteSettings.model_validate(settings or {"provider": "bedrock"}), name)
    return replace(ModelStatus(name, RouteState(state), quota, places=200, since=NOW - 200), **terms)


def status(name: str, *models: ModelStatus, settings: Any = None, **terms: Any) -> RouteStatus:
    found = RouteStatus(
        name=name,
        settings=RouteSettings.model_validate(settings or {"provider": "bedrock"}),
        drained=False,
        known=True,
        queued=12,
        running=34,
        slots={"bulk": 512, "realtime": 512},
        workers={"bulk": 2, "realtime": 2},
        models=models or (model(),),
    )
    return replace(found, **terms)


def picture(*routes: RouteStatus, **terms: Any) -> ClusterStatus:
    return replace(ClusterStatus(routes, (), (), (), (), NOW), **terms)


def plain(lines: Sequence[Text]) -> list[str]:
    return [line.plain for line in lines]


BUSY = picture(
    status("anthropic", model(since=None, in_flight=3, calls=120, failed=0, paces={Latency.BATCH: pace(0.5, 1.2)})),
    status(
        "bedrock-us-east-1",
        model(
            HAIKU, "recovering", LIMITED, cause="good probes", share=0.25, places=50, in_flight=48, calls=41, failed=3,
            requests=7.6, paces={Latency.REALTIME: pace(0.2, 0.4), Latency.BATCH: pace(1.5, 3.0)},
        ),
        model(MODEL, "open", LIMITED, cause="overloaded: Overloaded", wait_s=12.4, requests=0.0, input_tokens=4_900.0),
        settings=LIMITED,
    ),
)  # fmt: skip
