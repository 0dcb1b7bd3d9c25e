"""Values of a check: findings about a route, and the reading of its account."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum


class Level(StrEnum):
    """The importance of a finding."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing goes wrong."""
    WARNING = "warning"
    """May go wrong, or could not be checked."""
    ERROR = "error"
    """The account contradicts the configuration, or the route cannot work."""


class Kind(StrEnum):
    """The unit of a limit. The first three are named as the settings are."""

    REQUESTS = "requests_per_minute"
    INPUT = "input_tokens_per_minute"
    OUTPUT = "output_tokens_per_minute"
    TOKENS = "tokens_per_minute"
    """Input and output in one sum, as Bedrock counts."""
    TOKENS_PER_DAY = "tokens_per_day"


class Presence(StrEnum):
    """The presence of a model in an account."""

    SERVED = "served"
    MISSING = "missing"
    """The provider has no such model (or inference profile) there."""
    REFUSED = "refused"
    """The provider has it, and this account may not use it."""
    UNKNOWN = "unknown"


ABSENT = (Presence.MISSING, Presence.REFUSED)
"""Presences of a model that cannot be called there."""


class SettledBy(StrEnum):
    """A reading of the account that makes an offline finding pointless."""

    ASKING = "asking"
    QUOTAS = "quotas"
    """The account was asked, and its quotas were read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding."""

    level: Level
    what: str
    where: str
    """The setting, or the interface of the provider that said so."""
    action: str = ""
    """The action to take; empty where there is nothing to be done."""
    models: tuple[str, ...] = ()
    """First-party ids of the models it is about; empty: the whole route."""
    settled_by: SettledBy | None = None
    """The reading that makes it pointless."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """The state of one model in the account."""

    presence: Presence
    reason: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit of the account, for one model."""

    model: str
    kind: Kind
    value: int
    """Requests or tokens per minute (`TOKENS_PER_DAY`: per day)."""
    source: str
    """The provider's own name of it."""
    pool: str = ""
    """The bucket's name where several models share it."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as the provider lists it to this account. None: not stated."""

    id: str
    """Its id on the wire; on Bedrock that of the foundation model."""
    retires: date | None = None
    retired: bool = False
    """True if the provider serves it no more."""
    max_output_tokens: int | None = None
    context_window: int | None = None
    profiles: tuple[str, ...] = ()
    """Bedrock: the prefixes of its inference profiles, such as `global`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The models and quotas of one account, in terms that all providers share."""

    account: str = ""
    """Name of the account for a person, e.g. `AWS account 123456789012`."""
    models: Mapping[str, ModelState] = field(default_factory=dict)
    """By first-party id; a model that is not in it was not looked up."""
    quotas: tuple[Quota, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Findings of the reading itself: a permission that is missing, a call that failed."""
    listed: tuple[ListedModel, ...] = ()
    """Every Claude model that the provider lists, known to the catalogue or not; empty where it was not asked."""


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A figure of the configuration beside the account's."""

    models: tuple[str, ...]
    limit: Kind
    configured: int | None
    account: int
    level: Level
    source: str


@dataclass(frozen=True, slots=True)
class RouteReport:
    """All findings about one route."""

    route: str
    provider: str
    region: str
    account: str
    live: bool
    """True if the account itself was asked."""
    findings: tuple[Finding, ...]
    limits: tuple[LimitRow, ...] = ()
    paste: str = ""
    """Lines of TOML that bring the configuration in line with the account."""
    took_s: float = 0.0

    def count(self, level: Level) -> int:
        """Return the number of findings of this level."""
        return sum(finding.level is level for finding in self.findings)

    @property
    def worst(self) -> Level:
        """The worst level found."""
        levels = tuple(Level)
        return max((finding.level for finding in self.findings), key=levels.index, default=Level.OK)
