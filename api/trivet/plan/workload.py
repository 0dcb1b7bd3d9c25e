"""Work of a day: from a file of requests, or from a volume of tokens."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from trivet.plan.terms import divided, exact
from trivet_routing.route_choice import Requirements
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency

MAX_OWNERS = 200
"""Classes and tenants that are told apart among the calls of one load."""
OTHER_TENANTS = "(other tenants)"


class Owner(NamedTuple):
    """A class and a tenant whose calls wait if no route takes them."""

    latency: Latency
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Load:
    """The calls of a day that the same routes may take at the same price."""

    requirements: Requirements
    above: int
    """Length in tokens that their prompts exceed: the largest such one at which some route's price changes."""
    calls: Decimal | None
    """None: not known."""
    input_tokens: Decimal
    output_tokens: Decimal
    bytes_out: Decimal
    """Bytes of request bodies."""
    owners: tuple[tuple[Owner, Decimal], ...] = ()
    """Classes and tenants of the calls, with the number of their calls; empty where they are not known."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a day."""

    loads: tuple[Load, ...]
    at_most: tuple[Load, ...] | None = None
    """The same work with as much output as may come; None: no other than `loads`."""


LoadKind: TypeAlias = tuple[Requirements, int]
"""Requirements and `above` of the load that a request belongs to."""
Steps: TypeAlias = Callable[[str], Sequence[int]]
"""Returns the prompt lengths of a model above which some route has another price, ascending, without the -1 of the shortest."""


def volume(
    model: str,
    tokens: Decimal,
    *,
    input_share: Decimal,
    tokens_per_call: Decimal | None,
    bytes_per_token: Decimal,
    steps: Sequence[int] = (),
) -> Workload:
    """Return a day of `tokens` tokens, input and output together, of which `input_share` (0 to 1) is input.

    With `tokens_per_call` None the number of calls is not known, and prompts are taken to be short.
    """
    with exact():
        incoming = tokens * input_share
        calls = None if tokens_per_call is None else divided(tokens, tokens_per_call)
        prompt = Decimal(0) if tokens_per_call is None else tokens_per_call * input_share
        load = Load(
            Requirements(model, Latency.BATCH),
            _above(prompt, steps),
            calls,
            incoming,
            tokens - incoming,
            incoming * bytes_per_token,
        )
    return Workload((load,))


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    input_tokens: int = 0
    expected: int = 0
    most: int = 0
    bytes_out: int = 0
    owners: Counter[Owner] = field(default_factory=Counter)


class WorkloadCounter:
    """Adds up the requests of a file without keeping any of them."""

    def __init__(self, steps: Steps, output_tokens: int | None = None) -> None:
        """Take the expected tokens of an answer, if its `max_tokens` allows them; None: `max_tokens`."""
        self._steps = steps
        self._expected = output_tokens
        self._sums: dict[tuple[Requirements, int], _Sums] = {}

    def add(self, job: JobSpec) -> LoadKind:
        """Count one request and return its kind."""
        requirements = Requirements(job.model, Latency.BATCH, job.residency, job.compliance, job.features)
        above = _above(job.input_estimate, self._steps(job.model))
        sums = self._sums.setdefault((requirements, above), _Sums())
        sums.calls += 1
        sums.input_tokens += job.input_estimate
        sums.most += job.max_tokens
        sums.expected += job.max_tokens if self._expected is None else min(self._expected, job.max_tokens)
        sums.bytes_out += len(job.body)
        owner = Owner(job.latency, job.tenant)
        if owner not in sums.owners and len(sums.owners) >= MAX_OWNERS:
            owner = Owner(job.latency, OTHER_TENANTS)
        sums.owners[owner] += 1
        return requirements, above

    def workload(self, runs: Decimal, share_of_max: Decimal | Mapping[str, Decimal] | None = None) -> Workload:
        """Return the counted work `runs` times a day.

        Args:
            share_of_max: the part of `max_tokens` that answers are to have; by model (of others: all) or of every one.
        """
        with exact():
            most, expected = [], []
            for (requirements, above), sums in self._sums.items():
                load = Load(
                    requirements,
                    above,
                    sums.calls * runs,
                    sums.input_tokens * runs,
                    sums.most * runs,
                    sums.bytes_out * runs,
                    tuple((owner, calls * runs) for owner, calls in sums.owners.most_common()),
                )
                share = share_of_max.get(requirements.model) if isinstance(share_of_max, Mapping) else share_of_max
                output = sums.expected * runs if share is None else sums.most * runs * share
                most.append(load)
                expected.append(replace(load, output_tokens=output))
        return Workload(tuple(expected), None if expected == most else tuple(most))


def _above(prompt: Decimal | int, steps: Sequence[int]) -> int:
    passed = bisect_left(steps, prompt)
    return steps[passed - 1] if passed else -1
