"""Write the reference pages that are made from the code: `settings.md`, `commands.md` and `http.md` in `docs/reference/`.

python docs/generate_reference.py
"""

import ast
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from trivet.cli.app import app
from trivet.gateway.openapi import ALWAYS, DESCRIBED, document
from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.config.celery_apps import CeleryAppSettings
from trivet_tasks.config.route_prices import RoutePrice, TokenUsd
from trivet_tasks.config.route_settings import LimitGroup, RouteCosts, RouteSettings
from trivet_tasks.config.route_windows import RouteWindow
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import DEFAULTS, ClassSettings

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- made by docs/generate_reference.py (`make reference`): change the code, not this page -->\n"
SETTINGS_INTRO = """
# Settings

`trivet.toml` in the working directory or the nearest folder above it, or the file that `TRIVET_CONFIG` or
`trivet --config FILE` names, holds one table for each heading below. Relative paths count from that file.
[Finding the configuration](configuration.md) has the order of the search.

- A variable beats the file: `TRIVET_STORE__URL` is `url` of `[store]`, with two underscores between table and key.
- An unknown key or a bad value is an error that names the file and the key.
- `trivet config check` reads the file and reports its faults. `trivet config show` prints every setting in force.
- A route's settings may change while it runs: [Roll out a change](../how-to/roll-out-a-change.md).
"""
COMMANDS_INTRO = """
# Commands

Every command that reports has `--json`. Options that are on or off need no value.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | some jobs failed |
| 2 | wrong usage, or a fault of the configuration |
| 3 | something that is wrong holds work up ([reasons](impairments.md)) |
| 130 | Ctrl-C |
"""
TABLES: Sequence[tuple[str, type[BaseModel]]] = (
    ("[routes.NAME]", RouteSettings),
    ("[[routes.NAME.limits]]", LimitGroup),
    ("[routes.NAME.costs]", RouteCosts),
    ("[[routes.NAME.prices]]", RoutePrice),
    ("[[routes.NAME.prices]] usd", TokenUsd),
    ("[[routes.NAME.windows]]", RouteWindow),
    ("[[budgets]]", BudgetSettings),
    ("[celery_apps.NAME]", CeleryAppSettings),
    ("[[schedules]]", ScheduleSettings),
)
HTTP_INTRO = """
# HTTP

`trivet serve` answers these addresses. An OpenAPI 3.1 document describes them in full, with the shape of answers:
`GET /openapi.json`, which needs no key.

- A key goes into `x-api-key`, or into `Authorization: Bearer`. A key of a tenant sees and changes the work of that
  tenant alone, and a batch only if all its requests are of that tenant. A key without a tenant does so with work
  without one; an admin key with all. What a key may not see is answered with 404, as if there were nothing.
- Answers are the JSON of the commands' `--json`. Amounts are strings, exact.
- An unknown query parameter or field is a 400 that names it.
- Errors have the shape of the Anthropic API:
  `{"type": "error", "error": {"type": …, "message": …}, "request_id": …}`. Every address that needs a key may
  answer with 400, 401, 403, 429, 500 or 503; further ones are named below.
- While the budget of its key is used up, a single job is answered with 429, and a batch is taken in and waits.
"""
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "max_length": "at most {}", "min_length": "at least {}"}
HTTP_BOUNDS = {"minimum": "from {}", "maximum": "to {}", "maxLength": "at most {}"}
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {"settings.md": settings_page(), "commands.md": commands_page(), "http.md": http_page()}


