"""Pages that something on the way answers instead of the API: each fails one call; only a probe judges the route by it."""

import pytest
from tests.faults.ledger import SONNET, Cost
from tests.faults.legs import Legs
from tests.timing import until

PAGE = "proxy_error"
POISON = "Describe a trivet; the word is POISON."
PAGES = ["proxy_page_401", "firewall_page_403", "proxy_page_404", "proxy_page_407", "proxy_page_413", "proxy_page_502"]


def opened(legs: Legs, route: str) -> list[str]:
    return [text for _, kind, text in legs.events(route) if "open" in kind]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_a_page_for_one_request_sends_it_to_the_next_route_and_closes_nothing(
    legs: Legs, first: str, page: str
) -> None:
    legs.fault(legs.first, page, contains="POISON")
    for _ in range(4):
        legs.expect(legs.run(POISON), (legs.first, PAGE, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))
    assert not opened(legs, legs.first)


def test_a_request_that_both_proxies_refuse_fails_with_both_reasons_and_closes_nothing(legs: Legs) -> None:
    legs.fault(legs.first, "firewall_page_403", contains="POISON")
    legs.fault(legs.second, "proxy_page_413", contains="POISON")
    poison = [legs.submit(POISON) for _ in range(2)]
    others = legs.load(20, lambda: all(job.state == "failed" for job in poison), limit_s=30)
    for job in poison:
        error = job.result(timeout=30).error
        assert error is not None
        assert error.outcome == PAGE
        assert f"{legs.first}: not the API: HTTP 403" in error.message
        assert f"{legs.second}: not the API: HTTP 413" in error.message
    for job in others:
        legs.expect(job.result(timeout=30), (legs.first, "succeeded", Cost.BILLED))
    assert not opened(legs, legs.first)
    assert not opened(legs, legs.second)


def test_without_other_work_probes_tell_whether_the_request_is_at_fault(legs: Legs) -> None:
    legs.fault_all("firewall_page_403", contains="POISON")
    result = legs.run(POISON)
    assert result.status == "failed"
    assert {row.purpose for row in legs.rows(legs.first)} == {"job", "probe"}
    assert not opened(legs, legs.first)
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))


def test_a_proxy_that_refuses_everything_fails_no_job(legs: Legs) -> None:
    legs.fault_all("proxy_page_403")
    jobs = [legs.submit() for _ in range(6)]
    until(lambda: all(opened(legs, route) for route in legs.routes), "both routes closed by their probes")
    jobs += [legs.submit() for _ in range(6)]
    for route in legs.routes:
        legs.simulator.clear(route)
    for job in jobs:
        assert job.result(timeout=60).status == "succeeded"


def test_a_key_revoked_behind_a_proxy_is_found(legs: Legs) -> None:
    legs.fault(legs.first, "proxy_page_401")
    for job in legs.load(10, lambda: bool(opened(legs, legs.first)), limit_s=30):
        assert job.result(timeout=30).route == legs.second
    assert "proxy_error" in opened(legs, legs.first)[0]
    before = len(legs.job_rows(legs.first))
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
    assert len(legs.job_rows(legs.first)) == before


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        ("anthropic", "model_denied"),
        ("bedrock", "model_denied"),
        ("vertex", "model_denied"),
        ("vertex", "data_sharing_off"),
        ("vertex", "publisher_model_not_allowed"),
        ("bedrock", "data_retention_mode"),
        ("bedrock", "unsupported_country"),
    ],
)
def test_what_names_a_model_closes_that_model_alone(legs: Legs, first: str, kind: str) -> None:
    legs.fault(legs.first, kind, model="*haiku*")
    legs.expect(legs.run(), (legs.first, "unusable", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(model=SONNET), (legs.first, "succeeded", Cost.BILLED))


@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_a_beta_that_a_wire_does_not_know_closes_nothing(legs: Legs, first: str) -> None:
    legs.fault(legs.first, "invalid_beta", contains="POISON")
    for _ in range(6):
        legs.expect(legs.run(POISON), (legs.first, "unusable", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))
    assert not opened(legs, legs.first)


@pytest.mark.parametrize("kind", ["server_error", "empty", "garbled", "proxy_page_500"])
def test_one_request_that_fails_everywhere_closes_no_route(legs: Legs, kind: str) -> None:
    legs.fault_all(kind, contains="POISON")
    result = legs.run(POISON, timeout=60)
    assert result.status == "failed"
    assert not opened(legs, legs.first)
    assert not opened(legs, legs.second)
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))
