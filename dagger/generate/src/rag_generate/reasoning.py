"""Keep a model's reasoning out of its answer, however the text marks it.

Servers that separate reasoning send it in a field of its own, which is not read. Others leave it in the text,
between tags. A tag in backticks is one the answer speaks of, and stays.
"""

from __future__ import annotations

import re

_WORDS = (
    "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|(?:inner|internal)_monologue"
)
_NAME = rf"(?:\w{{1,12}}:)?(?:{_WORDS})"  # <think>, <seed:think>
# XML-like; Mistral; Kimi; Cohere; OpenThinker; MedGemma; the headers and ends of gpt-oss's channels
_TAG = re.compile(
    rf"(?<!`)(?:(?P<opening><{_NAME}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:START_THINKING|begin_of_thought)\|>"
    r"|<unused94>)"
    rf"|(?P<closing></{_NAME}\s*>|\[/THINK\]|◁/think▷|<\|(?:END_THINKING|end_of_thought)\|>|<unused95>)"
    r"|(?P<header><\|(?:start|channel)\|>)|(?P<message><\|message\|>)"
    r"|(?P<end><\|(?:end|return|(?:begin|end)_of_solution|(?:START|END)_RESPONSE)\|>))",
    re.IGNORECASE,
)
# the beginning of a tag, with the backtick that would make it none
_BEGUN = re.compile(r"`?(?:<[a-z/|][^<>]{0,80}|<|\[/?t?h?i?n?k?|◁[^▷]{0,8})\Z|`\Z", re.IGNORECASE)


class ReasoningFilter:
    """Takes the pieces of a model's text and gives those of its answer.

    Attributes:
        found: Whether the text held reasoning.
        unopened: How many times a tag ended reasoning that none began: all text before it was reasoning.

    Args:
        starts_inside: Whether the text begins with reasoning, because the server's template has
            opened it.
    """

    def __init__(self, *, starts_inside: bool = False) -> None:
        self.found = False
        self.unopened = 0
        self._state = "unknown" if starts_inside else "answer"  # answer, reasoning, header
        self._pending = ""
        self._set_aside = ""  # text that is reasoning if a tag ends it; or the name of a channel

    def feed(self, piece: str) -> str:
        """Take in the next piece; returns what is certain to be of the answer."""
        self._pending += piece
        answer = ""
        while tag := _TAG.search(self._pending):
            answer += self._text(self._pending[: tag.start()])
            self._pending = self._pending[tag.end() :]
            if self._enter(str(tag.lastgroup)):
                answer = ""
        begun = _BEGUN.search(self._pending)
        certain = begun.start() if begun else len(self._pending)
        answer += self._text(self._pending[:certain])
        self._pending = self._pending[certain:]
        return answer

    def finish(self, *, complete: bool) -> str:
        """Return the rest of the answer; reasoning that no tag ends is left out.

        Args:
            complete: Whether the model ended by itself. Then a text that was expected to begin
                with reasoning, and in which no tag ended any, was an answer.
        """
        rest = self._text(self._pending)
        self._pending = ""
        return self._set_aside if self._state == "unknown" and complete else rest

    def _text(self, text: str) -> str:
        if self._state == "answer":
            return text
        self._set_aside += text
        return ""

    def _enter(self, tag: str) -> bool:
        """Change the state at a tag; returns whether all text before it was reasoning."""
        before, name = self._state, self._set_aside.casefold()
        self._set_aside = ""
        if tag == "message":
            self._state = "answer" if before == "header" and "final" in name else "reasoning"
        else:
            self._state = {"opening": "reasoning", "header": "header"}.get(tag, "answer")
        self.found |= tag in ("opening", "closing") or self._state == "reasoning"
        unopened = tag == "closing" and before in ("answer", "unknown")
        self.unopened += unopened
        return unopened