def settings_page() -> str:
    """Return a page with a table for each table of `trivet.toml`."""
    sections = [(f"[{name}]", field.annotation) for name, field in Settings.model_fields.items()]
    models = [(title, kind) for title, kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return "\n".join(
        [MADE + SETTINGS_INTRO, *(_table(title, model) for title, model in (*models, *TABLES)), _classes()]
    )


def _table(title: str, model: type[BaseModel]) -> str:
    meanings = _docstrings(model)
    rows = [
        (f"`{field.alias or name}`", _type_name(field), _default(field), meanings.get(name, ""))
        for name, field in model.model_fields.items()
    ]
    return f"## `{title}`\n\n{inspect.getdoc(model)}\n\n{_markdown(('key', 'type', 'default', 'meaning'), rows)}"


def _classes() -> str:
    meanings = _docstrings(ClassSettings)
    rows = [
        (f"`{name}`", *(_value(getattr(values, name)) for values in DEFAULTS.values()), meanings.get(name, ""))
        for name in ClassSettings.model_fields
    ]
    header = ("key", *(f"`{latency}`" for latency in DEFAULTS), "meaning")
    intro = f"{inspect.getdoc(ClassSettings)} The columns are the defaults of each class."
    return f"## `[classes.NAME]`\n\n{intro}\n\n{_markdown(header, rows)}"


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model, in one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _type_name(field: FieldInfo) -> str:
    limits = [
        text.format(f"{getattr(bound, key):,}" if isinstance(getattr(bound, key), int) else getattr(bound, key))
        for bound in field.metadata
        for key, text in BOUNDS.items()
        if getattr(bound, key, None) is not None
    ]
    return " ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    """Return the name of a type as a reader of TOML knows it."""
    inner = [one for one in get_args(annotation) if one not in (type(None), Ellipsis)]
    match get_origin(annotation):
        case typing.Annotated:
            return _kind(inner[0])
        case typing.Union | types.UnionType:
            return _kind(inner[0])
        case typing.Literal:
            return ", ".join(f"`{value}`" for value in get_args(annotation))
        case origin if isinstance(origin, type) and issubclass(origin, Mapping):
            return f"table of {_kind(inner[1])} by {_kind(inner[0])}"
        case origin if origin is tuple:
            return f"list of {_kind(inner[0])}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{value}`" for value in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table, below"
    return NAMES.get(annotation, "reference to a secret" if "Secret" in str(annotation) else "decimal number")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is PydanticUndefined or isinstance(default, BaseModel) else _value(default)


def _value(value: object) -> str:
    match value:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{int(value):_}`" if value >= 10_000 else f"`{value:g}`"
        case tuple():
            return f"`{json.dumps(value)}`"
    return f"`{value}`" if value else ""


def commands_page() -> str:
    """Return a page with each command's help and options."""
    return "\n".join([MADE + COMMANDS_INTRO, *_commands(get_command(app), "trivet")])


def _commands(command: Any, path: str) -> Iterator[str]:
    yield f"{'##' if path.count(' ') < 2 else '###'} `{path}`\n\n{command.help}\n"
    rows = [
        (" ".join(f"`{name}`" for name in _names(option)), _value(_shown(option)), option.help or "")
        for option in command.params
        if not option.hidden
    ]
    if rows:
        yield _markdown(("option", "default", "meaning"), rows)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")


def _names(option: Any) -> list[str]:
    if option.param_type_name == "argument":
        return [option.name.upper()]
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return [f"{name}{value}" for name in (*option.opts, *option.secondary_opts)]


def _shown(option: Any) -> object:
    """Return the default that a reader needs: not that of a flag, nor one that depends on the machine."""
    plain = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
    return option.default if plain else None


def http_page() -> str:
    """Return a page with each operation of the HTTP interface, from its OpenAPI document."""
    described = document(DESCRIBED)
    parts = [MADE + HTTP_INTRO]
    for tag in described["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        for path, methods in described["paths"].items():
            for method, operation in methods.items():
                if operation["tags"] == [tag["name"]]:
                    parts += _http_operation(f"{method.upper()} {path}", operation)
    return "\n".join(parts)


def _http_operation(title: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{title}`\n\n{operation['summary']}.\n"
    if description := operation.get("description"):
        yield description + "\n"
    given = [
        (f"`{one['name']}`", one["in"], _http_type(one["schema"]), one.get("description", ""))
        for one in operation.get("parameters", ())
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        given.append(("body", media_type, _http_type(content["schema"]), ""))
    if given:
        yield _markdown(("parameter", "in", "type", "meaning"), given)
    answers: list[tuple[str, str, str]] = []
    for status, answer in operation["responses"].items():
        if int(status) not in ALWAYS:
            kinds = [_http_type(content["schema"]) for content in answer.get("content", {}).values()]
            answers.append((status, " or ".join(kinds), answer["description"]))
    yield _markdown(("status", "body", "meaning"), answers)


def _http_type(schema: Mapping[str, Any]) -> str:
    """Return the name of a type of the document, as a reader knows it."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if schema.get("type") == "array":
        return f"list of {_http_type(schema['items'])}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"string": "text", "boolean": "true or false", "object": "object"}.get(schema.get("type", ""), "")
    bounds = [words.format(schema[key]) for key, words in HTTP_BOUNDS.items() if key in schema]
    return " ".join([kind or schema.get("type", ""), *bounds]).strip()


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
