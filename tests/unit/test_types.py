"""Types that a producer's type checker sees: fields of a request, names of states and outcomes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from trivet import (
    EndStateName,
    InvalidRequest,
    JobStateName,
    LatencyName,
    OutcomeName,
    RequestParams,
    SubmitParams,
)
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.requests.reading import OWN_FIELDS, parse_request
from trivet_tasks.requests.request_body import BODY_FIELDS
from trivet_tasks.states import END_STATES, JobState, name_of_end

ROOT = Path(__file__).parents[2]
SNIPPET = """
import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from anthropic import NOT_GIVEN
from anthropic.types import Message, MessageParam

import trivet
from trivet import AsyncClient, Client, RequestParams, SubmitParams

client = Client()
terms: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 300}
TURNS: list[MessageParam] = [{"role": "user", "content": "Hello"}]


def right(answer: Message) -> None:
    job = client.submit("Hello", model="claude-sonnet-5-5", max_tokens=300, latency="async", deadline="5m")
    client.submit("Hello", **terms)
    client.submit("Hello", **terms, deadline=timedelta(minutes=5), not_before=datetime.now(UTC), key=None)
    client.submit(model="claude-sonnet-5-5", max_tokens=300, messages=TURNS, temperature=NOT_GIVEN, tags={"a": "b"})
    client.submit(model="claude-sonnet-5-5", max_tokens=300, messages=[*TURNS, answer], residency=["eu"])
    result = job.result(timeout=5)
    if result.status == "succeeded" or (result.error and result.error.outcome == "rate_limited"):
        client.submit(messages=[result.message], **terms)
    client.submit_many([{"prompt": "Hello"}], **terms)
    client.submit_many(({"prompt": f"Hello {n}", "key": str(n)} for n in range(3)), model="claude-sonnet-5-5")
    client.submit_many(requests(), name="hello", max_tokens=300, prompt_cache="1h")


def ask(prompt: str, /, **request: Unpack[SubmitParams]) -> str:
    return client.submit(prompt, **request).result().text


def requests() -> Iterator[RequestParams]:
    yield {"prompt": "Hello", "key": "a"}


async def arequests() -> AsyncIterator[RequestParams]:
    yield {"prompt": "Hello", "key": "a"}


async def main() -> None:
    async with AsyncClient() as aclient:
        job = await aclient.submit("Hello", model="claude-sonnet-5-5", max_tokens=300)
        status: trivet.EndStateName = (await job).status
        states: list[trivet.JobStateName] = [await job.state(), status]
        batch = await aclient.submit_many(arequests(), model="claude-sonnet-5-5", max_tokens=300)
        print([result.status async for result in batch.results()], states)


asyncio.run(main())
ask("Hello", model="claude-sonnet-5-5", max_tokens=300)


def wrong() -> None:
    client.submit("Hello", modle="claude-sonnet-5-5", max_tokens=300)  # mypy: "modle" for "submit"
    client.submit("Hello", model="claude-sonnet-5-5")  # mypy: Missing named argument "max_tokens"
    client.submit("Hello", **terms, latency="soon")  # mypy: "latency" to "submit"
    client.submit("Hello", **terms, temperature="0.5")  # mypy: "temperature" to "submit"
    client.submit("Hello", **terms, deadline=[5])  # mypy: "deadline" to "submit"
    client.submit_many([{"prompt": "Hello"}], max_token=300)  # mypy: "max_token" for "submit_many"
    if client.job("a").state == "done":  # mypy: Non-overlapping equality check
        return
    result = client.job("a").result()
    if result.status == "succeded":  # mypy: Non-overlapping equality check
        return
    if result.attempts[0].outcome == "ratelimited":  # mypy: Non-overlapping equality check
        return


def wrong_requests() -> Iterator[RequestParams]:
    yield {"prompt": "Hello", "modle": "claude-sonnet-5-5"}  # mypy: "modle"


async def wrong_async(aclient: AsyncClient) -> None:
    await aclient.submit("Hello", modle="claude-sonnet-5-5", max_tokens=300)  # mypy: "modle" for "submit"
    job = await aclient.submit("Hello", **terms)
    if (await job).status == "succeded":  # mypy: Non-overlapping equality check
        return
"""


def names(form: Any) -> Iterator[str]:
    """Yield the texts of a Literal, or of a union of them."""
    for one in get_args(form):
        if isinstance(one, str):
            yield one
        else:
            yield from names(one)


def test_names_are_those_of_the_enums() -> None:
    assert list(names(LatencyName)) == list(Latency)
    assert list(names(OutcomeName)) == list(Outcome)
    assert list(names(JobStateName)) == list(JobState)
    assert set(names(EndStateName)) == END_STATES


def test_only_a_job_that_has_ended_has_the_name_of_an_end() -> None:
    assert {name_of_end(state) for state in END_STATES} == {"succeeded", "failed", "expired", "cancelled"}
    with pytest.raises(ValueError, match="running"):
        name_of_end(JobState.RUNNING)


@pytest.mark.parametrize("form", [SubmitParams, RequestParams])
def test_fields_are_those_that_a_request_may_have(form: type) -> None:
    older = {"output_format"}  # read as `output_config.format`
    of_submit = {"on_done"} if form is SubmitParams else set()
    assert form.__annotations__.keys() == OWN_FIELDS | BODY_FIELDS.keys() | older | of_submit


def test_what_a_whole_request_needs_is_required() -> None:
    assert SubmitParams.__required_keys__ == {"model", "max_tokens"}
    assert RequestParams.__required_keys__ == frozenset()
    for name in SubmitParams.__required_keys__:
        request = {"prompt": "Hello", "model": "claude-sonnet-5-5", "max_tokens": 10}
        del request[name]
        with pytest.raises(InvalidRequest, match=f"{name}: is missing"):
            parse_request(request, settings=Settings(), now=0.0)


def test_mypy_finds_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET, encoding="utf-8")
    expected = {
        number: line.partition("# mypy: ")[2]
        for number, line in enumerate(SNIPPET.splitlines(), start=1)
        if "# mypy: " in line
    }
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n", encoding="utf-8")
    cache = ROOT / ".mypy_cache" / "snippet"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--no-error-summary", snippet.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        said = re.fullmatch(r"snippet\.py:(\d+): error: (.*)", line)
        if said is None:
            assert ": note: " in line, done.stdout
            continue
        found[int(said[1])] = found.get(int(said[1]), "") + said[2]
    assert found.keys() == expected.keys(), done.stdout
    assert {number: found[number] for number, words in expected.items() if words not in found[number]} == {}
