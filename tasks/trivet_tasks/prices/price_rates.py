"""Rates of a call: finds the entry of genai-prices for what the wire was asked for, and turns it into whole numbers.

Its lists match ids by fragments, and silently: `google` answers for a model it does not list with Anthropic's entry, a
fragment may fit a model of tomorrow, an ARN may fit nothing. So an entry is checked against the name asked for.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from trivet_tasks.catalog import MANTLE_IDS, Provider, bare_name, known, same_model, version_of
from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.prices.price_rules import (
    CACHE_WRITE_1H_FACTOR,
    LONG_CONTEXT_ENDED,
    RULES,
    SAME_PRICE,
    WEB_SEARCH_PER_1000,
    Case,
    Rule,
)

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

_BEDROCK_ID = re.compile(r"(?:(?P<profile>[a-z-]+)\.)?anthropic\.(?P<name>claude-.+)")

Place: TypeAlias = Literal["regional", "us_gov"]
"""Places where a call costs more than the listed price: one geography; AWS GovCloud."""

DECIMALS = 12
"""Decimal places that hold every price per token met so far, in USD."""

EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
"""Arithmetic of prices: it raises rather than rounds."""
_MILLION, _THOUSAND = Decimal(1_000_000), Decimal(1000)
# How genai-prices falls back: a kind without a price of its own is priced as the next one named.
_KIND_KEYS = {
    "input": ("input_mtok",),
    "output": ("output_mtok",),
    "cache_read": ("cache_read_mtok", "input_mtok"),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
}
_TOKEN_KEYS = tuple(dict.fromkeys(key for keys in _KIND_KEYS.values() for key in keys))


@dataclass(frozen=True, slots=True)
class Listing:
    """A list's entry for what was called, and what it is short of."""

    info: "ModelInfo"
    model: str
    """The first-party id that is priced."""
    add: Place | None = None
    """The place whose premium the listed price lacks; None = it lacks none."""
    note: str = ""
    """Reason for which the price is an estimate; empty = it is not."""
    rules: Provider | None = None
    """The provider whose rules hold; None = the route's. Claude Platform on AWS has Anthropic's prices."""


def find_listing(provider: Provider, model: str, wire_model: str, region: str | None) -> Listing | str:
    """The entry for this call, or a sentence saying why there is none. See `PriceBook.price` for the arguments."""
    listing: Listing | None
    match provider:
        case "anthropic":
            listing = _on_anthropic(wire_model, model)
        case "vertex":
            listing = _on_vertex(wire_model, model, region)
        case "bedrock":
            if "provisioned-model" in wire_model or "imported-model" in wire_model:
                return f"{wire_model} is paid by the hour, not by tokens"
            listing = _on_bedrock(wire_model, model, region)
    return listing or f"no list has a price for {wire_model!r} ({model}) on {provider}"


def _on_anthropic(wire_model: str, model: str) -> Listing | None:
    if info := _entry("anthropic", wire_model):
        return Listing(info, bare_name(wire_model))
    alike = SAME_PRICE.get(bare_name(wire_model))
    if alike and (info := _entry("anthropic", alike)):
        return Listing(info, bare_name(wire_model))
    if info := _entry("anthropic", model):
        return Listing(info, bare_name(model), note=f"{wire_model!r} priced as {model}")
    return None


def _on_vertex(wire_model: str, model: str, region: str | None) -> Listing | None:
    wire_model = wire_model.rpartition("/")[2]
    regional: Place | None = "regional" if region != "global" else None
    if info := _entry("google", wire_model):
        return Listing(info, bare_name(wire_model), regional, "" if region else "region not known, priced as regional")
    if info := _entry("google", model):
        return Listing(info, bare_name(model), regional, f"{wire_model!r} priced as {model}")
    # as genai-prices does: Google's prices of Claude models have been Anthropic's so far
    if listing := _on_anthropic(wire_model, model):
        return Listing(listing.info, listing.model, regional, "not in Google's list, priced by Anthropic's")
    return None


