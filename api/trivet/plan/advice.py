"""Advice on a plan: each way to pay less that the file, the prices and the routes show, with its saving and what to change.

Every saving is reckoned alone, on the cheapest scenario: two together save less than their sum.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from trivet.plan.outlook import Obstacle, Outlook, Part, outlook
from trivet.plan.shared_prefixes import KEPT_S, Keep, Use, Used, saving
from trivet.plan.survey import Survey
from trivet.plan.terms import Per, Scenario, Terms, divided, exact, percent
from trivet.plan.workload import Load, LoadKind
from trivet_tasks.catalog import known
from trivet_tasks.requests.eligibility import FAMILIES, family_of, lasting

LEAST_USD = Decimal("0.01")
LEAST_SHARE = Decimal("0.01")
"""Smaller savings are left out: in USD a day, and as a part of the day's cost."""
_NONE = Decimal(0)
_LONG = 0.95


class AdviceKind(StrEnum):
    """The subject of an advice."""

    CONTEXT_WINDOW = "context window"
    CALL_TIME = "time of a call"
    REPEATED_REQUESTS = "repeated requests"
    PROMPT_CACHE = "prompt cache"
    PROMPT_LENGTHS = "prompt lengths"
    LONG_PROMPT_PRICES = "long-prompt prices"
    MODEL = "model"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class Advice:
    """One way to pay less, or requests that will fail."""

    kind: AdviceKind
    day_usd: Decimal | None
    """Saving in USD a day; None: it is about failures."""
    finding: str
    """Finding, in one sentence or two."""
    change: str
    """The change to make; empty: it is in force already, and the plan does not count it."""


@dataclass(frozen=True, slots=True)
class Basis:
    """A scenario that advice is reckoned on."""

    scenario: Scenario
    expected: Outlook
    loads: tuple[Load, ...]
    terms: Terms

    def cost(self, loads: Sequence[Load], scenario: Scenario | None = None) -> Decimal | None:
        """Return the cost of other calls in USD a day, without fixed charges; None where they cannot be made."""
        found = outlook(scenario or self.scenario, loads, self.terms)
        return None if isinstance(found, Obstacle) else _without_fixed(found)

    def parts_of(self, kind: LoadKind) -> list[Part]:
        """Return the parts of the loads of a kind."""
        return [part for part in self.expected.parts if (part.load.requirements, part.load.above) == kind]


def _without_fixed(found: Outlook) -> Decimal:
    with exact():
        by_call = (one.day_usd for one in found.charged if one.charge.per is not Per.MONTH)
        return found.input_usd + found.output_usd + sum(by_call, _NONE)


def advise(basis: Basis, survey: Survey | None) -> tuple[Advice, ...]:
    """Return all advice: failures first, then savings by their amount, the largest first.

    Args:
        survey: of the file; None: the work is a volume.

    Example:
        advise(Basis(scenario, expected, work.loads, terms), survey)[0].change
    """
    found = [*_models(basis), *_routes(basis)]
    if survey is not None:
        found += [*_windows(survey), *_call_times(survey), *_repeats(basis, survey), *_prompt_cache(basis, survey)]
        found += [*_lengths(basis, survey), *_long_prompts(basis, survey)]
    with exact():
        least = max(LEAST_USD, LEAST_SHARE * basis.expected.day_usd)
    told = [one for one in found if one.day_usd is None or one.day_usd >= least]
    return tuple(sorted(told, key=lambda one: (one.day_usd is not None, -(one.day_usd or _NONE))))


def _windows(survey: Survey) -> Iterator[Advice]:
    for model, found in survey.too_long.items():
        few = found.calls <= len(found.lines)
        yield Advice(
            AdviceKind.CONTEXT_WINDOW,
            None,
            f"{found.calls:,} requests may not fit the context window of {model}, {found.window:,} tokens: prompt as "
            f"estimated, and max_tokens ({_lines(found.lines)}{'' if few else ', …'}).",
            "Shorten them, lower their max_tokens, or take a model with a larger window. The provider refuses a longer "
            "prompt and cuts an answer at the window.",
        )


