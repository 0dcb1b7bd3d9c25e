"""Sends jobs to the hand-made Celery workers, with `.delay()` in a loop, as one does."""

from __future__ import annotations

import time
from typing import Any

from celery_app import call
from load import prompt
from orders import serve


def send(jobs: int) -> dict[str, Any]:
    """All at once."""
    prompts = [prompt(number) for number in range(jobs)]
    start = time.perf_counter()
    for number, text in enumerate(prompts):
        call.delay(f"celery-{number}", text)
    return {"seconds": time.perf_counter() - start}


def trickle(jobs: int, every_s: float) -> dict[str, Any]:
    """One by one; says when each was handed over."""
    sent = {}
    for number in range(jobs):
        sent[f"trickle-{number}"] = time.time()
        call.delay(f"trickle-{number}", prompt(number))
        time.sleep(every_s)
    return {"sent": sent}


if __name__ == "__main__":
    serve({"send": send, "trickle": trickle})
