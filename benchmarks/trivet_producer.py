"""Sends jobs to a running Trivet through its client, as a program would. A process of its own, so that its CPU is counted."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import anthropic
from load import MAX_TOKENS, MODEL, messages, prompt
from orders import serve

from trivet import Client, LatencyName


class Producer:
    """Orders of the producer."""

    def __init__(self, config: Path, direct_url: str) -> None:
        self._client = Client(config)
        self._direct = anthropic.Anthropic(api_key="simulated-key", base_url=direct_url, max_retries=0)
        self._batch = ""

    def send(self, jobs: int, characters: int = 400, latency: LatencyName = "batch") -> dict[str, Any]:
        """All at once, as one batch."""
        requests = [{"prompt": prompt(number, characters)} for number in range(jobs)]
        self._batch = f"bench-{time.time_ns()}"
        start = time.perf_counter()
        self._client.submit_many(requests, name=self._batch, model=MODEL, max_tokens=MAX_TOKENS, latency=latency)
        return {"seconds": time.perf_counter() - start}

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """For the last job of that batch."""
        batch = self._client.batch(self._batch)
        batch.wait(timeout=timeout_s)
        progress = batch.progress()
        return {"succeeded": progress.succeeded, "ended": progress.ended, "cost_usd": str(progress.cost_usd)}

    def progress(self) -> dict[str, Any]:
        """Return the number of jobs of that batch that have ended."""
        return {"ended": self._client.batch(self._batch).progress().ended}

    def trickle(self, jobs: int, every_s: float) -> dict[str, Any]:
        """One by one; says when each was handed over, by the id of the job."""
        sent = {}
        for number in range(jobs):
            before = time.time()
            job = self._client.submit(prompt(number), model=MODEL, max_tokens=MAX_TOKENS)
            sent[job.id] = before
            time.sleep(every_s)
        return {"sent": sent}

    def realtime(self, jobs: int, every_s: float) -> dict[str, Any]:
        """Realtime jobs, and direct calls between them, at a steady pace; the seconds each took."""
        took: list[float] = []
        direct: list[float] = []
        failed: list[str] = []

        def one_job(number: int) -> None:
            start = time.perf_counter()
            result = self._client.submit(prompt(number), model=MODEL, max_tokens=MAX_TOKENS, latency="realtime").result(
                timeout=30
            )
            if result.status == "succeeded":
                took.append(time.perf_counter() - start)
            else:
                failed.append(str(result.error))

        def one_call(number: int) -> None:
            start = time.perf_counter()
            self._direct.messages.create(model=MODEL, max_tokens=MAX_TOKENS, messages=messages(number))  # type: ignore[arg-type]
            direct.append(time.perf_counter() - start)

        threads = []
        for number in range(2 * jobs):
            threads.append(threading.Thread(target=(one_job, one_call)[number % 2], args=(number,)))
            threads[-1].start()
            time.sleep(every_s / 2)
        for thread in threads:
            thread.join()
        return {"took": took, "direct": direct, "failed": failed}


if __name__ == "__main__":
    producer = Producer(Path(sys.argv[1]), sys.argv[2])
    serve(
        {
            "send": producer.send,
            "wait": producer.wait,
            "progress": producer.progress,
            "trickle": producer.trickle,
            "realtime": producer.realtime,
        }
    )
