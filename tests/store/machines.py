"""State machines over a SQLite database of their own."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import event
from tests.store.world import World

from trivet_store.database.engine import Store


class StoreMachine(RuleBasedStateMachine):
    """One database, a copy of `template`; a subclass calls `open` when it begins."""

    template: Path
    """Set before a run."""

    def open(self) -> World:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "trivet.db"
        shutil.copyfile(self.template, path)
        store = Store(f"sqlite:///{path}")
        # the machines test order, not power cuts
        event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        self.world = World(store)
        return self.world

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.store.close()
            self.folder.cleanup()


def machine_settings(few: int) -> settings:
    """Return settings for this many examples, always the same; for other ones where TRIVET_MACHINE_EXAMPLES asks."""
    examples = int(os.environ.get("TRIVET_MACHINE_EXAMPLES", few))
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        derandomize=examples == few,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