def _on_bedrock(wire_model: str, model: str, region: str | None) -> Listing | None:
    """Price by the id on the wire, whichever of Bedrock's APIs takes it (`RouteSettings.endpoint`).

    InvokeModel and the Messages API of bedrock-runtime take `global.anthropic.claude-…` and the like, bedrock-mantle takes
    `anthropic.claude-…` (both at AWS's prices), Claude Platform on AWS first-party ids (at Anthropic's).
    """
    reference = wire_model.rpartition("/")[2]  # of an ARN, the last part
    if reference.startswith("claude-"):
        found = _on_anthropic(reference, model)
        return replace(found, rules="anthropic") if found else None
    gov = (region or "").startswith("us-gov-") or "arn:aws-us-gov:" in wire_model or reference.startswith("us-gov.")
    if match := _BEDROCK_ID.fullmatch(reference):
        everywhere = _entry("aws", f"global.anthropic.{match['name']}")
        info = _entry("aws", reference)
        if gov and (info := everywhere or info):
            return Listing(info, bare_name(reference), "us_gov")
        if info:
            mantle = wire_model in MANTLE_IDS
            note = f"no list names bedrock-mantle, {reference!r} priced as regional" if mantle else ""
            return Listing(info, bare_name(reference), note=note)
        if match["profile"] != "global" and everywhere:
            return Listing(everywhere, bare_name(reference), "regional")
    entry = known(model)
    base = entry.bedrock if entry and entry.bedrock else f"anthropic.{model}"
    price = "GovCloud" if gov else "regional"
    note = f"{wire_model!r} does not tell its model, priced as {model} at the {price} price"
    if gov and (info := _entry("aws", f"global.{base}")):
        return Listing(info, bare_name(base), "us_gov", note=note)
    if info := _entry("aws", base):
        return Listing(info, bare_name(base), "us_gov" if gov else None, note=note)
    return None


def wire_name(provider: Provider, wire_model: str, answered: str) -> str:
    """Return what the wire would have been asked for, had it been asked for the model that answered instead.

    On Bedrock the profile stays the one that was called. An ARN that does not tell its model stays as it is.
    """
    entry = known(bare_name(answered))
    match provider:
        case "anthropic":
            return answered
        case "vertex":
            return entry.vertex if entry and entry.vertex else answered
        case "bedrock":
            reference = wire_model.rpartition("/")[2]
            if reference.startswith("claude-"):
                return bare_name(answered)
            if match := _BEDROCK_ID.fullmatch(reference):
                base = entry.bedrock if entry and entry.bedrock else f"anthropic.{answered.rpartition('anthropic.')[2]}"
                return f"{match['profile']}.{base}" if match["profile"] else base
            return wire_model


def _entry(list_id: str, reference: str) -> "ModelInfo | None":
    """A list's entry for this id, if it is the same model's: `claude-opus-4-55` must not cost what an Opus 4.5 does."""
    from genai_prices.data_snapshot import get_snapshot  # 0.2 s and 40 MiB: only where calls are priced

    provider = next(provider for provider in get_snapshot().providers if provider.id == list_id)
    info = provider.find_model(reference)  # without all_providers: no silent fallback to another list
    if info is not None and (known(bare_name(reference)) or same_model(reference, info.id)):
        return info
    return None


@dataclass(frozen=True, slots=True)
class Tier:
    """Prices for prompts longer than `above` tokens, in whole units of 10^-`decimals` USD a token (a search)."""

    above: int
    decimals: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    web_search: int
    list_price: Mapping[str, str]


class _Tiered(Protocol):
    @property
    def above(self) -> int: ...


_T = TypeVar("_T", bound=_Tiered)


def tier_of(tiers: Sequence[_T], prompt_tokens: int) -> _T:
    """Return the tier of a prompt: of the longest first, the first that it is longer than; else the last."""
    for tier in tiers:
        if prompt_tokens > tier.above:
            return tier
    return tiers[-1]


