"""Requests that only older versions of the API take run on the routes that speak one, through the whole system."""

import time
from typing import Any

import pytest

from trivet import InvalidRequest
from trivet.testing import RunningTrivet

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
ASKING: list[dict[str, Any]] = [
    {"temperature": 0.2},
    {"top_p": 0.9, "top_k": 5},
    {"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": [DOCUMENT]}, {"role": "user", "content": "b"},
    ]},
]  # fmt: skip


def test_such_jobs_run_on_the_clouds_and_never_at_the_newest_version(system: RunningTrivet) -> None:
    key = f"versions-{time.time_ns()}"
    requests: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"{key} {number}"}], **asking, "key": f"{key}-{number}"}
        for number, asking in enumerate(ASKING * 4)
    ]
    jobs = [system.client.submit(**TERMS, **request, cache=False) for request in requests]
    results = [job.result(timeout=120) for job in jobs]
    assert {result.status for result in results} == {"succeeded"}
    assert {len(result.attempts) for result in results} == {1}  # no route was asked that would have refused
    assert {result.provider for result in results} <= {"bedrock", "vertex"}


def test_where_no_route_takes_them_submit_says_so(system: RunningTrivet) -> None:
    with pytest.raises(InvalidRequest, match="temperature: must be a number from 0 to 1"):
        system.client.submit("Hello", temperature=2, **TERMS)