def _call_times(survey: Survey) -> Iterator[Advice]:
    for found in survey.too_slow:
        few = found.calls <= len(found.lines)
        yield Advice(
            AdviceKind.CALL_TIME,
            None,
            f"{found.calls:,} requests do not fit {found.limit} ({_lines(found.lines)}{'' if few else ', …'}).",
            found.why,
        )


def _repeats(basis: Basis, survey: Survey) -> Iterator[Advice]:
    change = (
        'Answer them once: --cache of `trivet bulk`, cache=True in Python, "cache": true in a line, or [cache] enabled = '
        "true. Do not if you want several answers to one prompt."
    )
    for work, what in ((survey.repeats, change), (survey.cached, "")):
        usd = basis.cost(work.loads) if work.loads else None
        if usd is not None:
            calls = sum((load.calls or _NONE for load in work.loads), _NONE)
            every = survey.rows * survey.runs
            finding = f"{calls:,.0f} of {every:,.0f} requests a day repeat an earlier one ({percent(calls / every)})."
            yield Advice(AdviceKind.REPEATED_REQUESTS, usd, finding, what)


def _prompt_cache(basis: Basis, survey: Survey) -> Iterator[Advice]:
    if basis.terms.cache_read_share:  # the figures have such a saving already
        return
    by_asked: dict[str | None, list[tuple[Use[LoadKind], Used]]] = {}
    for use, used in survey.prefixes.items():
        by_asked.setdefault(use.asked, []).append((use, used))
    for asked, uses in by_asked.items():
        keeps = [keep for keep in KEPT_S if asked in (None, keep)]
        savings = {keep: _cached(basis, survey, uses, keep) for keep in keeps}
        keep = max(keeps, key=lambda one: savings[one])
        yield Advice(
            AdviceKind.PROMPT_CACHE,
            savings[keep],
            _shared_words([used for _, used in uses]),
            "" if asked else f'Mark them: --prompt-cache {keep} of `trivet bulk`, or prompt_cache="{keep}" in Python.',
        )


def _shared_words(uses: Sequence[Used]) -> str:
    calls, prefixes = sum(used.calls for used in uses), sum(used.prefixes for used in uses)
    tokens = round(sum(used.prefix_tokens for used in uses) / prefixes)
    which = (
        f"a prefix of about {tokens:,} tokens" if prefixes == 1 else f"{prefixes:,} prefixes of about {tokens:,} tokens"
    )
    return f"{calls:,} requests of a run share {which} (tools, system prompt, leading blocks)."


def _cached(basis: Basis, survey: Survey, uses: Iterable[tuple[Use[LoadKind], Used]], keep: Keep) -> Decimal:
    """Return what the prompt cache saves in USD a day, its surcharges deducted."""
    with exact():
        bound = basis.expected.bound
        line_s = float(divided(bound.seconds, survey.runs * survey.rows)) if bound else 0.0
        total = _NONE
        for use, used in uses:
            parts = basis.parts_of(use.kind)
            routes = [(part.share, part.prices) for part in parts]
            call_s = _call_s(parts[0].load) if parts else 0.0
            total += saving(use, used, routes, keep, line_s=line_s, call_s=call_s)
        return total * survey.runs


def _call_s(load: Load) -> float:
    model = known(load.requirements.model)
    return float(load.output_tokens / load.calls / model.output_tokens_per_s) if model and load.calls else 0.0


def _lengths(basis: Basis, survey: Survey) -> Iterator[Advice]:
    for model, lengths in survey.lengths.items():
        parts = [part for part in basis.expected.parts if part.load.requirements.model == model]
        tokens = sum((part.input_tokens for part in parts), _NONE)
        long = lengths.quantile(_LONG)
        if not tokens:
            continue
        with exact():
            excess = lengths.beyond(long) * survey.runs
            usd = divided(excess * sum((part.input_usd for part in parts), _NONE), tokens)
        yield Advice(
            AdviceKind.PROMPT_LENGTHS,
            usd,
            f"Prompts of {model} have about {lengths.quantile(0.5):,} tokens (p50), {long:,} (p95), at most "
            f"{lengths.most:,}; what exceeds p95 is {percent(divided(excess, tokens))} of the input.",
            f"Shorten the longest to p95: {_lines(lengths.longest_lines)}, …",
        )


