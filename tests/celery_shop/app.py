"""A user's own Celery application, as a stock worker runs it: `python -m celery -A tests.celery_shop.app worker`.

Its broker, its result backend and the folder of its documents come from the environment.
"""

import os
from pathlib import Path
from typing import Any

from celery import Celery, chain
from celery.result import AsyncResult

from trivet.celery import generate

__all__ = ["app", "generate"]

TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 40}

app = Celery("shop", broker=os.environ["SHOP_BROKER_URL"], backend=os.environ["SHOP_BACKEND_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_send_sent_event=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": float(os.environ["SHOP_VISIBILITY_S"]),
        "unacked_restore_throttle": 1,  # look every 10 s for what is to be delivered again, and not every 100 s
    },
    task_default_queue_type=os.environ["SHOP_QUEUE_TYPE"],
)
if os.environ["SHOP_BROKER_URL"].startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}


def folder() -> Path:
    """Return the folder of the documents."""
    return Path(os.environ["SHOP_FOLDER"])


@app.task(name="shop.load", shared=False)  # type: ignore[untyped-decorator] # Celery has no types
def load(number: int) -> str:
    """Return a document."""
    return f"document {number}"


@app.task(name="shop.load_all", shared=False)  # type: ignore[untyped-decorator] # as above
def load_all(count: int) -> list[str]:
    """Return so many documents."""
    return [f"document {number}" for number in range(count)]


@app.task(name="shop.save", shared=False)  # type: ignore[untyped-decorator] # as above
def save(text: Any, name: str) -> str:
    """Append a line to the file of this name."""
    with (folder() / name).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return name


def steps_of(number: int, name: str, tenant: str) -> list[Any]:
    """Return the steps of a document's chain, the last of which saves under this name."""
    return [load.s(number), generate.s(prompt="{0}", tenant=tenant, **TERMS), save.s(name)]


def send_again(saved: AsyncResult, number: int, name: str, tenant: str) -> None:
    """Send the rest of a document's chain again, under the ids that its tasks have: no call is made a second time.

    Args:
        saved: result of the last task of its chain.
    """
    generated = saved.parent
    ids = [generated.parent.id, generated.id, saved.id]
    steps = [step.set(task_id=task_id) for step, task_id in zip(steps_of(number, name, tenant), ids, strict=True)]
    if generated.successful():
        steps[-1].delay(generated.get())
    else:
        chain(*steps).delay()


@app.task(name="shop.collect", shared=False)  # type: ignore[untyped-decorator] # as above
def collect(texts: list[str], name: str) -> int:
    """Append the number of texts to the file of this name."""
    save(len(texts), name)
    return len(texts)


@app.task(name="shop.note_failure", shared=False)  # type: ignore[untyped-decorator] # as above
def note_failure(request: Any, error: Exception, traceback: str, name: str) -> None:
    """Append the kind and the outcome of an error to the file of this name."""
    save(f"{type(error).__name__} {getattr(error, 'outcome', None)}", name)
