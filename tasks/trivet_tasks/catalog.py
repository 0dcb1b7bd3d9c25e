"""Claude models that Trivet knows: their names on each wire, and their abilities.

One row per model, under its first-party id. Light to import: no SDK, no price data. Sources (November 2026):
- first-party ids and retirement dates of the Anthropic API: `anthropic` 2.12 (`types/model.py`, `DEPRECATED_MODELS`),
  platform.claude.com (pricing, model deprecations); Opus 4.1 and 4.5 as other trackers quote that page
- retirement dates of the clouds: `deprecation_date` of LiteLLM 1.110.2's price map. Those of Vertex are Google's "not
  sooner than" dates and are kept as such; Opus 4.5 there has an announced one
- which wire serves a model: a wire is listed where `genai-prices` 0.2.3 has the model under `aws` or `google`
  (Sonnet 5 on Vertex: LiteLLM 1.109.1's price map and the fallback of genai-prices)
- ids, largest outputs, prefill: LiteLLM 1.110.2's price map, platform.claude.com/docs/en/models; of two figures
  the larger, so that nothing is refused here which some wire accepts
- Bedrock profiles: those that LiteLLM 1.110.2 lists, or that genai-prices took from the AWS price list.
  AWS's page of each model is the authority: where it differs, a route's `models` setting wins over this table, and
  `trivet routes check --live` says so.
- output rates: ours, rounded down. Published figures are few (Artificial Analysis: Sonnet 4.5 63, Opus 4.1 45
  tokens a second), so they go by family. They serve one purpose: to warn that `max_tokens` cannot finish in time.

`Dialect` is the format of a route's calls: the provider's wire, the endpoint on it, and the version of the API. Its sources
(November 2026): AWS, "Inference using Anthropic Messages API" (InvokeModel: `bedrock-2023-05-31` in the body; Messages
endpoints: header `anthropic-version: 2023-06-01`); Google, "Use Claude models" (`vertex-2023-10-16` in the body);
platform.claude.com/docs/en/api/versioning and migration-2026-10-21. The vendor's page on Bedrock models up to Opus 4.6
warns that they answer 400 to `2026-10-21`, which the SDK sends to every wire unless it is told otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

Provider: TypeAlias = Literal["anthropic", "bedrock", "vertex"]
PROVIDERS: tuple[Provider, ...] = ("anthropic", "bedrock", "vertex")
"""The three kinds of wire."""

Endpoint: TypeAlias = Literal["invoke", "messages", "mantle", "platform"]
"""Endpoint of a Bedrock route: InvokeModel, the Messages API of bedrock-runtime or of bedrock-mantle, or Claude Platform
on AWS. The other providers have one endpoint, and `invoke` stands for it."""

_SUFFIX = re.compile(r"(@.*|\[\w+\]|:\d+(:\w+)?|-v\d+(:\d+)?(:\w+)?|-\d{8})$")
"""A Vertex version, a context window, a Bedrock version, or the date of a snapshot."""

VERSION = re.compile(r"(?:[a-z][a-z0-9]*-)?(\d{4}-\d{2}-\d{2})")
"""A version of the API: a date, on the clouds with a name before it."""

_DEFAULTS: dict[tuple[Provider, Endpoint], str] = {
    ("anthropic", "invoke"): "2026-10-21",
    ("vertex", "invoke"): "vertex-2023-10-16",
    ("bedrock", "invoke"): "bedrock-2023-05-31",
    ("bedrock", "messages"): "2023-06-01",
    ("bedrock", "mantle"): "2023-06-01",
    ("bedrock", "platform"): "2026-10-21",
}


class Retirement(NamedTuple):
    """End of a provider's service for a model."""

    day: date
    """UTC. Calls are made up to and including this day."""
    announced: bool = True
    """False: the vendor says only "not sooner than this day"; nothing is refused by it."""


@dataclass(frozen=True, slots=True)
class Model:
    """One Claude model. A wire that is None does not serve it."""

    id: str
    """The name used in jobs, routes, prices and tables."""
    anthropic: str | None
    """Id sent to `api.anthropic.com`: the dated snapshot where the model has one."""
    bedrock: str | None
    """The base id, without the prefix of an inference profile."""
    bedrock_profiles: tuple[str, ...]
    """Prefixes under which Bedrock serves it on demand; `global` first where there is one."""
    vertex: str | None
    context_window: int
    """Tokens of prompt and answer together."""
    max_output_tokens: int
    output_tokens_per_s: int
    """Rough usual rate of one stream, an estimate: for warnings only, never for limits or prices."""
    prefill: bool | None
    """True if a last message of the assistant is continued; None: not known."""
    aliases: tuple[str, ...] = ()
    """Other first-party ids of the same model. `claude-…-latest` is known without being listed."""
    retires: Mapping[Provider, Retirement] = field(default_factory=dict)
    """Retirement by provider, where one has named a day: each has days of its own."""


