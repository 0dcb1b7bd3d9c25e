"""Choice of the calls whose answers are streamed: those that somebody reads meanwhile, and those of a kind whose answers
take long, as observed.

A plain answer is silent until it is whole: proxies and load balancers cut connections that are idle for a minute, and a
provider that has stopped looks like one at work. A streamed answer takes more CPU, so short ones are not streamed. Most
requests allow far more tokens than their answers have, so `max_tokens` decides only while nothing has been observed.
"""

from trivet_tasks.call_times import usual_s
from trivet_tasks.catalog import known
from trivet_tasks.config.settings import Settings
from trivet_worker.adapters.protocol import StreamLimits
from trivet_worker.run.calls import Call

LONG_S = 30.0
"""Seconds that one in twenty recent calls of a route, model and class must have taken for the next to be streamed."""
IDLE_S = 60.0
"""Seconds after which load balancers and proxies commonly cut an idle connection (AWS' load balancers, nginx)."""


def stream_limits(call: Call, settings: Settings, p95_s: float | None) -> StreamLimits | None:
    """Return the limits of a call's stream; None for a call whose answer comes in one piece.

    Args:
        p95_s: seconds within which 95 % of the recent calls of its route, model and class ended; None: not known.
    """
    if call.target.probe:
        return None
    terms = settings.of_class(call.target.latency)
    limits = StreamLimits(terms.first_token_timeout_s, terms.stall_timeout_s)
    always = limits != StreamLimits() or call.route.stream or call.job.streamed
    return limits if always or _is_long(call, p95_s) else None


def _is_long(call: Call, p95_s: float | None) -> bool:
    if p95_s is not None:
        return p95_s >= LONG_S
    return min(call.timeout_s, usual_s(known(call.target.model), call.job.max_tokens)) >= IDLE_S
