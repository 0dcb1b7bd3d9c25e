"""The routes that `trivet worker` is told to serve."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.command_line import Said, commands

CONFIG = "".join(f'[routes.{name}]\nprovider = "anthropic"\n' for name in ("first", "second", "third"))


@pytest.fixture
def trivet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process, over three routes. Its logging and its title end with the test."""
    config = tmp_path / "trivet.toml"
    config.write_text(CONFIG, encoding="utf-8")
    monkeypatch.setattr("trivet.cli.services.set_title", lambda *_: None)
    root = logging.getLogger()
    level, filters = root.level, {handler: [*handler.filters] for handler in root.handlers}
    with commands(str(config), monkeypatch, capsys) as run:
        yield run
    root.setLevel(level)
    for handler, before in filters.items():
        handler.filters[:] = before


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The routes of every worker that was started, instead of the worker."""
    started: list[list[str]] = []

    def run_worker(*_: object, routes: list[str], **__: object) -> int:
        started.append(routes)
        return 0

    monkeypatch.setattr("trivet_worker.process.celery_worker.run_worker", run_worker)
    return started


@pytest.mark.parametrize(
    ("given", "serves"),
    [
        ((), ["first", "second", "third"]),
        (("--routes", "second"), ["second"]),
        (("--routes", "first", "--routes", "third"), ["first", "third"]),
        (("--routes", "third, first,third", "--routes", "second"), ["third", "first", "second"]),
    ],
)
def test_routes_by_comma_or_given_several_times(
    trivet: Callable[..., Said], served: list[list[str]], given: tuple[str, ...], serves: list[str]
) -> None:
    assert trivet("worker", "--lane", "bulk", *given).code == 0
    assert served == [serves]


@pytest.mark.parametrize("lane", [("--lane", "bulk"), ()])
def test_a_route_that_is_not_configured_is_named(
    trivet: Callable[..., Said], served: list[list[str]], lane: tuple[str, ...]
) -> None:
    said = trivet("worker", *lane, "--routes", "first", "--routes", "sekond")
    assert said.code == 2
    assert "trivet.toml: no route is called 'sekond'. Did you mean second?" in said.err
    assert "Did you mean second?" in said.err
    said = trivet("worker", *lane, "--routes", "nowhere-at-all")
    assert "Configured: first, second, third." in said.err.replace("\n", " ")
    assert served == []
