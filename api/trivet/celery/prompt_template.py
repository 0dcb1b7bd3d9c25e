"""The prompt of a `generate` task: a template over the values that the task before it handed on."""

import string
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from trivet_tasks.errors import InvalidRequest

_BRACES = "Write {{ and }} for braces that are text."


def with_prompt(request: Mapping[str, Any], given: Sequence[Any]) -> dict[str, Any]:
    """Return the request with its prompt filled in.

    Without values the prompt is taken as it is, braces and all. Without a prompt a single text is the prompt.

    Args:
        request: fields of `Client.submit`.
        given: positional arguments of the task.

    Raises:
        InvalidRequest: template and values do not fit each other. The text has neither.

    Example:
        with_prompt({"prompt": "Summarise: {0}"}, ["A long text"]) == {"prompt": "Summarise: A long text"}
    """
    filled = dict(request)
    if not given:
        return filled
    prompt = request.get("prompt")
    if prompt is not None:
        filled["prompt"] = _filled(prompt, given)
        return filled
    if request.get("messages") is not None:
        raise InvalidRequest(
            f"messages: the task before handed on {_count(given)}, which `messages` does not use.",
            field="messages",
            hint="Use `prompt=` with {0}, or an immutable signature: `generate.si(…)`.",
        )
    if len(given) > 1 or not isinstance(given[0], str):
        raise InvalidRequest(
            f"prompt: {_count(given)} of type {type(given[0]).__name__} cannot be the prompt; a single text can.",
            field="prompt",
            hint='Add a template, e.g. `prompt="Summarise: {0}"`.',
        )
    filled["prompt"] = given[0]
    return filled


def _filled(prompt: object, given: Sequence[Any]) -> str:
    if not isinstance(prompt, str):
        raise InvalidRequest(f"prompt: must be a text, is {type(prompt).__name__}.", field="prompt")
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
    except ValueError:
        raise InvalidRequest("prompt: is no template.", field="prompt", hint=_BRACES) from None
    if not fields:
        raise InvalidRequest(
            f"prompt: the template does not use the {_count(given)} that the task before handed on.",
            field="prompt",
            hint="Name it as {0}, or use an immutable signature: `generate.si(…)`.",
        )
    try:
        return prompt.format(*given)
    except (IndexError, KeyError, AttributeError, ValueError, TypeError):
        raise InvalidRequest(
            f"prompt: the template names a value that is not among the {_count(given)} of the task.",
            field="prompt",
            hint=f"The first is {{0}}. {_BRACES}",
        ) from None


def _count(given: Sequence[Any]) -> str:
    return "1 value" if len(given) == 1 else f"{len(given)} values"


def check_values(values: object, *, star: bool) -> None:
    """Make sure that `map`, `starmap` or `chunks` got a list: the characters of a text would be a paid call each.

    Raises:
        InvalidRequest: it is no list, or with `star` one of its values is none.
    """
    if not _is_list(values):
        raise InvalidRequest(
            f"values: must be a list, not {type(values).__name__}.",
            field="values",
            hint="The task before is to return a list; `generate.s` takes a single value.",
        )
    if star and not all(_is_list(value) for value in values):
        raise InvalidRequest(
            "values: `starmap` and `chunks` take a list of lists or tuples, one for each prompt.",
            field="values",
            hint="Use `map` for single values, or (value,).",
        )


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
