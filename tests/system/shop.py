"""A stock Celery application of a user, as the tests of callbacks run it: `celery -A tests.system.shop worker`."""

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("shop", broker=os.environ.get("SHOP_BROKER"))
app.conf.task_routes = {"shop.report": {"queue": "reports"}}
app.conf.worker_hijack_root_logger = False


def _write(**said: object) -> None:
    """Append one line to the file that the test reads."""
    with Path(os.environ["SHOP_FILE"]).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(said)}\n")
        file.flush()
        os.fsync(file.fileno())


@app.task(name="shop.save", bind=True, shared=False)  # type: ignore[untyped-decorator] # Celery has no types
def save(self: Any, notice: dict[str, Any], document: str) -> str:
    """Note the end of a job."""
    _write(task=self.request.id, queue=self.request.delivery_info["routing_key"], document=document, notice=notice)
    return document


@app.task(name="shop.report", bind=True, shared=False)  # type: ignore[untyped-decorator] # Celery has no types
def report(self: Any, notice: Any, title: str) -> None:
    """Note the end of a batch, or what the task before gave."""
    _write(task=self.request.id, queue=self.request.delivery_info["routing_key"], title=title, notice=notice)


@app.task(name="shop.tick", shared=False)  # type: ignore[untyped-decorator] # Celery has no types
def tick(number: int) -> None:
    """Note nothing but its own argument: for immutable signatures."""
    _write(number=number)
