"""README and docs: every `trivet` command in them is one that the command line takes. Nothing is run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from trivet.cli.app import app

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash", "console", "shell", "text")
"""Languages of blocks that may have commands."""
START = re.compile(r"^ *(?:\$ )?(?:\w+=\S* )*(?=trivet [a-z-])")
INLINE = re.compile(r"`(trivet [^`]*)`")
JOINS = frozenset({"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1"})
MENTION = (
    "Missing argument",
    "Missing option",
    "requires an argument",
    "the file is missing",
    "Missing command",
    "Usage: ",
)
"""Errors that a command named in a sentence may have: it has none of what it needs, or only the name of an option."""

TITLES = frozenset({"trivet worker bedrock-us-east-1 bulk", "trivet simulator"})
"""Titles of processes, as `ps` shows them."""


def in_blocks(text: str) -> Iterator[str]:
    """Yield the commands of blocks of code, joined where a line goes on."""
    for _, language, code in BLOCK.findall(text):
        if language not in SHELL:
            continue
        for line in code.replace("\\\n", " ").splitlines():
            if begun := START.match(line):
                yield line[begun.end() :]


def in_sentences(text: str) -> Iterator[str]:
    """Yield the commands named in sentences, also where these go on in the next line."""
    yield from (" ".join(command.split()) for command in INLINE.findall(BLOCK.sub("", text)))


def arguments(command: str) -> list[str]:
    """Return the words after `trivet`, up to what else the shell is to do."""
    words = shlex.split(command, comments=True)
    end = next((at for at, word in enumerate(words) if word in JOINS), len(words))
    return words[1:end]


def inert(command: Any) -> Any:
    """Return a command that reads its options and arguments, like its sub-commands, and does nothing."""
    command.callback = lambda **_: None
    for below in getattr(command, "commands", {}).values():
        inert(below)
    return command


def error_of(words: list[str]) -> str:
    """Return what the command line says against these words; empty: nothing."""
    try:
        inert(typer.main.get_command(app)).main(words, prog_name="trivet", standalone_mode=False)
    except Exception as error:
        return str(getattr(error, "format_message", error.__repr__)())
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_commands_of_a_page_are_ones_that_the_command_line_takes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = {command: error for command in in_blocks(text) if (error := error_of(arguments(command)))}
    for command in set(in_sentences(text)) - TITLES:
        error = error_of(arguments(command))
        if error and not any(words in error for words in MENTION):
            wrong[command] = error
    assert wrong == {}


def test_commands_are_found_and_faults_too() -> None:
    text = """
Say `trivet batch
status NAME` or:

```sh
X=1 trivet plan a.jsonl \\
  --without-each    # why
trivet routes --json | jq .
# trivet nothing
```
"""
    assert [arguments(one) for one in in_blocks(text)] == [["plan", "a.jsonl", "--without-each"], ["routes", "--json"]]
    assert list(in_sentences(text)) == ["trivet batch status NAME"]
    assert error_of(["batch", "status", "NAME"]) == ""
    assert "No such command" in error_of(["batch", "stats", "NAME"])
    assert "No such option" in error_of(["routes", "--jsno"])
    assert "Missing argument" in error_of(["batch", "status"])
    assert error_of(["routes", "--interval", "soon"]) != ""
