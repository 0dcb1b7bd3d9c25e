"""One running Trivet per database serves the whole suite: real processes, the simulator for the providers."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.celery_command import Celery, celery_commands
from tests.command_line import Said, commands
from tests.databases import new_database

from trivet.celery.application import TrivetApp, application
from trivet.testing import RunningTrivet, running_trivet

HERE = Path(__file__).parent
DATABASES = ("sqlite", "postgres")
SYSTEMS = frozenset({"running", "system", "hedging", "own"})
"""Fixtures that start a system for each database, once in the suite or, where a module has its own, in the module."""


@pytest.fixture(scope="session", params=DATABASES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """A Trivet on each database, started once."""
    folder: Path = tmp_path_factory.mktemp("system")
    yield from _configured_elsewhere(running_trivet(folder, store_url=new_database(request, "system")))


def _configured_elsewhere(start: AbstractContextManager[RunningTrivet]) -> Iterator[RunningTrivet]:
    """A Trivet that was started where variables name a database that is not there, and must not be used."""
    with contextlib.ExitStack() as started:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRIVET_STORE__URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
            patch.setenv("TRIVET_CONFIG", "/nonexistent/trivet.toml")
            trivet = started.enter_context(start)
        yield trivet


@pytest.fixture
def system(running: RunningTrivet) -> Iterator[RunningTrivet]:
    """The running Trivet with every fault taken back, before and after the test."""
    running.reset()
    yield running
    running.reset()


@pytest.fixture
def trivet(
    system: RunningTrivet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process, as a person would type it."""
    with commands(system.settings.source, monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def app(system: RunningTrivet) -> Iterator[TrivetApp]:
    """The Celery application of the running Trivet."""
    made = application(system.settings)
    yield made
    made.close()


@pytest.fixture
def celery(app: TrivetApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Runs `celery -A trivet.celery …` in this process, as a person would type it."""
    with celery_commands(app, monkeypatch) as run:
        yield run


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one running system stay in one process of xdist, so that each system is started once."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        params = callspec.params if callspec and item.path.parent == HERE else {}
        for fixture in params.keys() & SYSTEMS:
            of_module = hasattr(getattr(item, "module", None), fixture)
            owner = item.path.stem.removeprefix("test_") if of_module else "system"
            item.add_marker(pytest.mark.xdist_group(f"{owner}-{params[fixture]}"))
