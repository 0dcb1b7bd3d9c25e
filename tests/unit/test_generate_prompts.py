"""The prompt of a `generate` task."""

from collections.abc import Sequence
from typing import Any

import pytest

from trivet.celery.prompt_template import with_prompt
from trivet_tasks.errors import InvalidRequest


@pytest.mark.parametrize(
    ("request_", "given", "prompt"),
    [
        ({"prompt": "Summarise: {0}"}, ["a {text}"], "Summarise: a {text}"),
        ({"prompt": "{1} before {0}"}, ["a", "b"], "b before a"),
        ({"prompt": "{0[title]}: {{kept}}"}, [{"title": "A"}], "A: {kept}"),
        ({"prompt": "as {it} is {0}"}, [], "as {it} is {0}"),
        ({}, ["the whole prompt"], "the whole prompt"),
    ],
)
def test_values_are_filled_in(request_: dict[str, Any], given: Sequence[Any], prompt: str) -> None:
    assert with_prompt({**request_, "model": "m"}, given) == {"prompt": prompt, "model": "m"}


@pytest.mark.parametrize(
    ("request_", "given", "field", "says"),
    [
        ({"prompt": "secret words"}, ["a"], "prompt", "does not use the 1 value"),
        ({"prompt": "secret {1}"}, ["a"], "prompt", "not among the 1 value"),
        ({"prompt": 'secret {"a": 1} {0}'}, ["a"], "prompt", "Write {{ and }}"),
        ({"prompt": "secret {0"}, ["a"], "prompt", "is no template"),
        ({"prompt": 7}, ["a"], "prompt", "must be a text, is int"),
        ({}, [{"secret": 1}], "prompt", "type dict cannot be the prompt"),
        ({}, ["secret", "secret"], "prompt", "2 values"),
        ({"messages": ["secret"]}, ["a"], "messages", "`messages` does not use"),
    ],
)
def test_what_does_not_fit_is_named_without_its_text(
    request_: dict[str, Any], given: Sequence[Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        with_prompt(request_, given)
    assert raised.value.field == field
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)


def test_messages_without_values_stay() -> None:
    request = {"messages": [{"role": "user", "content": "{0}"}]}
    assert with_prompt(request, []) == request
