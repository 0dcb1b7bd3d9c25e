"""The operations API of one Trivet, for scripts, the command line and Flower."""

from functools import cached_property
from typing import TYPE_CHECKING

from trivet.client.connections import Connected

if TYPE_CHECKING:
    from trivet.admin.budgets import Budgets
    from trivet.admin.cache import Cache
    from trivet.admin.controls import Controls
    from trivet.admin.costs import Costs
    from trivet.admin.health import Events, Health
    from trivet.admin.installation import Configuration, Database
    from trivet.admin.jobs import Attempts, Batches, Jobs
    from trivet.admin.keys import Keys
    from trivet.admin.routes import Routes
    from trivet.admin.schedules import Schedules


class Admin(Connected):
    """Reports the state of one Trivet and changes how it runs. Thread-safe. A group is imported at its first use.

        with Admin() as admin:
            for budget in admin.budgets.list().budgets:
                print(budget.name, budget.left_usd)

    Args:
        config: the configuration file; else `TRIVET_CONFIG`, or the nearest `trivet.toml` or running `trivet up`, in this
            folder or above; else `TRIVET_*` variables.
        settings: settings made elsewhere, instead of a file.

    Raises:
        ConfigError: the configuration is wrong, or there is none. The database is opened when first used.
        StoreUnavailable, SchemaMismatch: by every method that needs the database, if it cannot be used.
    """

    @cached_property
    def attempts(self) -> "Attempts":
        """Attempts: provider calls by route, with failovers, and one by one."""
        from trivet.admin.jobs import Attempts

        return Attempts(self._connections)

    @cached_property
    def batches(self) -> "Batches":
        """Batches: the newest, the status of one, and why one does not move."""
        from trivet.admin.jobs import Batches

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
    def controls(self) -> "Controls":
        """Controls: pausing, resuming and prioritizing batches, tenants and latency classes."""
        from trivet.admin.controls import Controls

        return Controls(self._connections)

    @cached_property
    def costs(self) -> "Costs":
        """Costs: reports, savings, pricing calls again."""
        from trivet.admin.costs import Costs

        return Costs(self._connections)

    @cached_property
    def database(self) -> "Database":
        """The database: its schema, and deleting the rows of old jobs."""
        from trivet.admin.installation import Database

        return Database(self._connections)

    @cached_property
    def jobs(self) -> "Jobs":
        """Jobs: the newest, one job's whole life, and why one does not move."""
        from trivet.admin.jobs import Jobs

        return Jobs(self._connections)

    @cached_property
    def keys(self) -> "Keys":
        """Keys of the HTTP gateway: creating, rotating and revoking them."""
        from trivet.admin.keys import Keys

        return Keys(self._connections)

    @cached_property
    def configuration(self) -> "Configuration":
        """The configuration: putting its routes in force."""
        from trivet.admin.installation import Configuration

        return Configuration(self._connections)

    @cached_property
    def events(self) -> "Events":
        """Events of routes, with their reasons."""
        from trivet.admin.health import Events

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

    @cached_property
    def schedules(self) -> "Schedules":
        """Schedules: their next times and last runs; pausing, resuming and running one now."""
        from trivet.admin.schedules import Schedules

        return Schedules(self._connections)
