"""The settings of one Trivet: `trivet.toml`, overridden by `TRIVET_*` variables, checked whole and then frozen."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from trivet_tasks.config.budgets import KEY_BUDGETS, BudgetSettings
from trivet_tasks.config.celery_apps import CeleryAppSettings, broker_url_of
from trivet_tasks.config.database_url import database_url
from trivet_tasks.config.environment import sdk_base_url
from trivet_tasks.config.finding import DATA_DIR, DATABASE_NAME, Found, find_configuration, nothing_found
from trivet_tasks.config.gateway import GatewaySettings
from trivet_tasks.config.local_requests import host_name
from trivet_tasks.config.route_prices import RoutePrice, TokenUsd
from trivet_tasks.config.route_settings import LimitGroup, RouteCosts, RouteSettings
from trivet_tasks.config.route_windows import RouteWindow
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.config.secret_refs import OptionalSecret
from trivet_tasks.config.server_urls import celery_url, check_files, read_server_url, redis_url, with_absolute_files
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import DEFAULTS, ClassSettings, Lane, Latency

RELOADED = ("routes", "budgets", "schedules", "celery_apps")
"""Tables that a running scheduler takes from its file again on SIGHUP; a worker takes its routes."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(_Section):
    """The SQL database: the record of every job, call and cost."""

    url: str = Field(default="", repr=False)  # may hold a password
    """Address, `sqlite:///…` or `postgresql://…`. Empty: SQLite in `.trivet/` beside the configuration."""
    pool_size: int = Field(default=8, ge=1, le=1_000)
    """Maximum number of connections to PostgreSQL that one process keeps open."""
    max_overflow: int = Field(default=8, ge=0, le=1_000)
    """Further connections for short peaks; they are closed again."""
    prepared_statements: bool | None = None
    """True if PostgreSQL prepares frequent statements. Not set: it does unless a connection pooler is in between."""


class BrokerSettings(_Section):
    """The Celery broker, which carries the messages."""

    url: str = Field(default="", repr=False)  # may hold a password
    """Address, `redis://…` or `amqp://…`. Empty: the Valkey that `trivet up` starts on this machine."""


class RedisSettings(_Section):
    """The shared state: limits, health, cached answers, notices."""

    url: str = Field(default="", repr=False)  # may hold a password
    """Address, `redis://…`. Empty: the broker, when that is Redis."""