_HAIKU, _SONNET, _OPUS, _LARGE = 90, 55, 45, 35  # output tokens a second, by family: estimates, see above
_K200, _M1 = 200_000, 1_000_000
_K32, _K64, _K128 = 32_000, 64_000, 128_000


def _plain(
    name: str,
    profiles: str,
    rate: int,
    *,
    vertex: bool = True,
    bedrock_suffix: str = "",
    dated: str = "",
    retires: Mapping[Provider, Retirement] | None = None,
) -> Model:
    """A model since 4.6: one undated name on every wire, a million tokens of context, no prefill."""
    prefixes = tuple(profiles.split())
    base = f"anthropic.{name}{bedrock_suffix}" if prefixes else None
    return Model(
        name, name, base, prefixes, name if vertex else None, _M1, _K128, rate, prefill=False,
        aliases=(f"{name}-{dated}",) if dated else (), retires=retires or {},
    )  # fmt: skip


def _vertex_until(year: int, month: int, day: int) -> dict[Provider, Retirement]:
    """Return the day before which Google does not retire a model, as its page says."""
    return {"vertex": Retirement(date(year, month, day), announced=False)}


# fmt: off
MODELS: tuple[Model, ...] = (
    #      first-party id         Bedrock profiles                            rate
    _plain("claude-haiku-5-5",    "global us eu jp au apac us-gov",           _HAIKU),
    _plain("claude-sonnet-5-5",   "global us eu jp au apac us-gov",           _SONNET),
    _plain("claude-opus-5-5",     "global us eu jp au apac us-gov",           _OPUS),
    _plain("claude-fable-5-2",    "global us eu",                             _LARGE),
    _plain("claude-mythos-5-2",   "global us eu",                             _LARGE, vertex=False),
    _plain("claude-fable-5-1",    "global us eu us-gov",                      _LARGE, retires=_vertex_until(2027, 3, 1)),
    _plain("claude-mythos-5-1",   "global us",                                _LARGE, vertex=False),
    _plain("claude-fable-5",      "global us eu jp au apac",                  _LARGE, retires=_vertex_until(2027, 6, 8)),
    _plain("claude-mythos-5",     "us",                                       _LARGE, vertex=False),
    _plain("claude-sonnet-5",     "global us eu jp au in apac us-gov",        _SONNET,
           retires=_vertex_until(2026, 12, 24)),
    _plain("claude-opus-5",       "global us eu jp au in apac us-gov",        _OPUS, retires=_vertex_until(2027, 1, 24)),
    _plain("claude-opus-4-8",     "global us eu jp au apac us-gov",           _OPUS, retires=_vertex_until(2027, 5, 28)),
    _plain("claude-opus-4-7",     "global us eu jp au apac",                  _OPUS, dated="20260416",
           retires=_vertex_until(2027, 4, 16)),
    _plain("claude-opus-4-6",     "global us eu au",                          _OPUS, bedrock_suffix="-v1",
           dated="20260205", retires=_vertex_until(2027, 2, 5)),
    _plain("claude-sonnet-4-6",   "global us eu jp au apac",                  _SONNET),
    Model("claude-haiku-4-5", "claude-haiku-4-5-20251001",
          "anthropic.claude-haiku-4-5-20251001-v1:0", ("global", "us", "eu", "jp", "au", "in", "apac", "us-gov"),
          "claude-haiku-4-5@20251001", _K200, _K64, _HAIKU, prefill=True, aliases=("claude-haiku-4-5-20251001",),
          retires=_vertex_until(2026, 10, 15)),
    Model("claude-sonnet-4-5", "claude-sonnet-4-5-20250929",
          "anthropic.claude-sonnet-4-5-20250929-v1:0", ("global", "us", "eu", "jp", "au", "us-gov"),
          "claude-sonnet-4-5@20250929", _K200, _K64, _SONNET, prefill=True, aliases=("claude-sonnet-4-5-20250929",),
          retires={"anthropic": Retirement(date(2026, 11, 30)), "bedrock": Retirement(date(2027, 4, 8)),
                   **_vertex_until(2026, 9, 29)}),
    Model("claude-opus-4-5", "claude-opus-4-5-20251101",
          "anthropic.claude-opus-4-5-20251101-v1:0", ("global", "us", "eu"),
          "claude-opus-4-5@20251101", _K200, _K64, _OPUS, prefill=True, aliases=("claude-opus-4-5-20251101",),
          retires={"anthropic": Retirement(date(2027, 1, 22)), "vertex": Retirement(date(2027, 1, 22))}),
    # retired by Anthropic, still served by both clouds (platform.claude.com pricing page)
    Model("claude-opus-4-1", None,
          "anthropic.claude-opus-4-1-20250805-v1:0", ("us", "eu"),
          "claude-opus-4-1@20250805", _K200, _K32, _OPUS, prefill=True, aliases=("claude-opus-4-1-20250805",),
          retires={"anthropic": Retirement(date(2026, 8, 5)), "bedrock": Retirement(date(2027, 1, 8))}),
    # on Bedrock by invitation (LiteLLM 1.110.2's price map, which has no price for it there)
    Model("claude-mythos-preview", "claude-mythos-preview", "anthropic.claude-mythos-preview", ("us", "au", "apac"),
          None, _M1, _K128, _LARGE, prefill=False, retires={"anthropic": Retirement(date(2026, 6, 30))}),
)
# fmt: on

