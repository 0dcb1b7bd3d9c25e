"""A process for isolated jobs takes what its worker sends it, whatever it finds wrong: only the worker steers."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from trivet.local.embedded import EmbeddedValkey
from trivet_store.cluster.leases import ISOLATED
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.server_urls import redis_url
from trivet_tasks.config.settings import Settings
from trivet_worker.process.runtime import Runtime
from trivet_worker.run.process_state import Drops

ROUTE = "anthropic"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    folder = tmp_path / ".trivet"
    with EmbeddedValkey(folder):
        yield Settings.model_validate(
            {
                "store": {"url": f"sqlite:///{tmp_path / 'trivet.db'}"},
                "broker": {"url": redis_url(folder)},
                "routes": {ROUTE: {"provider": "anthropic", "api_key": f"file:{tmp_path / 'no-such-key'}"}},
            }
        )


@pytest.mark.parametrize(("lane", "takes"), [("bulk", False), (ISOLATED, True)])
def test_missing_credentials_stop_a_worker_and_no_process_of_its_own(
    settings: Settings, lane: str, takes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime(settings, make_app(settings), worker="w", lane=lane, routes=[ROUTE], drops=Drops(), origin="o")
    caplog.set_level(logging.ERROR)
    runtime.start()
    try:
        assert runtime.takes_route(ROUTE) is takes
        assert any("no work of anthropic is taken here" in record.message for record in caplog.records) is not takes
    finally:
        runtime.begin_stop()
        runtime.close()
