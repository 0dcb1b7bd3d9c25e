"""Running Alembic without its command line."""

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def to_newest(connection: Connection) -> None:
    """Migrate in the caller's transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def head() -> str | None:
    """The last of the numbered steps."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("trivet_tasks.store") / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