RETIRED: Mapping[str, date] = {
    "claude-1.3": date(2024, 11, 6),
    "claude-1.3-100k": date(2024, 11, 6),
    "claude-instant-1.1": date(2024, 11, 6),
    "claude-instant-1.1-100k": date(2024, 11, 6),
    "claude-instant-1.2": date(2024, 11, 6),
    "claude-2.0": date(2025, 7, 21),
    "claude-2.1": date(2025, 7, 21),
    "claude-3-sonnet-20240229": date(2025, 7, 21),
    "claude-3-opus-20240229": date(2026, 1, 5),
    "claude-3-opus-latest": date(2026, 1, 5),
    "claude-3-7-sonnet-latest": date(2026, 2, 19),
    "claude-3-7-sonnet-20250219": date(2026, 2, 19),
    "claude-3-5-haiku-latest": date(2026, 2, 19),
    "claude-3-5-haiku-20241022": date(2026, 2, 19),
    "claude-opus-4-0": date(2026, 6, 15),
    "claude-opus-4-20250514": date(2026, 6, 15),
    "claude-sonnet-4-0": date(2026, 6, 15),
    "claude-sonnet-4-20250514": date(2026, 6, 15),
}
"""First-party ids that are not in `MODELS` any more, and the day the Anthropic API stopped serving them
(`anthropic` 2.12, `DEPRECATED_MODELS`)."""

_BY_NAME: dict[str, Model] = {name: model for model in MODELS for name in (model.id, *model.aliases)}
_BY_NAME |= {f"{model.id}-latest": model for model in MODELS}

# AWS's model cards name these for bedrock-mantle; Opus 4.6 and older models are on InvokeModel alone.
_ON_MANTLE = frozenset(
    model.id for model in MODELS if model.context_window == _M1 and not re.search(r"-4-[0-6]$", model.id)
) | {"claude-haiku-4-5"}
MANTLE_IDS = frozenset(f"anthropic.{model}" for model in _ON_MANTLE)
"""Names of the models on bedrock-mantle."""

# The geography whose profile keeps a call from this AWS region inside it. The first that fits counts.
# London, Zurich, Canada, the Gulf, Israel, Africa, Mexico and South America have no profile of their own.
_REGION_GEO: tuple[tuple[str, str], ...] = (
    ("us-gov-", "us-gov"),
    ("us-", "us"),
    ("eu-west-2", ""),
    ("eu-central-2", ""),
    ("eu-", "eu"),
    ("ap-northeast-1", "jp"),
    ("ap-northeast-3", "jp"),
    ("ap-southeast-2", "au"),
    ("ap-southeast-4", "au"),
    ("ap-south-", "in"),
    ("ap-", "apac"),
)
# Where a call may be sent from a region when it need not stay in its own geography and there is no global profile.
_NEXT_GEO: dict[str, tuple[str, ...]] = {"jp": ("apac",), "au": ("apac",), "in": ("apac",)}


def known(name: str) -> Model | None:
    """The model of a first-party id or alias (`claude-haiku-4-5-20251001`), or None. Clouds' names are not taken."""
    return _BY_NAME.get(name)


def near_matches(name: str, limit: int = 3) -> list[str]:
    """First-party ids that look like `name`, best first, for "did you mean". Takes a cloud's name for its model too."""
    bare = name.lower().strip().rpartition("anthropic.")[2].rpartition("/")[2].partition("@")[0].replace(".", "-")
    bare = bare.partition(":")[0].removesuffix("-v1")
    found = [_BY_NAME[near].id for near in get_close_matches(bare, _BY_NAME, n=2 * limit, cutoff=0.6)]
    return list(dict.fromkeys(found))[:limit]