def _climbing(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not shares or shares[-1] != 1 or not all(lower < higher for lower, higher in pairwise((0.0, *shares))):
        raise ValueError("must climb and end with 1.0, as in [0.10, 0.25, 0.50, 1.0]")
    return shares


class HealthSettings(_Section):
    """Rules that take a (route, model) out of service and bring it back. Times are seconds."""

    open_after_failures: int = Field(default=3, ge=1, le=1_000)
    """Number of failures in a row that opens a circuit breaker."""
    open_failed_share: float = Field(default=0.5, gt=0, le=1)
    """Share of failed calls within `window_s` that opens it, too."""
    window_s: float = Field(default=30, gt=0, le=3_600)
    """Time over which calls and failures are counted."""
    min_calls: int = Field(default=10, ge=1, le=100_000)
    """Minimum number of calls within `window_s` for which the share counts."""
    probe_interval_s: float = Field(default=15, gt=0, le=3_600)
    """Time between two probes of an open route, plus or minus a fifth; after a good probe, a fifth of it."""
    idle_probe_s: float = Field(default=300, ge=0, le=86_400)
    """Time without a call after which a route is probed, so that a standby is known to work. 0: never. A route may set its own."""
    close_after_successes: int = Field(default=3, ge=1, le=100)
    """Number of good probes in a row that begins the recovery."""
    recovery_shares: Annotated[tuple[float, ...], AfterValidator(_climbing)] = (0.10, 0.25, 0.50, 1.0)
    """Shares of its work that a recovering route gets, step by step; at 1.0 it is healthy."""
    recovery_step_s: float = Field(default=20, gt=0, le=3_600)
    """Minimum time for which each share is held, with five good calls or more."""
    unusable_probe_max_s: float = Field(default=3_600, gt=0)
    """Maximum pause between two probes of a route whose account refuses us."""
    limited_backoff_s: float = Field(default=2, gt=0, le=3_600)
    """First pause of a limited route when the provider does not name one; doubles up to `limited_backoff_max_s`."""
    limited_backoff_max_s: float = Field(default=60, gt=0, le=3_600)
    """Maximum pause of a limited route when the provider does not name one."""

    @property
    def probe_timeout_s(self) -> float:
        """Maximum time of a probe's call."""
        return min(15.0, max(1.0, self.probe_interval_s))


class LeaseSettings(_Section):
    """The lease of a worker or scheduler process. Times are seconds."""

    ttl_s: float = Field(default=15, gt=1, le=3_600)
    """Time without a heartbeat after which a process counts as dead and its jobs go to others."""
    heartbeat_s: float = Field(default=1, gt=0, le=600)
    """Time between two renewals of the lease."""


def _different(lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
    if len(set(lanes)) < len(lanes):
        raise ValueError('must name each lane once, as in ["realtime", "bulk"]')
    return lanes


class WorkerSettings(_Section):
    """Limits on the work of one worker process."""

    lanes: Annotated[tuple[Lane, ...], Field(min_length=1), AfterValidator(_different)] = tuple(Lane)
    """Lanes that `trivet worker` and `trivet up` serve, and whose absence is reported."""

    slots: int = Field(default=256, ge=1, le=10_000)
    """Maximum number of calls in flight in one process."""
    shutdown_grace_s: float = Field(default=5, ge=0, le=3_600)
    """Time for which running calls may go on after SIGTERM."""
    isolated_processes: int = Field(default=4, ge=1, le=100)
    """Maximum number of processes that one worker starts for quarantined jobs; each runs one job at a time."""
    bulk_nice: int = Field(default=5, ge=0, le=19)
    """Niceness of the bulk lane's processes: they yield to realtime, schedulers and databases on a full machine."""


class DispatchSettings(_Section):
    """Dispatch of waiting jobs to the queues. Times are seconds."""

    interval_s: float = Field(default=0.25, gt=0, le=60)
    """Maximum sleep of a scheduler that nothing wakes."""
    taken_within_s: float = Field(default=15, gt=0, le=600)
    """Time after which a chunk that no worker claimed is dispatched again."""
    credit_factor: float = Field(default=1.5, ge=1, le=10)
    """Maximum number of jobs dispatched to a route, as a multiple of what its workers can have in flight."""
    permit_patience_s: float = Field(default=1, gt=0, le=60)
    """Time after which a job without a permit goes back to waiting."""


class CacheSettings(_Section):
    """Answers of earlier calls for equal requests. `cache_ttl_s` of a class sets the time for which an answer serves."""

    enabled: bool = False
    """True: every request uses it, unless it says `cache=False`. False: only those that say `cache=True`, because five
    answers to one prompt must not be one answer five times."""
    max_bytes: int = Field(default=256 * 1024**2, ge=1_000_000)
    """Maximum size of all answers in Redis, in bytes. Those that expire first are evicted first."""
    max_answer_bytes: int = Field(default=1024**2, ge=1_000)
    """Maximum size of one answer, in bytes. A larger one is not kept."""
    shared: bool = False
    """True if requests of one tenant may get answers to another's."""


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(host_name(name) for name in names)


class FlowerSettings(_Section):
    """Access to Flower. Its other settings are its own `FLOWER_*` variables."""

    hosts: Annotated[tuple[str, ...], AfterValidator(_host_names)] = ()
    """Host names under which browsers may reach it, e.g. a reverse proxy's, in addition to loopback names."""


class SecuritySettings(_Section):
    """Protection against entries that others forge in this installation's name."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    key: OptionalSecret = None
    """Key with which workers sign cached answers. Empty: one is made in `.trivet/` where Redis is on this machine;
    elsewhere no answer is cached."""


START_ISOLATED_S = 45.0
"""Time to start a process for an isolated job on a busy machine; a second or two on an idle one."""
_ROUTE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""Pattern of routes' names, which become names of queues and keys, and entries of lists."""
_APP_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
"""Pattern of names of Celery applications of the user."""


class Settings(BaseSettings):
    """All settings. Made by `load_settings`; never changed afterwards."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="TRIVET_", env_nested_delimiter="__", nested_model_default_partial_update=True,
    )  # fmt: skip

    store: StoreSettings = StoreSettings()
    broker: BrokerSettings = BrokerSettings()
    redis: RedisSettings = RedisSettings()
    routes: dict[Annotated[str, StringConstraints(pattern=_ROUTE_NAME)], RouteSettings] = Field(default_factory=dict)
    classes: dict[Latency, ClassSettings] = Field(default_factory=lambda: dict(DEFAULTS))
    health: HealthSettings = HealthSettings()
    leases: LeaseSettings = LeaseSettings()
    worker: WorkerSettings = WorkerSettings()
    dispatch: DispatchSettings = DispatchSettings()
    cache: CacheSettings = CacheSettings()
    flower: FlowerSettings = FlowerSettings()
    gateway: GatewaySettings = GatewaySettings()
    security: SecuritySettings = SecuritySettings()
    budgets: tuple[BudgetSettings, ...] = ()
    schedules: tuple[ScheduleSettings, ...] = ()
    celery_apps: dict[Annotated[str, StringConstraints(pattern=_APP_NAME)], CeleryAppSettings] = Field(
        default_factory=dict
    )

    _found: Found = PrivateAttr(default_factory=lambda: Found(Path.cwd()))

    @field_validator("classes", mode="wrap")
    @classmethod
    def _over_defaults(cls, given: Any, read: ValidatorFunctionWrapHandler) -> dict[Latency, ClassSettings]:
        """Lay a class's settings over its defaults, so that one key can be set alone; which were set stays known."""
        if not isinstance(given, Mapping):
            return cast("dict[Latency, ClassSettings]", read(given))
        tables = {str(name): table for name, table in given.items()}
        filled = {latency.value: terms.model_dump() for latency, terms in DEFAULTS.items()}
        for name, table in tables.items():
            filled[name] = {**filled.get(name, {}), **table} if isinstance(table, dict) else table
        return {
            latency: ClassSettings.model_construct(_fields_set=set(tables.get(latency, ())), **terms.model_dump())
            for latency, terms in read(filled).items()
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment variables win over the file (which comes as init settings)."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @property
    def source(self) -> str:
        """Source of these settings, for a person."""
        if self.path is not None:
            return str(self.path)
        return "the TRIVET_* variables" if _variables() else "the built-in defaults"

    @property
    def path(self) -> Path | None:
        """The configuration file; None: there is none."""
        return self._found.path

    @property
    def found(self) -> str:
        """Reason for this file or folder: `named`, `in FOLDER`, …; empty: no configuration was found."""
        return self._found.how

    def read_again(self) -> "Settings":
        """Return the settings as the file and the variables have them now.

        Raises:
            ConfigError: as for `load_settings`; these settings are as they were.
        """
        return read_settings(self._found)

    def sections_unlike(self, other: "Settings") -> list[str]:
        """Return the names of the tables that differ from another reading, other than those that may change meanwhile."""
        names = [name for name in Settings.model_fields if name not in RELOADED]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @property
    def base_dir(self) -> Path:
        """The folder that relative paths count from: the configuration file's, else the working directory."""
        return self._found.folder

    @property
    def data_dir(self) -> Path:
        """`.trivet/`: database, embedded broker and keys, where nothing says otherwise. It holds prompts, so it is 0700.

        It is the configuration's own folder where that is one: `trivet up --simulate` writes its file there.
        """
        return self.base_dir if self.base_dir.name == DATA_DIR else self.base_dir / DATA_DIR

    @cached_property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the database, absolute."""
        return database_url(self.store.url or f"sqlite:///{DATA_DIR}/{DATABASE_NAME}", self.base_dir)

    @property
    def embedded(self) -> bool:
        """True when the broker is the Valkey that `trivet up` starts on this machine."""
        return not self.broker.url

    @cached_property
    def broker_url(self) -> str:
        """The Celery broker's URL."""
        return with_absolute_files(self.broker.url, self.base_dir) or celery_url(self.data_dir)

    @cached_property
    def redis_url(self) -> str:
        """The shared state's URL."""
        if self.redis.url:
            return with_absolute_files(self.redis.url, self.base_dir)
        url = with_absolute_files(self.broker.url, self.base_dir)
        return url.replace("redis+socket://", "unix://", 1) or redis_url(self.data_dir)

    def taken_within_s(self, latency: Latency, *, isolated: bool = False) -> float:
        """Seconds that a worker has to claim a dispatched job; for realtime, few enough for another worker to try.

        For an isolated job a worker may have to start a process first.
        """
        whole = self.dispatch.taken_within_s + (START_ISOLATED_S if isolated else 0.0)
        return min(whole, self.classes[latency].budget_s / 4) if latency is Latency.REALTIME else whole

    def of_class(self, latency: Latency) -> ClassSettings:
        """The settings of one latency class."""
        return self.classes[latency]


def load_settings(named: Path | None = None, *, required: bool = False) -> Settings:
    """Find the configuration and read it.

    Args:
        named: the configuration file; else `TRIVET_CONFIG`, else that of the working directory or the nearest folder
            above it (`find_configuration`), else variables and defaults alone.
        required: whether defaults alone are an error.

    Raises:
        ConfigError: as for `read_settings`; or what was found can be written by others; or nothing was found.
    """
    found = find_configuration(named)
    if required and not found.how and not _variables():
        raise nothing_found(found)
    return read_settings(found)


def read_settings(found: Found) -> Settings:
    """Read the settings of a configuration that was found.

    Raises:
        ConfigError: the file is not there or not TOML, a key is unknown or a value bad; every problem is listed with
            its file or variable and key.
    """
    given: dict[str, Any] = {} if found.path is None else _read_toml(found.path)
    _anchor_secret_files(given, found.folder)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(e, str(found.path or "")) for e in error.errors())) from None
    settings._found = found
    _follow_environment(settings)
    _check_urls(settings)
    _check_budgets(settings)
    _check_schedules(settings)
    return settings


def _variables() -> bool:
    """Return whether a variable sets a setting."""
    names = (name.removeprefix("TRIVET_") for name in os.environ if name.startswith("TRIVET_"))
    return any(name.partition("__")[0].lower() in Settings.model_fields for name in names)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file.", hint="`trivet config init` writes one.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}).") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}.") from None