@dataclass(frozen=True, slots=True)
class Rates:
    """All that is the same for every call of one (provider, wire model, day, way of processing)."""

    tiers: tuple[Tier, ...] = ()
    """Longest prompts first, the last for all that are shorter; empty = unpriced."""
    multipliers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Reasons for which there is no price, or it is an estimate."""
    guessed: frozenset[str] = frozenset()
    """Kinds the list has no figure for: a call that uses one is estimated."""
    model_used: str | None = None
    """The model that answered, where it is another than the wire was asked for."""
    prices_geo: bool = False
    """True if inference geographies (`usage.inference_geo`) have a price of their own."""
    listed: tuple[Tier, ...] = ()
    """The list's tiers, where `tiers` are negotiated; empty = they are the list's, or no list has any."""
    contract: RoutePrice | None = None
    """The negotiated price that `tiers` follow."""

    def negotiated(self, price: RoutePrice | None, *, plain: bool) -> "Rates":
        """Return the rates at a negotiated price. Searches keep the list's price.

        Args:
            plain: neither native batch nor fast mode. Other calls keep the list price where the contract names prices.
        """
        if price is None or (price.usd is not None and not plain) or (price.factor is not None and not self.tiers):
            return self
        if price.factor is not None:
            tiers = tuple(_scaled(tier, price.factor) for tier in self.tiers)
            return replace(self, tiers=tiers, listed=self.tiers, contract=price)
        geo = Decimal(self.multipliers.get("inference_geo_us", "1"))
        known = tuple(_at_prices(tier, price, geo) for tier in self.tiers)
        return replace(
            self,
            tiers=known or (_at_prices(_UNLISTED, price, geo),),
            listed=self.tiers,
            contract=price,
            notes=(),
            guessed=self.guessed & {"web_search"},
        )

    @property
    def of_refused(self) -> Mapping[str, str]:
        """The multipliers of a refusal that costs nothing."""
        return {**self.multipliers, "refused": "0"}


def per_million(tier: Tier) -> dict[str, str]:
    """Return what a tier charges in USD per million tokens, by kind."""
    return {kind: _digits(Decimal(f"{getattr(tier, kind)}E{6 - tier.decimals}")) for kind in _KIND_KEYS}


def _scaled(tier: Tier, factor: Decimal) -> Tier:
    more = max(0, -int(factor.as_tuple().exponent))
    times, ten = int(factor.scaleb(more, EXACT)), 10**more
    tokens = {kind: getattr(tier, kind) * times for kind in _KIND_KEYS}
    return replace(tier, decimals=tier.decimals + more, web_search=tier.web_search * ten, **tokens)


def _at_prices(tier: Tier, price: RoutePrice, factor: Decimal) -> Tier:
    assert price.usd is not None
    each = {kind: EXACT.divide(EXACT.multiply(usd, factor), _MILLION) for kind, usd in price.usd.by_kind().items()}
    search = Decimal(f"{tier.web_search}E-{tier.decimals}")
    decimals = max(tier.decimals, *(-int(usd.as_tuple().exponent) for usd in each.values()))
    units: dict[str, Any] = {kind: int(usd.scaleb(decimals, EXACT)) for kind, usd in each.items()}
    return replace(tier, decimals=decimals, web_search=int(search.scaleb(decimals, EXACT)), **units)


_UNLISTED = Tier(-1, DECIMALS, 0, 0, 0, 0, 0, int((WEB_SEARCH_PER_1000 / _THOUSAND).scaleb(DECIMALS)), {})
"""A model that no list knows: what a contract does not name costs as usual."""


def rates_of(listing: Listing, provider: Provider, day: date, *, batch: bool, fast: bool, us_only: bool) -> Rates:
    """The prices of a day (UTC) for calls in native batch, in fast mode, or with inference kept in the US."""
    noon = datetime.combine(day, time(12), UTC)
    plain = listed = listing.info.get_prices(noon)
    cases: list[Case] = [listing.add] if listing.add else []
    provider = listing.rules or provider
    if us_only and provider == "anthropic":
        cases.append("inference_geo_us")
    if batch or fast:  # there is no fast mode in batch, so batch goes first
        listed = listing.info.get_prices(noon, {"processing": "batch"} if batch else {"speed": "fast"})
        if all(getattr(listed, key) == getattr(plain, key) for key in _TOKEN_KEYS):
            cases.append("batch" if batch else "fast")

    notes = [listing.note] if listing.note else []
    factor = Decimal(1)
    multipliers: dict[str, str] = {}
    for case in cases:
        rule = _rule(case, provider, listing.model, day)
        if rule is not None:
            factor = EXACT.multiply(factor, rule.factor)
            multipliers[case] = str(rule.factor)
            if rule.estimated:
                notes.append(f"{case} is priced approximately")
        elif case != "regional":  # which older models were never charged
            notes.append(f"no price is known for {case}, priced without")
    starts = {tier.start for key in _TOKEN_KEYS for tier in getattr(getattr(listed, key), "tiers", ())}
    starts = {start for start in starts if start < _longest_prompt(listing, day)}
    tiers = tuple(_tier(listed, above, factor) for above in (*sorted(starts, reverse=True), -1))
    return Rates(tiers, multipliers, tuple(notes), _guessed(listed), prices_geo=provider == "anthropic")


def _longest_prompt(listing: Listing, day: date) -> float:
    """Tokens of the model's window on a day; a list's prices for longer prompts are none of that model's."""
    ended = LONG_CONTEXT_ENDED.get(listing.model)
    if ended is not None and day < ended:
        return math.inf
    entry = known(listing.model)
    return entry.context_window if entry else listing.info.context_window or math.inf


