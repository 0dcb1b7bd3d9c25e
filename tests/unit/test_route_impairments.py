"""Reasons for which a worker takes no work of a route."""

import logging

import pytest

from trivet_worker.run.process_state import RouteImpairments


@pytest.fixture
def impairments() -> RouteImpairments:
    return RouteImpairments(logging.getLogger("trivet.test"))


def test_a_route_is_impaired_until_every_cause_is_over(impairments: RouteImpairments) -> None:
    impairments.begin("bedrock", "credentials", "No key here.")
    impairments.begin("bedrock", "definition", "Another region.")
    assert impairments.of("bedrock") == "No key here. Another region."
    assert impairments.of("vertex") is None
    impairments.end("bedrock", "credentials")
    assert impairments.current() == {"bedrock": "Another region."}
    impairments.end("bedrock", "definition")
    assert impairments.of("bedrock") is None
    assert impairments.current() == {}


def test_it_is_logged_when_it_begins_and_when_it_ends(
    impairments: RouteImpairments, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        impairments.begin("bedrock", "credentials", "No key here.")
    for _ in range(3):
        impairments.end("bedrock", "credentials")
    impairments.end("vertex", "credentials")
    assert [record.getMessage() for record in caplog.records] == [
        "no work of bedrock is taken here: No key here.",
        "the impairment of bedrock (credentials) is over",
    ]
