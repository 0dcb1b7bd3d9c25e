"""The real scheduler, its transactions timed.

python timed_scheduler.py CONFIG      runs until stdin ends
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from orders import serve
from simulated_worker import TimedStore, shown
from sqlalchemy import Connection

import trivet_scheduler.service as service_module
from trivet_scheduler.dispatch import Dispatcher
from trivet_scheduler.service import Scheduler
from trivet_tasks.config.settings import load_settings


def main() -> None:
    """Serve orders beside the scheduler's loop."""
    stores: list[TimedStore] = []

    class ReportedStore(TimedStore):
        """The scheduler's own store, which the report reads."""

        def __init__(self, url: str, **options: Any) -> None:
            super().__init__(url, **options)
            stores.append(self)

    mock.patch.object(service_module, "Store", ReportedStore).start()
    dispatch, run_once = Dispatcher._dispatch, Dispatcher.run_once

    def timed_dispatch(self: Dispatcher, connection: Connection, plan: Any) -> Any:
        if plan:
            stores[0].purpose = "dispatch"  # of the transaction under way
        return dispatch(self, connection, plan)

    def passed(self: Dispatcher) -> Any:
        try:
            return run_once(self)
        finally:
            stores[0].purpose = "other"

    Dispatcher._dispatch = timed_dispatch  # type: ignore[method-assign]
    Dispatcher.run_once = passed  # type: ignore[method-assign]
    scheduler = Scheduler(load_settings(Path(sys.argv[1])))
    ready = threading.Event()
    thread = threading.Thread(target=scheduler.run, args=(ready.set,), daemon=True)
    thread.start()
    assert ready.wait(60)

    def report() -> dict[str, Any]:
        [store] = stores
        found = {name: shown(list(values)) for name, values in list(store.held.items())}
        store.forget()
        return found

    try:
        serve({"report": report})
    finally:
        scheduler.stop()
        thread.join(10)


if __name__ == "__main__":
    main()
