"""Settings of one route: its address, its permitted use, and the limits of its account."""

from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Annotated, Any, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trivet_tasks.catalog import VERSION, Dialect, Endpoint, Provider, default_version
from trivet_tasks.config.amounts import UsdAmount
from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.config.route_windows import RouteWindow
from trivet_tasks.config.secret_refs import OptionalSecret

OPERATIONAL = frozenset(
    {
        "requests_per_minute",
        "input_tokens_per_minute",
        "output_tokens_per_minute",
        "output_token_factor",
        "max_concurrency",
        "limits",
        "priority",
        "weight",
        "costs",
        "prices",
        "windows",
        "idle_probe_s",
    }
)
"""May change while it runs. SQL holds the version in force, and every process follows it within a second."""
PLACE = frozenset(
    {
        "provider",
        "region",
        "project",
        "base_url",
        "endpoint",
        "workspace_id",
        "api_version",
        "api_versions",
        "models",
        "residency",
        "compliance",
        "betas",
        "body_fields",
    }
)
"""Decide where a prompt goes and what may go there. A worker takes them from its own file alone, and SQL holds what the
workers that serve the route agree on."""
UNORDERED = frozenset({"residency", "compliance", "betas", "body_fields"})
"""Lists of a place whose order and repetitions have no meaning."""
OWN = frozenset({"api_key", "admin_api_key", "environment", "stream"})
"""Settings of a process's own: credentials, and the way it makes its calls. Other processes never see them."""

NAME_CHARS = 100
"""The longest name of a group of models; the tables take 120."""


WHOLE_ROUTE = "*"
"""Model name that stands for a whole route."""


