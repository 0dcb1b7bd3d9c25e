"""README and docs: links lead somewhere, and the pages made from the code are up to date."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.generate_reference import FOLDER, pages
from pydantic import BaseModel

from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.config.route_prices import RoutePrice, TokenUsd
from trivet_tasks.config.route_settings import OPERATIONAL, OWN, PLACE, LimitGroup, RouteCosts, RouteSettings
from trivet_tasks.config.route_windows import RouteWindow
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import ClassSettings

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
CODE = (
    "api",
    "tasks",
    "store",
    "routing",
    "scheduler",
    "worker",
    "simulator",
    "tests",
    "benchmarks",
    "examples",
    "docs",
)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


def broken_links(page: Path) -> Iterator[str]:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield f"{target}#{anchor}" if anchor else target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `word`, twice\n[a](page.md#a-word-twice) [b](#b) [c](none.md) [d](https://example.com/none)")
    assert list(broken_links(page)) == ["#b", "none.md"]


def test_pages_that_the_code_names_exist() -> None:
    files = (file for folder in CODE for file in (REPOSITORY / folder).glob("**/*") if file.suffix in (".py", ".toml"))
    texts = (file.read_text(encoding="utf-8") for file in files)
    named = {name for text in texts for name in re.findall(r"(?<![/\w.])docs/[\w/.-]+\.md", text)}
    assert named
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()


def test_files_that_the_pages_name_exist() -> None:
    files = {f"/{file.relative_to(REPOSITORY)}" for folder in CODE for file in (REPOSITORY / folder).glob("**/*.*")}
    lessons = REPOSITORY / "docs" / "tutorial"  # their readers write the files
    named = {
        (page.name, name)
        for page in PAGES
        if page.parent != lessons
        for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|lua|csv))`", page.read_text(encoding="utf-8"))
    }
    assert named
    assert {(page, name) for page, name in named if not any(file.endswith(f"/{name}") for file in files)} == set()


def test_options_that_the_pages_give_to_commands_exist() -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", pages()["commands.md"]))
    used = {
        (page.name, option)
        for page in PAGES
        for command in re.findall(
            r"^ *trivet [^#`\n]*|`trivet [^`]*`", page.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        for option in re.findall(r"--[a-z][a-z-]+", command)
    }
    assert used
    assert {(page, option) for page, option in used if option not in known} == set()


def test_the_guide_to_a_change_names_the_group_of_each_setting_of_a_route() -> None:
    page = (REPOSITORY / "docs" / "how-to" / "roll-out-a-change.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (figures|place|own) \| ([^|]*) \|", page, flags=re.MULTILINE))
    named = {group: set(re.findall(r"`(\w+)`", settings)) for group, settings in rows.items()}
    assert named == {"figures": OPERATIONAL, "place": PLACE, "own": OWN}


@pytest.mark.parametrize("name", pages())
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make reference`"


def test_every_setting_is_in_the_reference_with_its_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", pages()["settings.md"], flags=re.MULTILINE)
    assert {name for name, meaning in rows if not meaning.strip()} == set()
    models: list[type[BaseModel]] = [
        RouteSettings, LimitGroup, RouteCosts, RoutePrice, TokenUsd, RouteWindow, BudgetSettings, ClassSettings
    ]  # fmt: skip
    sections = [field.annotation for field in Settings.model_fields.values()]
    models += [kind for kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)]
    assert len(models) > 12
    assert {field.alias or name for model in models for name, field in model.model_fields.items()} <= {
        name for name, _ in rows
    }
