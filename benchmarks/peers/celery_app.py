"""A Celery application as one writes it by hand around the sync SDK: one task, one call. No database, no price, no result.

The environment says where: BENCH_BROKER, BENCH_URL.
"""

from __future__ import annotations

import os
from functools import lru_cache

import anthropic
from celery import Celery
from load import ATTEMPT_HEADER, MAX_TOKENS, MODEL

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"max_connections": 512},  # gevent stalls with kombu's ten
)


@lru_cache(maxsize=1)
def client() -> anthropic.Anthropic:
    """One per process, made when first used: after the fork."""
    return anthropic.Anthropic(api_key="simulated-key", base_url=os.environ["BENCH_URL"], max_retries=0)


@app.task(name="bench.call")  # type: ignore[untyped-decorator]  # Celery has no types
def call(job_id: str, prompt: str) -> None:
    """One job."""
    answer = client().messages.create(
        model=MODEL,
        max_tokens=MAX_TOKENS,
        messages=[{"role": "user", "content": prompt}],
        extra_headers={ATTEMPT_HEADER: job_id},
    )
    block = answer.content[0]
    assert block.type == "text"
    assert block.text