def wire_model(
    model: str,
    provider: Provider,
    region: str | None = None,
    overrides: Mapping[str, str] | None = None,
    *,
    resident: bool = False,
    endpoint: Endpoint = "invoke",
) -> str | None:
    """The id to put on the wire for `model` on a route, or None where that route cannot serve it.

    `overrides` is the route's `models` setting and is taken as it stands, also for models this table does not know.

    Bedrock takes calls on demand only through an inference profile, named by a prefix. The prefix is `global.` where
    the model has such a profile: 10 % cheaper than the others and with the most capacity. It may be served in any
    commercial AWS region, so a route that declares residency passes `resident=True` and gets the profile of
    the region's own geography (`us.`, `eu.`, `jp.`, `au.`, `in.`, `apac.`, `us-gov.`) or None, never a wider one.
    GovCloud has no global profile. `bedrock-mantle` wants the bare id and does not say where it serves a call, so a
    resident route there has none; Claude Platform on AWS takes first-party ids.
    """
    entry = known(model)
    if overrides:
        for name in (model, *((entry.id, *entry.aliases) if entry else ())):
            if name in overrides:
                return overrides[name]
    if entry is None:
        return None
    match provider:
        case "anthropic":
            return entry.anthropic
        case "vertex":
            return entry.vertex
        case "bedrock" if endpoint == "platform":
            return entry.anthropic
        case "bedrock" if endpoint == "mantle":
            return None if resident or entry.id not in _ON_MANTLE else f"anthropic.{entry.id}"
        case "bedrock":
            return _bedrock_model(entry, region or "", resident)


def _bedrock_model(entry: Model, region: str, resident: bool) -> str | None:
    geo = next((geo for start, geo in _REGION_GEO if region.startswith(start)), "")
    if resident or geo == "us-gov":
        wanted: tuple[str, ...] = (geo,)
    else:
        wanted = ("global", geo, *_NEXT_GEO.get(geo, ()))
    return next((f"{prefix}.{entry.bedrock}" for prefix in wanted if prefix in entry.bedrock_profiles), None)


@lru_cache(maxsize=1024)
def bare_name(reference: str) -> str:
    """Return the first-party id in a name: no profile, path, date or version.

    Example: `us.anthropic.claude-haiku-4-5-20251001-v1:0` and `claude-haiku-4-5@20251001` are `claude-haiku-4-5`.
    """
    name = reference.strip().lower().rpartition("/")[2].rpartition("anthropic.")[2]
    if entry := known(name):
        return entry.id
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    name = name.replace(".", "-")
    entry = known(name)
    return entry.id if entry else name


def same_model(one: str, other: str) -> bool:
    """Return whether two names mean the same model: `claude-4-opus`, `claude-opus-4-0` and `claude-opus-4@20250514` do."""
    return one == other or _identity(one) == _identity(other)


def version_of(name: str) -> tuple[int, int] | None:
    """Return the version in a name: (4, 5) of `claude-haiku-4-5`; None where there is none, as in `claude-opus-latest`."""
    numbers = [int(number) for number in _identity(name)[1]]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers else None


@lru_cache(maxsize=1024)
def _identity(reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Family and version, however ordered."""
    parts = bare_name(reference).removesuffix("-latest").removesuffix("-0").split("-")
    return tuple(sorted(part for part in parts if not part.isdigit())), tuple(part for part in parts if part.isdigit())


class Dialect(NamedTuple):
    """Format of a route's calls."""

    provider: Provider
    endpoint: Endpoint
    version: str

    @property
    def answers_as(self) -> Provider:
        """Operator of the API: Anthropic operates Claude Platform on AWS itself."""
        return "anthropic" if self.endpoint == "platform" else self.provider

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a table of features may list it under: its wire's, and on Bedrock the endpoint's own.

        Anthropic operates Claude Platform on AWS itself, so it is no part of `bedrock` here but a wire of its own.
        """
        if self.provider != "bedrock":
            return (self.provider,)
        return ("platform",) if self.endpoint == "platform" else ("bedrock", f"bedrock-{self.endpoint}")

    @property
    def dated(self) -> str:
        """The date of the version, for comparison; the oldest there is where the version names none."""
        found = VERSION.fullmatch(self.version)
        return found[1] if found else "0000-00-00"


def default_version(provider: Provider, endpoint: Endpoint) -> str:
    """The version that a route speaks unless its settings say otherwise."""
    return _DEFAULTS[provider, endpoint]
