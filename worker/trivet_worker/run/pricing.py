"""Settlement of calls: the cost of a call after it."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from trivet_store.steps import CallTarget, Settlement
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import RULES, Outcome, Usage
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.prices.price_records import record_of
from trivet_worker.adapters.answers import content_tokens
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.calls import Call

MAX_USD = Decimal(10_000)
"""Maximum plausible cost of a single call: with more, its usage is not believed."""


class Pricing:
    """A process's price book as attempt rows need it.

    Args:
        costs: the process's cost model.
        now: the database's time, seconds since the epoch: a call has the price of the day on which it began.
    """

    def __init__(self, costs: CostModel, now: Callable[[], float]) -> None:
        self._costs = costs
        self._now = now
        self._book = costs.book

    def warm(self) -> None:
        """Load the price list now rather than at the first call (0.2 s)."""
        self._book.tariff("anthropic", "claude-haiku-4-5", "claude-haiku-4-5", None, self._moment())

    def maximum_cost(
        self, target: CallTarget, route: RouteSettings, input_tokens: int, max_tokens: int
    ) -> Decimal | None:
        """Return the maximum cost of a call that begins now and writes to no prompt cache; None: unpriced."""
        return self._costs.maximum(route, target.model, target.wire_model, self._now(), input_tokens, max_tokens)

    def settled(self, call: Call, answer: Answer, latency_s: float) -> Settlement:
        """Return the cost of a good call; an estimate where its usage is not known."""
        settlement = Settlement(
            attempt_id=call.job.attempt_id,
            outcome=Outcome.SUCCEEDED,
            latency_s=latency_s,
            status=200,
            request_id=answer.request_id,
        )
        if answer.usage is not None:
            settled = self._by_usage(call, answer.usage, settlement)
            if _is_believable(settled):
                return settled
        settled = self._by_usage(call, likely_usage(call, answer), settlement)
        if _is_believable(settled):
            return replace(settled, estimated=True)
        return replace(settlement, cost_usd=MAX_USD, estimated=True, price_version=self._book.version)

    def failed(self, call: Call, failure: Failure, latency_s: float, *, called: bool) -> Settlement:
        """Return a failed call's cost: nothing, that of its usage, or, where its fate is not known, at most the estimate."""
        settlement = Settlement(
            attempt_id=call.job.attempt_id,
            outcome=failure.outcome,
            latency_s=latency_s,
            status=failure.status,
            request_id=failure.request_id,
            message=failure.message,
            cost_usd=Decimal(0),
            price_version=self._book.version,
        )
        if failure.usage is not None:
            settled = self._by_usage(call, failure.usage, settlement)
            if _is_believable(settled):
                return settled
        nobody_knows = RULES[failure.outcome].may_be_billed or failure.may_be_billed or failure.own_fault
        if called and (nobody_knows or failure.usage is not None):
            return replace(settlement, cost_usd=self.maximum_cost_of(call), estimated=True)
        return settlement

    def unread(self, call: Call, result: Answer | Failure, latency_s: float) -> Settlement:
        """Return the maximum cost of a call whose settlement failed by a fault of Trivet's own."""
        return Settlement(
            attempt_id=call.job.attempt_id,
            outcome=result.outcome if isinstance(result, Failure) else Outcome.SUCCEEDED,
            latency_s=latency_s,
            status=result.status if isinstance(result, Failure) else 200,
            message=result.message if isinstance(result, Failure) else None,
            cost_usd=self.maximum_cost_of(call),
            estimated=True,
        )

    def maximum_cost_of(self, call: Call) -> Decimal | None:
        """Return the maximum cost of this call in USD."""
        job = call.job
        cost = job.prompt.maximum_cost(self.maximum_cost(job.target, call.route, job.input_estimate, job.max_tokens))
        return None if cost is None else min(cost, MAX_USD)

    def _moment(self, ago_s: float = 0.0) -> datetime:
        return datetime.fromtimestamp(self._now() - ago_s, UTC)

    def _by_usage(self, call: Call, usage: Usage, settlement: Settlement) -> Settlement:
        """Return the price of the stated usage, as of the day on which the call began; None: unpriced."""
        target, region = call.target, call.route.region
        began = self._moment(time.monotonic() - call.born_at)
        priced = self._book.price(
            call.route.provider, target.model, target.wire_model, region, began, usage, prices=call.route.prices
        )
        return replace(settlement, usage=usage, **record_of(priced, region, usage)._asdict())


def likely_usage(call: Call, answer: Answer) -> Usage:
    """Return an estimate of a usage that was not stated: the estimated prompt, and the answer by its size."""
    job = call.job
    return Usage(job.input_estimate, min(job.max_tokens, content_tokens(answer.message)))


def _is_believable(settlement: Settlement) -> bool:
    return settlement.cost_usd is None or settlement.cost_usd <= MAX_USD
