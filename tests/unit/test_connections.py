"""A client's connections: what a forked child keeps of its parent's."""

from functools import cached_property
from pathlib import Path

from trivet.client.connections import Connections
from trivet_tasks.config.settings import Settings


def test_a_forked_child_opens_everything_anew(tmp_path: Path) -> None:
    settings = Settings.model_validate({"store": {"url": f"sqlite:///{tmp_path / 'trivet.db'}"}})
    connections = Connections(settings)
    opened = [name for name, value in vars(Connections).items() if isinstance(value, cached_property)]
    before = {name: getattr(connections, name) for name in opened}
    assert {"redis", "directory", "dispatcher"} <= before.keys()
    connections.reset_after_fork()
    assert all(getattr(connections, name) is not before[name] for name in opened)
    connections.close()
