"""Pages of results end by their bytes, not only by their number."""

import json
from collections.abc import Iterator
from decimal import Decimal

from trivet.client.result import Result
from trivet.gateway.resources.result_pages import PAGE, PAGE_BYTES, next_page


def results(count: int, *, prompt: str, read: list[int]) -> Iterator[Result]:
    """Results with their requests; notes each as it is read."""
    for number in range(count):
        read.append(number)
        yield Result(
            id=f"{number:032x}", key=None, status="cancelled", error=None, stop_reason=None, cost_usd=Decimal(0), route=None,
            model="claude-haiku-4-5", attempts=(), cached=False, latency_s=1.0, created_at=0.0, ended_at=1.0, tags={},
            request={"messages": [{"role": "user", "content": prompt}]},
        )  # fmt: skip


def pages(found: Iterator[Result]) -> Iterator[bytes]:
    while page := next_page(found, with_request=True):
        yield page


def test_a_page_of_large_requests_holds_about_a_megabyte() -> None:
    read: list[int] = []
    found = results(20, prompt="x" * (PAGE_BYTES // 2), read=read)
    first = next_page(found, with_request=True)
    assert PAGE_BYTES <= len(first) < 2 * PAGE_BYTES
    assert read == [0, 1]
    rest = list(pages(found))
    assert max(len(page) for page in rest) < 2 * PAGE_BYTES
    ids = [json.loads(line)["id"] for page in (first, *rest) for line in page.splitlines()]
    assert ids == [f"{number:032x}" for number in range(20)]


def test_a_page_of_small_results_is_bounded_by_their_number() -> None:
    sizes = [len(page.splitlines()) for page in pages(results(PAGE + 3, prompt="x", read=[]))]
    assert sizes == [PAGE, 3]