def _long_prompts(basis: Basis, survey: Survey) -> Iterator[Advice]:
    by_model: dict[str, list[Part]] = {}
    for part in basis.expected.parts:
        if part.prices.above >= 0 and part.calls:
            by_model.setdefault(part.load.requirements.model, []).append(part)
    for model, parts in by_model.items():
        calls = sum((part.calls or _NONE for part in parts), _NONE)
        above = min(part.prices.above for part in parts)
        yield Advice(
            AdviceKind.LONG_PROMPT_PRICES,
            sum((_of_tier(part, basis.terms) for part in parts), _NONE),
            f"{calls:,.0f} prompts of {model} a day have more than {above:,} tokens, which makes every token dearer.",
            f"Keep them at {above:,} tokens; the longest: {_lines(survey.lengths[model].longest_lines)}, …",
        )


def _of_tier(part: Part, terms: Terms) -> Decimal:
    """Return the cost of a part above that of the same calls with prompts just short enough for the next price."""
    tiers = terms.tariff_of(part.route, part.load.requirements.model).tiers
    lower = next(tier for tier in tiers if tier.above < part.prices.above)
    with exact():
        short = (part.calls or _NONE) * part.prices.above * lower.input + part.output_tokens * lower.output
        return part.input_usd + part.output_usd - short


def _models(basis: Basis) -> Iterator[Advice]:
    for model in dict.fromkeys(load.requirements.model for load in basis.loads):
        loads = [load for load in basis.loads if load.requirements.model == model]
        now = basis.cost(loads)
        costs = {other: basis.cost([_with(load, other) for load in loads]) for other in cheaper_models(model)}
        for family in (family_of(model), _next_smaller(model)):
            of_family = {other: usd for other, usd in costs.items() if usd is not None and family_of(other) == family}
            if of_family and now is not None:
                other = min(of_family, key=lambda one: of_family[one])
                yield Advice(
                    AdviceKind.MODEL,
                    now - of_family[other],
                    f"The same tokens would cost {_usd(of_family[other])} with {other} instead of {_usd(now)} with {model}.",
                    f'Try "model": "{other}" on a sample and compare the answers: it is another model, not an equal.',
                )


def _with(load: Load, model: str) -> Load:
    return replace(load, requirements=replace(load.requirements, model=model))


def cheaper_models(model: str) -> tuple[str, ...]:
    """Return models that may do the same for less: others of the family, and the newest of the next smaller one.

    Those with a smaller context window or shorter answers are left out, and so are those that somebody retires.
    """
    own = known(model)
    if own is None:
        return ()
    candidates = [*lasting(family_of(model)), *lasting(_next_smaller(model))[:1]]
    return tuple(
        other.id
        for other in map(known, candidates)
        if other is not None
        and other.id != own.id
        and other.context_window >= own.context_window
        and other.max_output_tokens >= own.max_output_tokens
    )


def _next_smaller(model: str) -> str | None:
    family = family_of(model)
    at = FAMILIES.index(family) if family else 0
    return FAMILIES[at - 1] if at else None


def _routes(basis: Basis) -> Iterator[Advice]:
    now = _without_fixed(basis.expected)
    costs = {name: basis.cost(basis.loads, Scenario(name, {name: Decimal(1)})) for name in basis.terms.routes}
    priced = {name: usd for name, usd in costs.items() if usd is not None}
    if not priced:
        return
    name = min(priced, key=lambda one: priced[one])
    yield Advice(
        AdviceKind.ROUTE,
        now - priced[name],
        f"{name} alone would do it for {_usd(priced[name])} instead of {_usd(now)}, fixed charges apart.",
        f'Leave the order of its class at "cost": {name} then gets the work first, as far as its limits allow.',
    )


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def _lines(numbers: Sequence[int]) -> str:
    return f"line{'' if len(numbers) == 1 else 's'} {', '.join(f'{number:,}' for number in numbers)}"
