"""Sends jobs to the taskiq worker, with `.kiq()` in a loop, as one does."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from load import prompt
from orders import serve
from taskiq_app import broker, call

loop = asyncio.new_event_loop()


def send(jobs: int) -> dict[str, Any]:
    """All at once."""
    prompts = [prompt(number) for number in range(jobs)]

    async def work() -> None:
        for number, text in enumerate(prompts):
            await call.kiq(f"taskiq-{number}", text)

    start = time.perf_counter()
    loop.run_until_complete(work())
    return {"seconds": time.perf_counter() - start}


def trickle(jobs: int, every_s: float) -> dict[str, Any]:
    """One by one; says when each was handed over."""
    sent: dict[str, float] = {}

    async def work() -> None:
        for number in range(jobs):
            sent[f"trickle-{number}"] = time.time()
            await call.kiq(f"trickle-{number}", prompt(number))
            await asyncio.sleep(every_s)

    loop.run_until_complete(work())
    return {"sent": sent}


if __name__ == "__main__":
    loop.run_until_complete(broker.startup())
    serve({"send": send, "trickle": trickle})
