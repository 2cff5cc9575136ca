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
DATAMARK_LENGTH = 2  # it stands between all words, so there is no use in guessing it
_ALPHABET = "abcdefghijkmnopqrstuvwxyz23456789"  # nothing that looks like another
_BLANKS = re.compile(r"\s+")


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
