"""Text of others, made fit for a column, a log, a terminal and a page.

`clean` is for a provider's words about a call (errors, ids, stop reasons): used once, where they come in.
`for_terminal` is for a model's text, which is stored as it came.
"""

import re
from typing import overload

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, moving about, clearing
    # OSC, DCS and their like, with their text: titles, links, the clipboard
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]{0,1000}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]?"
)
"""Escape sequences of terminals, in their 7-bit and 8-bit forms. One that does not end loses its introducer alone."""
_BREAKS = re.compile(r"[\t-\r\x1c-\x1e\x85\u2028\u2029]+")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_OTHER_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed."""
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Marks that change the order in which text is shown, and the byte-order mark."""
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Controls and bidi marks that JSON leaves as they are."""
_UNSEEN = re.compile("[\u00ad\u180e\u200b-\u200d\u2060-\u2064\u206a-\u206f\ufff9-\ufffb\U000e0000-\U000e007f]")
"""Characters of no width. Scripts and emoji need some of them; a provider's words do not."""


@overload
def clean(words: str, longest: int) -> str: ...
@overload
def clean(words: str | None, longest: int) -> str | None: ...
def clean(words: str | None, longest: int) -> str | None:
    """Return a provider's words on one line, of printable characters alone, at most `longest` of them.

    Escape sequences, control characters, bidi marks and characters of no width are removed; line breaks and tabs become
    a space. Halves of surrogate pairs are joined or become U+FFFD.

    >>> clean("bad\\x1b[31m news\\n", 100)
    'bad news'
    """
    if words is None:
        return None
    words = words[: 4 * longest]
    if words.isascii() and words.isprintable():
        return words[:longest]
    words = _BREAKS.sub(" ", _SEQUENCES.sub("", words))
    for unwanted in (_CONTROLS, _BIDI, _UNSEEN):
        words = unwanted.sub("", words)
    return paired(words.strip())[:longest]


def for_terminal(text: str) -> str:
    """Return a model's text as a terminal may show it: without escape sequences, control characters and bidi marks.

    Line breaks, tabs and joiners stay.
    """
    text = _SEQUENCES.sub("", text.replace("\r\n", "\n"))
    return paired(_BIDI.sub("", _OTHER_CONTROLS.sub("", text)))


def escaped(document: str) -> str:
    """Return a JSON document that says the same and that a terminal may show: what would steer it as `\\uXXXX`."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def paired(text: str) -> str:
    """Join the halves of surrogate pairs; a half that is alone becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
