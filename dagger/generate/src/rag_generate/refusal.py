"""Detect that a model declines to answer."""

from __future__ import annotations

import re

from .citations import Verified
from .terms import words

REFUSAL_WORDS = 60  # a longer text is an answer, whatever it opens with
# What models write instead of the configured sentence (lower-case, straight apostrophes):
# "I cannot find ...", "the passages do not say ...", "not enough information", "is not mentioned in
# the documents".
_SOURCE = r"(?:passages?|documents?|contexts?|texts?|sources?|information)"
_REFUSAL = re.compile(
    r"\b(?:i|we)\b(?:'m| am)?(?: \w+){0,2} ?(?:cannot|can't|can not|could not|couldn't|unable to"
    r"|not able to|do not|don't) (?:\w+ ){0,2}?(?:find|answer|have|know|see|provide)\b"
    rf"|\b{_SOURCE}\b[^.]{{0,40}}?\b(?:do(?:es)? not|don't|doesn't) (?:\w+ )?"
    r"(?:contain|hold|provide|include|mention|say|answer|specify|state)\b"
    rf"|\b(?:no|not enough|insufficient) (?:relevant |such )?(?:answer\b[^.]*|){_SOURCE}\b"
    rf"|\bn(?:o|')t (?:\w+ )?(?:mentioned|stated|specified|provided|given|found) in [^.]*{_SOURCE}\b"
)


def is_refusal(verified: Verified, no_context_text: str) -> bool:
    """Whether a model declines to answer: with the configured sentence, or one like it."""
    if verified.citations:
        return False
    answer, refusal = words(verified.text), words(no_context_text)
    if refusal and answer[: len(refusal)] == refusal:
        return True
    text = verified.text.lower().replace("’", "'")
    return len(answer) <= REFUSAL_WORDS and bool(_REFUSAL.search(text))
