"""Mark untrusted text in a prompt, so that a model can tell data from instructions.

Source: Hines et al., "Defending Against Indirect Prompt Injection Attacks With Spotlighting",
arXiv 2403.14720: delimiting (section 3.1) and datamarking (3.2), the mark drawn anew for each
request so that a document's author cannot write it. It lowers the success of injected
instructions; it does not make a model obey.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Literal

Mode = Literal["delimit", "datamark", "none"]

DELIMITER_LENGTH = 16  # letters and digits: 82 bits
DATAMARK_LENGTH = 2  # it stands between all words, and knowing it helps nobody to leave it out
_ALPHABET = "abcdefghijkmnopqrstuvwxyz23456789"  # nothing that looks like another

_JOINERS = "\u200c\u200d"
_INVISIBLE = re.compile(
    # joiners shape Persian, Arabic and Indic words; elsewhere they only hide text
    rf"(?<![^\W\d_a-zA-Z])[{_JOINERS}]|[{_JOINERS}](?![^\W\d_a-zA-Z])"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # C0 and C1 controls, without tab and newline
    r"|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f]"
    r"|[\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]"
    r"|[\U000e0000-\U000e0fff]"  # tags and variation selectors: whole hidden sentences
)
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BLANKS = re.compile(r"\s+")


def clean(text: str) -> str:
    """Return `text` without characters nobody sees: controls, bidi, zero-width, tags.

    Line ends become newlines. Joiners stay between letters that are not ASCII.
    """
    if text.isascii() and text.isprintable():
        return text
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))


def draw_mark(texts: Iterable[str], *, mode: Mode, seed: int | None) -> str:
    """Draw a mark that occurs in none of `texts`; it grows by a letter each time it does.

    Args:
        texts: What will stand in the prompt, cleaned.
        mode: How it will be used; delimit gives 16 letters and digits, datamark 2 between carets,
            none an empty mark.
        seed: Makes the mark repeatable; None: from the operating system's randomness.
    """
    if mode == "none":
        return ""
    source = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311
    length, caret = (DELIMITER_LENGTH, "") if mode == "delimit" else (DATAMARK_LENGTH, "^")
    haystack = "\n".join(texts).lower()
    while True:
        mark = caret + "".join(source.choices(_ALPHABET, k=length)) + caret
        if mark not in haystack:
            return mark
        length += 1


def spotlight(text: str, mark: str, *, mode: Mode) -> str:
    """Return `text` as it stands in the prompt.

    delimit gives `<<mark>>`, the text and `<</mark>>` on lines of their own; datamark puts the
    mark for every run of blanks, and before the first word; none leaves it as it is.
    """
    if mode == "delimit":
        return f"<<{mark}>>\n{text}\n<</{mark}>>"
    if mode == "datamark":
        return mark + _BLANKS.sub(mark, text.strip())
    return text