def _rule(case: Case, provider: Provider, model: str, day: date) -> Rule | None:
    version = version_of(model)
    for rule in RULES:
        if (rule.case, rule.provider) != (case, provider) or day < rule.since:
            continue
        if version is not None and version < rule.from_version:
            continue
        if not rule.models or model in rule.models:
            return rule
    return None


def _tier(listed: "ModelPrice", above: int, factor: Decimal) -> Tier:
    tokens = {kind: _first(listed, keys, above) for kind, keys in _KIND_KEYS.items()}
    if tokens["input"] is not None and tokens["cache_write_1h"] is None:
        tokens["cache_write_1h"] = EXACT.multiply(tokens["input"], CACHE_WRITE_1H_FACTOR)
    known = {kind: price if price is not None else Decimal(0) for kind, price in tokens.items()}
    search = _first(listed, ("web_searches_kcount",), above)
    search = search if search is not None else WEB_SEARCH_PER_1000

    each = {kind: EXACT.divide(EXACT.multiply(price, factor), _MILLION) for kind, price in known.items()}
    each["web_search"] = EXACT.divide(search, _THOUSAND)
    decimals = max(DECIMALS, *(-int(price.as_tuple().exponent) for price in each.values()))
    units = {kind: int(price.scaleb(decimals, EXACT)) for kind, price in each.items()}
    shown = {kind: _digits(price) for kind, price in known.items()} | {"web_search_per_1000": _digits(search)}
    return Tier(above=above, decimals=decimals, list_price=shown, **units)


def _first(listed: "ModelPrice", keys: tuple[str, ...], above: int) -> Decimal | None:
    price: Decimal | TieredPrices | None = next((p for key in keys if (p := getattr(listed, key)) is not None), None)
    if price is None or isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if tier.start <= above), price.base)


def _guessed(listed: "ModelPrice") -> frozenset[str]:
    own = {
        "cache_read": ("cache_read_mtok",),
        "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok"),
        "cache_write_1h": ("cache_write_1h_mtok",),
        "web_search": ("web_searches_kcount",),
    }
    return frozenset(kind for kind, keys in own.items() if all(getattr(listed, key) is None for key in keys))


def _digits(price: Decimal) -> str:
    return f"{price.normalize(EXACT):f}"
