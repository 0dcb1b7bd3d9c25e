"""The OpenAPI document: it describes what is served, and nothing else."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from trivet.gateway.app import served_routes
from trivet.gateway.openapi import document, paths_of
from trivet.gateway.resources import operations


@pytest.fixture(scope="module")
def served() -> set[tuple[str, str]]:
    """Methods and paths of the application."""
    routes = [route for route in served_routes() if isinstance(route, Route)]
    return {
        (method, path) for one in routes for path in paths_of([one]) for method in (one.methods or set()) - {"HEAD"}
    }


@pytest.fixture(scope="module")
def described(served: set[tuple[str, str]]) -> dict[str, Any]:
    """The document of all of them."""
    return document({path for _, path in served})


def test_every_address_is_described_and_the_reverse(served: set[tuple[str, str]], described: dict[str, Any]) -> None:
    assert {(method.upper(), path) for path, methods in described["paths"].items() for method in methods} == served


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    for reference in _references(described):
        *_, name = reference.split("/")
        assert name in described["components"]["schemas"]


def test_every_operation_says_what_it_is_for_and_what_goes_wrong(described: dict[str, Any]) -> None:
    names = set()
    for methods in described["paths"].values():
        for operation in methods.values():
            names.add(operation["operationId"])
            assert operation["summary"]
            if operation.get("security") != []:
                assert {"401", "429"} <= operation["responses"].keys()
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] == "path" or parameter.get("description") or parameter["schema"]
    assert len(names) == sum(map(len, described["paths"].values()))


def test_path_parameters_are_those_of_the_path() -> None:
    for operation in operations():
        assert set(operation.address.model_fields) == set(re.findall(r"{(\w+)}", operation.path))


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for one in value.values():
            yield from _references(one)
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)