def digest_of(values: Mapping[str, object]) -> str:
    """Return a short digest of JSON-ready settings, the same in whatever order they were written."""
    return blake2b(orjson.dumps(values, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


class LimitGroup(BaseModel):
    """Limits that several models of a route share. A limit that is not set does not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    """Globs over first-party model ids, e.g. `["claude-haiku-*"]`. The first group that fits a model counts."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Limit of all models of the group together, as are the next two. Not set: not limited."""
    input_tokens_per_minute: int | None = Field(default=None, ge=1)
    """Limit of input tokens."""
    output_tokens_per_minute: int | None = Field(default=None, ge=1)
    """Limit of output tokens."""
    max_concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """Maximum number of calls in flight. Not set: the route's."""

    @property
    def name(self) -> str:
        """Name under which the group's limits are kept and shown; a long list is cut and told apart by a digest."""
        whole = "+".join(self.models)
        if len(whole) <= NAME_CHARS:
            return whole
        return f"{whole[: NAME_CHARS - 9]}~{blake2b(whole.encode(), digest_size=4).hexdigest()}"


class RouteCosts(BaseModel):
    """Costs of a route beside the provider's tokens, in USD."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_request_usd: UsdAmount = Decimal(0)
    """For each call, e.g. of a gateway or an audit log."""
    per_gb_out_usd: UsdAmount = Decimal(0)
    """For each 10^9 bytes of request bodies sent, e.g. through a VPC endpoint or a NAT gateway."""
    per_month_usd: UsdAmount = Decimal(0)
    """Fixed, however much it is used, e.g. for the endpoint itself."""


BetaName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:@/-]{0,59}$")]
FieldName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,59}$")]


class RouteSettings(BaseModel):
    """One configured path to Claude: provider, region, account, limits and what it may be used for."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    provider: Provider
    """The kind of wire."""
    region: str | None = None
    """Region of AWS or Google that is called, e.g. `us-east-1`."""
    project: str | None = None
    """Of provider `vertex`: the Google Cloud project. Not set: the one that the credentials or the environment name."""
    base_url: str = ""
    """Address of calls, e.g. of a gateway or a VPC endpoint. Empty: the provider's own."""
    api_key: OptionalSecret = None
    """Reference to the key, never the key itself: `env:NAME` or `file:PATH`. Not set: the provider's own chain of credentials."""
    admin_api_key: OptionalSecret = None
    """Of provider `anthropic`: a key of the Admin API, with which `trivet routes check --live` reads the limits. It makes
    no calls."""
    endpoint: Endpoint = "invoke"
    """Of provider `bedrock`: the API that is called."""
    workspace_id: str | None = None
    """Of endpoint `platform`: the workspace of Claude Platform on AWS."""
    api_version: str = ""
    """The version of the API that calls name, e.g. `bedrock-2023-05-31`. Empty: the one documented for the endpoint."""
    api_versions: Mapping[str, str] = Field(default_factory=dict)
    """Versions for some models: glob over first-party ids to version. The first glob that fits a model counts."""
    models: Mapping[str, str] = Field(default_factory=dict)
    """First-party model id to this provider's id, only where the built-in mapping differs."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Limit of each model by itself, as are the next two. Not set: not limited."""
    input_tokens_per_minute: int | None = Field(default=None, ge=1)
    """Limit of input tokens; those read from the provider's prompt cache count where the provider counts them."""
    output_tokens_per_minute: int | None = Field(default=None, ge=1)
    """Limit of output tokens; `max_tokens` is reserved for each call, and the unused part returned."""
    output_token_factor: float = Field(default=1.0, ge=1, le=100)
    """Tokens of quota that one output token burns (AWS says 5 for newer models on Bedrock)."""
    max_concurrency: int = Field(default=200, ge=1, le=100_000)
    """Maximum number of calls in flight, over all workers."""
    limits: tuple[LimitGroup, ...] = ()
    """Limits shared by several models. Every other model has the route's limits for itself."""
    priority: int = Field(default=1, ge=1, le=1_000)
    """Place in classes with `order = "priority"`: the lowest is asked first."""
    weight: float = Field(default=1.0, gt=0, le=1_000)
    """Share of the work in classes with `order = "weight"`, and between routes that are otherwise equal."""
    residency: tuple[str, ...] = ()
    """Places within which its calls are computed, e.g. `["eu"]`. A job that requires one goes only to routes that declare it."""
    compliance: tuple[str, ...] = ()
    """Regimes that it meets, e.g. `["hipaa"]`. They bind like `residency`."""
    stream: bool | None = None
    """True if all answers are streamed inside the worker; false if none is, e.g. behind a proxy that holds streams back. Not
    set: those that are long. The result is the same."""
    betas: tuple[BetaName, ...] = Field(default=(), max_length=50)
    """Betas that the route takes in addition to those of Trivet's own table."""
    body_fields: tuple[FieldName, ...] = Field(default=(), max_length=50)
    """Fields of `extra_body`, unknown to Trivet, that the route takes. A route of the Anthropic API takes all."""
    environment: bool = False
    """True if a route without `base_url` takes it from the SDK's variable on a worker's machine, e.g. `ANTHROPIC_BASE_URL`."""
    costs: RouteCosts = RouteCosts()
    """Costs beside tokens, for `trivet plan` and the order by cost. They change no booked cost."""
    prices: tuple[RoutePrice, ...] = ()
    """Negotiated prices of tokens, each from one day on. Without one the list price holds."""
    idle_probe_s: float | None = Field(default=None, ge=0, le=86_400)
    """Seconds without a call after which it is probed. 0: never. Not set: as in `[health]`."""
    windows: tuple[RouteWindow, ...] = ()
    """Hours of the day with another weight, priority or price."""

    @model_validator(mode="after")
    def _admin_key_of_anthropic(self) -> "RouteSettings":
        if self.admin_api_key is not None and self.provider != "anthropic":
            raise ValueError(
                "admin_api_key is a key of Anthropic's Admin API: only a route of provider anthropic has one"
            )
        return self

    @model_validator(mode="after")
    def _groups_apart(self) -> "RouteSettings":
        names = [group.name for group in self.limits]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tables of limits name the same models: {name}")
        return self

    @model_validator(mode="after")
    def _prices_apart(self) -> "RouteSettings":
        begun = [(price.from_, price.model) for price in self.prices]
        for day, model in begun:
            if begun.count((day, model)) > 1:
                raise ValueError(f"two prices of {model} begin on {day}")
        return self

    @model_validator(mode="after")
    def _one_endpoint(self) -> "RouteSettings":
        if self.endpoint != "invoke" and self.provider != "bedrock":
            raise ValueError(
                f"endpoint = {self.endpoint!r} is one of provider bedrock; leave it out for {self.provider}"
            )
        if self.endpoint == "platform" and not self.workspace_id:
            raise ValueError(
                "endpoint = 'platform' needs workspace_id, e.g. \"wrkspc_…\" (AWS console, Claude Platform)"
            )
        if self.workspace_id and self.endpoint != "platform":
            raise ValueError("workspace_id belongs to endpoint = 'platform' of provider bedrock; leave it out")
        return self

    @model_validator(mode="after")
    def _versions_are_dates(self) -> "RouteSettings":
        for key, version in (("api_version", self.api_version), *self.api_versions.items()):
            if version and not VERSION.fullmatch(version):
                raise ValueError(f"{key}: {version!r} is no version of the API, such as {self.version_of('')!r}")
        return self

    @property
    def answers_as(self) -> Provider:
        """Operator whose answers, errors, limit headers and prices the route has: Anthropic for Claude Platform on AWS."""
        return "anthropic" if self.endpoint == "platform" else self.provider

    def version_of(self, model: str) -> str:
        """The version of the API that calls of a model name, by its first-party id."""
        for pattern, version in self.api_versions.items():
            if fnmatchcase(model, pattern):
                return version
        return self.api_version or default_version(self.provider, self.endpoint)

    def dialect(self, model: str) -> Dialect:
        """Return the dialect in which calls of a model are written."""
        return Dialect(self.provider, self.endpoint, self.version_of(model))

    def group_of(self, model: str) -> LimitGroup | None:
        """The group whose limits a model shares; None: it has the route's figures for itself."""
        for group in self.limits:
            if any(fnmatchcase(model, pattern) for pattern in group.models):
                return group
        return None

    def place(self) -> dict[str, Any]:
        """Return the settings that decide where a prompt goes and what may go there, JSON-ready, without defaults.

        Two that are equal are the same place, in whatever order their lists were written.
        """
        place = self.model_dump(mode="json", include={*PLACE}, exclude_defaults=True)
        return {name: sorted(set(value)) if name in UNORDERED else value for name, value in place.items()}

    def operational(self) -> dict[str, Any]:
        """Return the settings that may change while the route is served, JSON-ready, without defaults."""
        return self.model_dump(mode="json", include={*OPERATIONAL}, exclude_defaults=True)

    @property
    def place_digest(self) -> str:
        """Digest of the place. A field that a later Trivet adds changes it only where it is set."""
        return digest_of(self.place())

    @property
    def operational_digest(self) -> str:
        """Digest of the operational figures, as `place_digest` is of the place."""
        return digest_of(self.operational())

    def with_figures_of(self, other: "RouteSettings") -> "RouteSettings":
        """Return this place with the operational figures of another definition."""
        return self.model_copy(update={name: getattr(other, name) for name in OPERATIONAL})

    def within(self, window: RouteWindow | None) -> "RouteSettings":
        """The settings as they are in a window."""
        if window is None:
            return self
        held = {"weight": window.weight, "priority": window.priority}
        return self.model_copy(update={key: value for key, value in held.items() if value is not None})
