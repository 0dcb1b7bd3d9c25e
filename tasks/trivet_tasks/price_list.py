"""Finds the entry of genai-prices that prices a call, from what the wire was asked for.

Its lists match ids by fragments, and silently: `google` answers for a model it does not list with Anthropic's entry, a
fragment may fit a model of tomorrow, an ARN may fit nothing. So what is found is checked against the name asked for.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trivet_tasks.catalog import MANTLE_IDS, Provider, known
from trivet_tasks.price_rules import SAME_PRICE

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

_BEDROCK_ID = re.compile(r"(?:(?P<profile>[a-z-]+)\.)?anthropic\.(?P<name>claude-.+)")
_SUFFIX = re.compile(r"(@.*|-v\d+(:\d+)?|-\d{8}(-v\d+(:\d+)?)?)$")


@dataclass(frozen=True, slots=True)
class Listing:
    """A list's entry for what was called, and what it is short of."""

    info: "ModelInfo"
    model: str
    """The first-party id that is priced."""
    add_regional: bool = False
    """The call is served in one geography, the listed price is the global one."""
    note: str = ""
    """Why the price is an estimate; empty = it is not."""


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
            listing = _on_bedrock(wire_model, model)
    return listing or f"no list has a price for {wire_model!r} ({model}) on {provider}"


def list_of(provider: Provider, wire_model: str) -> Provider:
    """Whose list prices a call. A first-party id at provider `bedrock` is one of Claude Platform on AWS, at Anthropic's
    prices."""
    return "anthropic" if provider == "bedrock" and wire_model.startswith("claude-") else provider


def _on_anthropic(wire_model: str, model: str) -> Listing | None:
    if info := _entry("anthropic", wire_model):
        return Listing(info, _name(wire_model))
    alike = SAME_PRICE.get(_name(wire_model))
    if alike and (info := _entry("anthropic", alike)):
        return Listing(info, _name(wire_model))
    if info := _entry("anthropic", model):
        return Listing(info, _name(model), note=f"{wire_model!r} priced as {model}")
    return None


def _on_vertex(wire_model: str, model: str, region: str | None) -> Listing | None:
    wire_model = wire_model.rpartition("/")[2]
    regional = region != "global"
    if info := _entry("google", wire_model):
        return Listing(info, _name(wire_model), regional, "" if region else "region not known, priced as regional")
    if info := _entry("google", model):
        return Listing(info, _name(model), regional, f"{wire_model!r} priced as {model}")
    # as genai-prices does: Google's prices of Claude models have been Anthropic's so far
    if listing := _on_anthropic(wire_model, model):
        return Listing(listing.info, listing.model, regional, "not in Google's list, priced by Anthropic's")
    return None


def _on_bedrock(wire_model: str, model: str) -> Listing | None:
    reference = wire_model.rpartition("/")[2]  # of an ARN, the last part
    if found := _BEDROCK_ID.fullmatch(reference):
        if info := _entry("aws", reference):
            note = (
                "" if reference not in MANTLE_IDS else f"no list names bedrock-mantle, {reference!r} priced as regional"
            )
            return Listing(info, _name(reference), note=note)
        if found["profile"] != "global" and (info := _entry("aws", f"global.anthropic.{found['name']}")):
            return Listing(info, _name(reference), add_regional=True)
    entry = known(model)
    base = entry.bedrock if entry and entry.bedrock else f"anthropic.{model}"
    if info := _entry("aws", base):
        note = f"{wire_model!r} does not tell its model, priced as {model} at the regional price"
        return Listing(info, _name(base), note=note)
    return None


def _entry(list_id: str, reference: str) -> "ModelInfo | None":
    """A list's entry for this id, if it is the same model's: `claude-opus-4-55` must not cost what an Opus 4.5 does."""
    from genai_prices.data_snapshot import get_snapshot  # 0.2 s and 40 MiB: only where calls are priced

    name = _name(reference)
    provider = next(provider for provider in get_snapshot().providers if provider.id == list_id)
    info = provider.find_model(reference)  # without all_providers: no silent fallback to another list
    if info is not None and (known(name) or _words(name) == _words(_name(info.id))):
        return info
    return None


def _name(reference: str) -> str:
    """The first-party id in any wire's name: no profile, no date, no version."""
    bare = _SUFFIX.sub("", reference.rpartition("anthropic.")[2])
    entry = known(bare)
    return entry.id if entry else bare


def _words(name: str) -> tuple[list[str], list[str]]:
    """Family and version, however ordered: `claude-4-opus` and `claude-opus-4-0` are one model."""
    parts = name.removesuffix("-latest").removesuffix("-0").split("-")
    return sorted(part for part in parts if not part.isdigit()), [part for part in parts if part.isdigit()]
