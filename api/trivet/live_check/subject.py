"""The subject of a check: a route with its models, their names on its wire, the figures set for them, and its secrets."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trivet.live_check.report import Finding, Kind, Reading
from trivet_tasks.catalog import MODELS, known
from trivet_tasks.config.addresses import project_of, region_of
from trivet_tasks.config.route_settings import LimitGroup, RouteSettings
from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import ConfigError
from trivet_tasks.foreign_text import clean, for_terminal
from trivet_tasks.requests.eligibility import name_on_wire

WORDS_LIMIT = 300
"""Maximum length of a provider's own words, in characters."""
SHORTEST = 8
"""Minimum length of a secret in words of our own: a shorter one is a placeholder, and may be part of a plain word."""
_SECRET_VARIABLES = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
_GLOB = frozenset("*?[")
# patterns of keys that are not known here: Anthropic's, Bedrock's, Google's, a header, a PEM
_LIKE_A_KEY = re.compile(
    r"sk-ant-[\w-]+|ABSK[\w+/=-]{8,}|bedrock-api-key-[\w+/=-]+|ya29\.[\w.-]+|(?i:bearer) [\w.+/=~-]{12,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


class Mask:
    """Strikes secrets out of texts: the errors of SDKs may hold a key. It knows the route's and the environment's keys.

    `add` others as they become known; safe to share between threads.
    """

    def __init__(self, route: RouteSettings) -> None:
        self._secrets = {os.environ[name].strip() for name in _SECRET_VARIABLES if os.environ.get(name, "").strip()}
        for reference in filter(None, (route.api_key, route.admin_api_key)):
            with contextlib.suppress(ConfigError):  # reported as a finding elsewhere
                self._secrets.add(reference.resolve())

    def add(self, *secrets: str | None) -> None:
        """Add secrets to be struck out."""
        self._secrets |= {secret for secret in secrets if secret}

    def text(self, text: str, *, shortest: int = SHORTEST) -> str:
        """Return the text without secrets and passwords. Secrets under `shortest` characters stay."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) >= shortest:
                text = text.replace(secret, "[secret]")
        return for_terminal(masked(_LIKE_A_KEY.sub("[secret]", text)))

    def words(self, error: object) -> str:
        """Return an exception's first paragraph on one line, masked, then cut. AWS puts the signed text after it."""
        said = self.text(str(error).strip().split("\n\n", 1)[0], shortest=1)
        said = clean(" ".join(said.split()), 4 * WORDS_LIMIT) or type(error).__name__
        return said if len(said) <= WORDS_LIMIT else f"{said[: WORDS_LIMIT - 1]}…"

    def finding(self, finding: Finding) -> Finding:
        """Return the finding without secrets."""
        texts: dict[str, Any] = {name: self.text(getattr(finding, name)) for name in ("what", "where", "action")}
        return replace(finding, **texts)

    def reading(self, reading: Reading) -> Reading:
        """Return the reading without secrets in the parts that are shown."""
        models = {
            name: replace(state, reason=self.text(state.reason), action=self.text(state.action))
            for name, state in reading.models.items()
        }
        return replace(reading, models=models, findings=tuple(map(self.finding, reading.findings)))


@dataclass(frozen=True, slots=True)
class Subject:
    """One route and the models to look at."""

    name: str
    route: RouteSettings
    wire: Mapping[str, str]
    """First-party id to the id on the wire, as workers would ask for it."""
    named: frozenset[str]
    """Models that the configuration or the person names: it is an error if one of them is missing."""
    unmapped: tuple[str, ...]
    """Named models that this route has no id for."""
    whole: bool
    """True if these are all models that the route may serve."""
    mask: Mask

    @property
    def table(self) -> str:
        """The route's table in `trivet.toml`."""
        return f"[routes.{self.name}]"

    @property
    def region(self) -> str:
        """The region that workers would use: the route's, else the environment's; empty where there is none."""
        return region_of(self.route)

    @property
    def project(self) -> str:
        """The Google project that is configured, or that the environment names; empty: the credentials decide."""
        return project_of(self.route)

    def figure(self, model: str, kind: Kind) -> int | None:
        """Return the figure set for a model, None where none is. For `TOKENS`: the sum of input and output."""
        if kind is Kind.TOKENS:
            given = [self.figure(model, Kind.INPUT), self.figure(model, Kind.OUTPUT)]
            return sum(figure for figure in given if figure) or None
        if kind is Kind.TOKENS_PER_DAY:
            return None
        holder: LimitGroup | RouteSettings = self.route.group_of(model) or self.route
        value: int | None = getattr(holder, kind.value)
        return value

    def holder(self, model: str) -> str:
        """Return the table of `trivet.toml` that has a model's figures."""
        group = self.route.group_of(model)
        return self.table if group is None else f"[[routes.{self.name}.limits]] models = {list(group.models)}"


def subject_of(name: str, route: RouteSettings, only: Sequence[str]) -> Subject:
    """Return a route with the models to look at.

    Args:
        only: first-party ids or aliases that the person named; without any, all models of the configuration, and every
            model of the catalogue that the route has an id for.
    """
    asked = [first_party_id(model) for model in only]
    configured = [first_party_id(model) for model in route.models]
    configured += [first_party_id(glob) for group in route.limits for glob in group.models if not _GLOB & set(glob)]
    candidates = asked or [*configured, *(model.id for model in MODELS)]
    wire: dict[str, str] = {}
    for model in dict.fromkeys(candidates):
        found = name_on_wire(route, model)
        if found is not None:
            wire[model] = found
    named = dict.fromkeys(asked or configured)
    unmapped = tuple(model for model in named if model not in wire)
    return Subject(name, route, wire, frozenset(named), unmapped, not asked, Mask(route))


def first_party_id(model: str) -> str:
    """Return the model's id for an alias; a name that the catalogue does not know stays."""
    entry = known(model)
    return entry.id if entry else model
