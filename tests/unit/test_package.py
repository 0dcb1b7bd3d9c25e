"""Metadata of an installed Trivet."""

from functools import cached_property
from importlib.metadata import metadata

from tests.command_line import run_trivet

import trivet
from trivet import admin
from trivet_tasks.config.settings import Settings


def test_version_is_that_of_the_distribution() -> None:
    assert run_trivet("--version") == (0, f"trivet {trivet.__version__}\n", "")
    assert metadata("trivet")["Version"] == trivet.__version__
    assert metadata("trivet")["License-Expression"] == "Apache-2.0"


def test_each_public_name_can_be_imported() -> None:
    assert {name for name in trivet.__all__ if not hasattr(trivet, name)} == set()
    assert trivet.__all__ == sorted(trivet.__all__)


def test_each_public_name_of_the_operations_api_can_be_imported() -> None:
    assert {name for name in admin.__all__ if not hasattr(admin, name)} == set()
    assert set(admin.__all__) <= set(dir(admin))


def test_groups_of_the_operations_api_open_nothing_until_they_are_used() -> None:
    settings = Settings.model_validate({"store": {"url": "postgresql+psycopg://nobody@127.0.0.1:1/none"}})
    groups = [name for name, member in vars(admin.Admin).items() if isinstance(member, cached_property)]
    assert {"routes", "health", "events", "configuration", "jobs", "batches", "costs"} <= set(groups)
    with admin.Admin(settings=settings) as ours:
        assert all(getattr(ours, name).__doc__ for name in groups)