def _anchor_secret_files(given: dict[str, Any], base: Path) -> None:
    """Make the path of every `file:` reference absolute, counted from the configuration file."""
    routes = given.get("routes")
    apps = given.get("celery_apps")
    named = [one for tables in (routes, apps) if isinstance(tables, dict) for one in tables.values()]
    for table in [*named, given.get("security")]:
        for name in ("api_key", "admin_api_key", "key", "broker_url"):
            key = table.get(name) if isinstance(table, dict) else None
            if isinstance(key, str) and key.startswith("file:") and key != "file:":
                table[name] = f"file:{(base / key.removeprefix('file:')).absolute()}"


def _follow_environment(settings: Settings) -> None:
    """Give routes that ask for it the base URL of the SDK's variable."""
    for name, route in settings.routes.items():
        if route.environment and not route.base_url and (base_url := sdk_base_url(route.provider)):
            settings.routes[name] = route.model_copy(update={"base_url": base_url})


def _check_urls(settings: Settings) -> None:
    for section, url in (("broker", settings.broker.url), ("redis", settings.redis.url)):
        if not url:
            continue
        place = f"{settings.source}: [{section}] url"
        try:
            server = read_server_url(url)
            check_files(with_absolute_files(url, settings.base_dir))
        except ValueError as error:
            raise ConfigError(f"{place}: {error}.") from None
        if server.is_amqp and section == "redis":
            raise ConfigError(
                f"{place}: must be a Redis: limits and health are shared through it, not through RabbitMQ."
            )
    for name, app in settings.celery_apps.items():
        if app.is_reference:  # only schedulers need to know it
            continue
        try:
            broker_url_of(name, app, settings.base_dir)
        except ConfigError as error:
            raise ConfigError(f"{settings.source}: {error.message}") from None
    for latency, terms in settings.classes.items():
        if terms.hedge_share and latency is not Latency.REALTIME:
            raise ConfigError(f"{settings.source}: [classes.{latency}] hedge_share: only realtime calls are hedged.")
    if settings.broker.url.startswith("amqp") and not settings.redis.url:
        raise ConfigError(
            f"{settings.source}: [redis] url: is needed when the broker is RabbitMQ: limits and health are shared through Redis."
        )
    try:
        scheme = settings.store_url.partition("://")[0]
    except ValueError as error:
        raise ConfigError(f"{settings.source}: [store] url: {error}.") from None
    file = settings.store.url.removeprefix("sqlite:///")
    if scheme == "sqlite" and settings.store.url and (file in ("", ":memory:") or file == settings.store.url):
        raise ConfigError(
            f"{settings.source}: [store] url: must name a file, as in sqlite:///.trivet/trivet.db: processes share it."
        )


