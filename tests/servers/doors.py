"""The three doors of Trivet to its servers: the shared state, Celery, and Flower's depths."""

import asyncio
from pathlib import Path

from trivet.flower.readers import QueueDepths
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, publish
from trivet_tasks.shared_state import check_writable, connect

DOORS = ("shared state", "celery", "flower")


def settings_for(folder: Path, *, broker: str, redis: str = "") -> Settings:
    """Return the settings of a file with these URLs."""
    path = folder / "doors.toml"
    tables = f'[broker]\nurl = "{broker}"\n' + (f'[redis]\nurl = "{redis}"\n' if redis else "")
    path.write_text(tables, encoding="utf-8")
    return load_settings(path)


def go_through(door: str, settings: Settings) -> None:
    """Use one of `DOORS`; whatever it raises comes out."""
    if door == "shared state":
        client = connect(settings.redis_url)
        try:
            check_writable(client)
        finally:
            client.close()
        return
    app = make_app(settings)
    try:
        if door == "celery":
            publish(
                app,
                [Chunk("quiet", "anthropic", Latency.BATCH, "claude-sonnet-5-5", (DispatchedJob("id", 1, 10, 30),))],
            )
        else:
            (depth,) = asyncio.run(QueueDepths(settings, app).queues(["quiet.batch"]))
            assert depth["messages"] >= 0
    finally:
        app.close()
