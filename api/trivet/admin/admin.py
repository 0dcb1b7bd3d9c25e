"""The operations API of one Trivet, for scripts, the command line and Flower."""

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from trivet.client.connections import Connections
from trivet_tasks.config.settings import Settings, load_settings

if TYPE_CHECKING:
    from trivet.admin.attempts import Attempts
    from trivet.admin.batches import Batches
    from trivet.admin.budgets import Budgets
    from trivet.admin.cache import Cache
    from trivet.admin.configuration import Configuration
    from trivet.admin.costs import Costs
    from trivet.admin.database import Database
    from trivet.admin.events import Events
    from trivet.admin.health import Health
    from trivet.admin.jobs import Jobs
    from trivet.admin.routes import Routes


class Admin:
    """Reports the state of one Trivet and changes how it runs. Thread-safe. A group is imported at its first use.

        with Admin() as admin:
            for budget in admin.budgets.list().budgets:
                print(budget.name, budget.left_usd)

    Args:
        config: the configuration file; else `TRIVET_CONFIG`, `trivet.toml` here, or the defaults.
        settings: settings made elsewhere, instead of a file.

    Raises:
        ConfigError: the configuration is wrong. The database is opened when first used.
    """

    def __init__(self, config: Path | str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings(Path(config) if config else None)
        self._connections = Connections(self.settings)

    def __enter__(self) -> "Admin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def attempts(self) -> "Attempts":
        """Attempts: provider calls by route, with failovers, and one by one."""
        from trivet.admin.attempts import Attempts

        return Attempts(self._connections)

    @cached_property
    def batches(self) -> "Batches":
        """Batches: the newest, the status of one, and why one does not move."""
        from trivet.admin.batches import Batches

        return Batches(self._connections)

    @cached_property
    def budgets(self) -> "Budgets":
        """Budgets: their status; raising the limit of the current window."""
        from trivet.admin.budgets import Budgets

        return Budgets(self._connections)

    @cached_property
    def cache(self) -> "Cache":
        """The response cache: its state, its savings, clearing it."""
        from trivet.admin.cache import Cache

        return Cache(self._connections)

    @cached_property
    def costs(self) -> "Costs":
        """Costs: reports, savings, pricing calls again."""
        from trivet.admin.costs import Costs

        return Costs(self._connections)

    @cached_property
    def database(self) -> "Database":
        """The database: its schema, and deleting the rows of old jobs."""
        from trivet.admin.database import Database

        return Database(self._connections)

    @cached_property
    def jobs(self) -> "Jobs":
        """Jobs: the newest, one job's whole life, and why one does not move."""
        from trivet.admin.jobs import Jobs

        return Jobs(self._connections)

    @cached_property
    def configuration(self) -> "Configuration":
        """The configuration: putting its routes in force."""
        from trivet.admin.configuration import Configuration

        return Configuration(self._connections)

    @cached_property
    def events(self) -> "Events":
        """Events of routes, with their reasons."""
        from trivet.admin.events import Events

        return Events(self._connections)

    @cached_property
    def health(self) -> "Health":
        """Health: impairments of processes and servers, and the backlog."""
        from trivet.admin.health import Health

        return Health(self._connections)

    @cached_property
    def routes(self) -> "Routes":
        """Routes: their status; drain, restore, limit, probe and remove them."""
        from trivet.admin.routes import Routes

        return Routes(self._connections)

    def now(self) -> float:
        """Return the database's time, in seconds since the epoch.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return self._connections.now()

    def close(self) -> None:
        """Close the connections. Jobs go on."""
        self._connections.close()
