"""A taskiq broker as one writes it by hand around the async SDK: one task, one call. No database, no price, no result."""

from __future__ import annotations

import os
from functools import lru_cache

import anthropic
from load import ATTEMPT_HEADER, MAX_TOKENS, MODEL
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(os.environ["BENCH_REDIS"])


@lru_cache(maxsize=1)
def client() -> anthropic.AsyncAnthropic:
    """One per process."""
    return anthropic.AsyncAnthropic(
        api_key="simulated-key",
        base_url=os.environ["BENCH_URL"],
        max_retries=0,
        http_client=anthropic.DefaultAioHttpClient(),
    )


@broker.task(task_name="bench.call")  # type: ignore[untyped-decorator]  # not installed where types are checked
async def call(job_id: str, prompt: str) -> None:
    """One job."""
    answer = await client().messages.create(
        model=MODEL,
        max_tokens=MAX_TOKENS,
        messages=[{"role": "user", "content": prompt}],
        extra_headers={ATTEMPT_HEADER: job_id},
    )
    block = answer.content[0]
    assert block.type == "text"
    assert block.text
