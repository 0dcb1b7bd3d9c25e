"""Assumptions of a plan, as sentences under its table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from trivet.plan.outlook import Outlook
from trivet.plan.terms import Per, Terms, digits, percent
from trivet_tasks.catalog import known
from trivet_tasks.config.route_settings import LimitGroup, RouteSettings

MAX_DETOURS = 4
"""Maximum number of detours shown."""


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of the work of a plan."""

    prices: str
    """Day and version of the price lists."""
    file: str | None = None
    """Name of the file; None: a volume."""
    requests: int = 0
    """Number of requests in the file."""
    repeated: int = 0
    """Number of its lines that come to no job of their own."""
    left_out: int = 0
    """Number of its bad lines."""
    runs: Decimal = Decimal(1)
    """Runs per day."""
    expected_output: str = ""
    """Expected length of an answer, where less than `max_tokens`."""
    tokens_per_call: Decimal | None = None
    input_share: Decimal = Decimal(0)
    bytes_per_token: Decimal = Decimal(0)


def assumptions(source: Source, terms: Terms, outlooks: Sequence[Outlook]) -> Iterator[str]:
    """Yield a sentence for each assumption, those that change the figures most first."""
    yield from _of_file(source) if source.file is not None else _of_volume(source)
    yield f"A month has {digits(terms.days)} equal days; monthly charges are spread over them."
    if terms.cache_read_share:
        yield (
            f"{percent(terms.cache_read_share)} of the input is read from the provider's prompt cache, at its price; the "
            "cost of writing it there is not counted, and cached input does not count against limits."
        )
    yield "Every call succeeds at once: no failed attempts, hedges or probes, and no answers from Trivet's own cache."
    negotiated = [name for name, route in terms.routes.items() if route.prices]
    but = f"; negotiated ones on {', '.join(negotiated)}" if negotiated else " or discounts ([[routes.NAME.prices]])"
    yield (
        f"List prices of {source.prices}, without taxes{but}, for single calls: not the prices of the providers' batch "
        "APIs."
    )
    pairs = {(part.route, part.load.requirements.model) for outlook in outlooks for part in outlook.parts}
    for route, model in sorted(pairs):
        if note := terms.tariff_of(route, model).note:
            yield f"The price of {model} on {route} is an estimate: {note}."
    if any(one.charge.per is Per.GB_OUT for outlook in outlooks for one in outlook.charged):
        how = (
            "as they are in the file"
            if source.file is not None
            else f"{digits(source.bytes_per_token)} bytes for each input token (--bytes-per-token)"
        )
        yield f"Data out: bodies of requests alone, {how}; 1 GB is 10^9 bytes."
    yield from _of_time(terms, pairs)
    detours = sorted({why for outlook in outlooks for why in outlook.detours})
    if detours:
        more = f" · and {len(detours) - MAX_DETOURS:,} more" if len(detours) > MAX_DETOURS else ""
        yield (
            "Calls that a route of a mix cannot take go to its other routes, in the proportions of their shares: "
            f"{' · '.join(detours[:MAX_DETOURS])}{more}."
        )


def _of_file(source: Source) -> Iterator[str]:
    often = "once a day" if source.runs == 1 else f"{digits(source.runs)} times a day"
    yield f"{source.file} runs {often}: {source.requests:,} requests."
    if source.repeated:
        yield f"{source.repeated:,} of its lines repeat an earlier line's key and request and are not counted."
    if source.left_out:
        yield f"{source.left_out:,} bad lines of it are left out."
    yield "Input tokens are Trivet's estimate from the size of each request, on the high side."
    if source.expected_output:
        yield f"An answer has {source.expected_output}; DAY MAX, MONTH MAX and TIME MAX take every answer to be as long as its max_tokens."
    else:
        yield (
            "Every answer is as long as its max_tokens, so this is the most it can be; give the expected length with "
            "--output-tokens, --output-share-of-max or --output-observed."
        )


def _of_volume(source: Source) -> Iterator[str]:
    if source.tokens_per_call is None:
        yield (
            "Without --tokens-per-call the number of calls is not known: request limits are ignored, and prompts are "
            "taken to be too short for long-prompt prices."
        )
        return
    incoming = source.tokens_per_call * source.input_share
    outgoing = source.tokens_per_call - incoming
    yield (
        f"A call has {_grouped(source.tokens_per_call)} tokens: {_grouped(incoming)} of input, {_grouped(outgoing)} of output."
    )


def _of_time(terms: Terms, pairs: set[tuple[str, str]]) -> Iterator[str]:
    yield (
        "Time: routes work in parallel, for this work alone, and their limits are used in full (Trivet reaches about "
        "98 %); there are enough workers."
    )
    rates = {model: known(model) for model in sorted({model for _, model in pairs})}
    speeds = [f"{name} {model.output_tokens_per_s}" for name, model in rates.items() if model is not None]
    if speeds:
        yield f"Output tokens a second of one call, roughly: {', '.join(speeds)}."
    for name in sorted({route for route, _ in pairs}):
        if (factor := terms.routes[name].output_token_factor) != 1:
            yield f"On {name} a token of output counts as {factor:g} of its limit (output_token_factor)."
    windowed = [name for name in sorted({route for route, _ in pairs}) if terms.routes[name].windows]
    if windowed:
        yield f"Off-peak windows of {', '.join(windowed)} are ignored: every hour counts as one outside of them."
    strangers = [name for name, model in rates.items() if model is None]
    if strangers:
        yield f"The speed of answers is not known for {', '.join(strangers)}: calls in flight are no limit there."
    unlimited = [name for name in sorted({route for route, _ in pairs}) if not _limited(terms.routes[name])]
    if unlimited:
        yield f"No limits are configured for {', '.join(unlimited)}: the account's own may bind sooner."


def _limited(route: RouteSettings) -> bool:
    """Return whether a limit per minute is configured for it."""
    figures: tuple[RouteSettings | LimitGroup, ...] = (route, *route.limits)
    return any(
        one.requests_per_minute or one.input_tokens_per_minute or one.output_tokens_per_minute for one in figures
    )


def _grouped(tokens: Decimal) -> str:
    """Return a number of tokens with its thousands apart, and no more decimals than it has, up to two."""
    return f"{tokens:,.0f}" if tokens == tokens.to_integral_value() else f"{tokens:,.2f}"
