"""Finds the entry of genai-prices that prices a call, from what the wire was asked for.

Its lists match ids by fragments, and silently: `google` answers for a model it does not list with Anthropic's entry, a
fragment may fit a model of tomorrow, an ARN may fit nothing. So what is found is checked against the name asked for.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from trivet_tasks.catalog import MANTLE_IDS, Provider, bare_name, known, same_model
from trivet_tasks.prices.price_rules import SAME_PRICE

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

_BEDROCK_ID = re.compile(r"(?:(?P<profile>[a-z-]+)\.)?anthropic\.(?P<name>claude-.+)")

Place: TypeAlias = Literal["regional", "us_gov"]
"""Places where a call costs more than the listed price: one geography; AWS GovCloud."""


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
