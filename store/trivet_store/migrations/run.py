"""Running Alembic without its command line."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

SCRIPTS = Path(str(resources.files("trivet_store") / "migrations"))
"""The folder with Alembic's environment and, in `versions`, the steps."""


def steps(version: str | None) -> list[str]:
    """Return the steps after a version, in order; all of them for an empty database."""
    script = ScriptDirectory.from_config(_config())
    return [step.revision for step in script.iterate_revisions("head", version or "base")][::-1]


def run_step(connection: Connection, step: str) -> None:
    """Migrate to this step in the caller's transaction; nothing when another has done so meanwhile."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, step)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config