def _check_budgets(settings: Settings) -> None:
    names = [budget.name for budget in settings.budgets]
    for number, budget in enumerate(settings.budgets):
        place = f"{settings.source}: [budgets.{number}]"
        if budget.name.startswith(KEY_BUDGETS):
            raise ConfigError(
                f"{place} name: {budget.name!r}: names that begin with {KEY_BUDGETS!r} are those of gateway keys.",
                hint="`trivet keys create NAME --budget 20/day` makes one.",
            )
        if budget.name in names[:number]:
            raise ConfigError(f"{place} name: another budget is called {budget.name!r}, too.")
        if budget.route and settings.routes and budget.route not in settings.routes:
            near = difflib.get_close_matches(budget.route, settings.routes, n=1)
            raise ConfigError(
                f"{place} route: no route is called {budget.route!r}." + (f" Did you mean {near[0]}?" if near else "")
            )


def _check_schedules(settings: Settings) -> None:
    names = [schedule.name for schedule in settings.schedules]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(
                f"{settings.source}: [schedules.{number}] name: another schedule is called {name!r}, too. Give each its own name."
            )


def _describe(error: ErrorDetails, path: str) -> str:
    """One problem in one line: where, what, and the near match of an unknown key."""
    loc = [str(part) for part in error["loc"]]
    variable = "TRIVET_" + "__".join(loc).upper()
    where = f"the variable {variable}" if variable in os.environ else path or "the configuration"
    key = f"[{'.'.join(loc[:-1])}] {loc[-1]}" if len(loc) > 1 else loc[0] if loc else ""
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        return f"{where}: {key}: {message[0].lower()}{message[1:]}."
    near = difflib.get_close_matches(loc[-1], _keys_at(loc[:-1]), n=1, cutoff=0.6)
    return f"{where}: {key}: unknown key." + (f" Did you mean {near[0]}?" if near else "")


def _keys_at(loc: list[str]) -> list[str]:
    """The keys that may stand in the table at `loc`."""
    tables: dict[str, type[BaseModel]] = {
        "routes": RouteSettings, "classes": ClassSettings, "budgets": BudgetSettings,
        "schedules": ScheduleSettings,
        "celery_apps": CeleryAppSettings,
    }  # fmt: skip
    if not loc:
        return list(Settings.model_fields)
    if loc[0] == "routes" and "limits" in loc[2:]:
        return list(LimitGroup.model_fields)
    if loc[0] == "routes" and "windows" in loc[2:]:
        return list(RouteWindow.model_fields)
    if loc[0] == "routes" and "prices" in loc[2:]:
        model = TokenUsd if "usd" in loc[3:] else RoutePrice
        return [field.alias or name for name, field in model.model_fields.items()]
    if loc[0] == "routes" and "costs" in loc[2:]:
        return list(RouteCosts.model_fields)
    if loc[0] in tables:
        return list(tables[loc[0]].model_fields)
    section = Settings.model_fields.get(loc[0])
    annotation = section.annotation if section else None
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
