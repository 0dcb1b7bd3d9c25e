"""The operations API of one Trivet, for scripts, the command line and Flower."""

from functools import cached_property
from pathlib import Path
from types import TracebackType

from trivet.admin.budgets import Budgets
from trivet.client.connections import Connections
from trivet_tasks.config.settings import Settings, load_settings


class Admin:
    """Reports how one Trivet stands and changes how it runs. Thread-safe.

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
    def budgets(self) -> Budgets:
        """Budgets: how they stand; more for the window that is now."""
        return Budgets(self._connections)

    def close(self) -> None:
        """Close the connections. Jobs go on."""
        self._connections.close()
