"""The documents of the demo: real text, read at run time from the documentation of the Python packages on this machine.

Every distribution brings its description along in its metadata, mostly its README. They are cut at paragraphs into
pieces; where more documents are asked for than there are pieces, each is asked about again with another question. The
order is the same in every run on the same machine. (Looking for further files as well takes seconds: the list of files
of some packages is very long.)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from trivet_tasks.errors import ProcessFailed

MODEL = "claude-haiku-4-5"
MAX_TOKENS = 120
BATCH = "demo"
"""The name of the batch in which all documents are submitted."""

MIN_CHARS = 500
TARGET_CHARS = 900
"""A piece is closed with the paragraph that takes it here."""
MAX_CHARS = 4_000

QUESTIONS = (
    "Summarise this part of the documentation of {package} in two sentences.",
    "Whom does this part of the documentation of {package} address, and what does it want them to do?",
    "Name the three most important terms in this part of the documentation of {package}.",
    "Write a title of at most eight words for this part of the documentation of {package}.",
    "Which question does this part of the documentation of {package} leave open?",
    "Rewrite this part of the documentation of {package} for somebody new to Python, in three sentences.",
)
_PARAGRAPHS = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a package's documentation: `MIN_CHARS` to `MAX_CHARS` characters."""

    package: str
    text: str


def prompts(count: int) -> Iterator[str]:
    """Yield this many different prompts, made as they are asked for.

    Raises:
        ProcessFailed: there is no text at all.
    """
    made, again = 0, 0
    while made < count:
        before = made
        for piece in pieces():
            if made == count:
                return
            yield prompt(piece, again)
            made += 1
        if made == before:
            raise ProcessFailed(
                "The demo found no documents: no installed Python package has a description of some length."
            )
        again += 1


def prompt(piece: Piece, again: int) -> str:
    """Return the question on a piece, for the first time (0) and each further time: no two are the same."""
    question = QUESTIONS[again % len(QUESTIONS)].format(package=piece.package)
    if again >= len(QUESTIONS):
        question += f" Answer differently than in the {again // len(QUESTIONS)} rounds before."
    return f"{question}\n\n{piece.text}"


def pieces() -> Iterator[Piece]:
    """All pieces of all packages, by the package's name; a text that two packages share comes once."""
    found = {(dist.name or "").lower(): dist for dist in metadata.distributions()}
    seen: set[int] = set()
    for name in sorted(found):
        for piece in cut(found[name].name, _description(found[name])):
            if hash(piece.text) not in seen:
                seen.add(hash(piece.text))
                yield piece


def cut(package: str, page: str) -> Iterator[Piece]:
    """Cut a page at its paragraphs. A rest that is too short for a piece is left out."""
    held = ""
    for paragraph in _PARAGRAPHS.split(page.replace("\r\n", "\n").replace("\0", "")):
        text = paragraph.strip("\n").rstrip()
        while text:
            room = MAX_CHARS - len(held) - 2
            held, text = (f"{held}\n\n{text[:room]}" if held else text[:room]), text[room:]
            if len(held) >= TARGET_CHARS:
                yield Piece(package, held.strip())
                held = ""
    if len(held.strip()) >= MIN_CHARS:
        yield Piece(package, held.strip())


def _description(dist: metadata.Distribution) -> str:
    described = dist.metadata  # parsed anew each time it is asked for
    # the metadata of old has it as a header, newer as the body
    return described["Description"] or str(described.get_payload() or "")  # type: ignore[attr-defined]
