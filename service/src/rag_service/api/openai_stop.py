"""Stop sequences: texts at which an answer ends, without them."""

from __future__ import annotations

from typing import Any

from .openai_input import MARKER


class StopSequences:
    """Ends a text at the first of some sequences, also when it comes piece by piece.

    Args:
        stop: One, several, or None; empty ones stop nothing.
    """

    def __init__(self, stop: str | list[str] | None) -> None:
        given = [stop] if isinstance(stop, str) else stop or []
        self._stops = [one for one in given if one]
        self._held, self._over = "", False

    def cut(self, text: str) -> str:
        """Return a text up to the first stop sequence."""
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def feed(self, piece: str) -> str:
        """Return what may be sent now: what may begin a stop sequence is held back."""
        if self._over or not self._stops:
            return "" if self._over else piece
        text = self._held + piece
        kept = self.cut(text)
        self._over = len(kept) < len(text)
        held = 0 if self._over else self._beginning(kept)
        self._held = kept[len(kept) - held :]
        return kept[: len(kept) - held]

    def _beginning(self, text: str) -> int:
        """Return how many characters at the end of a text may begin a stop sequence."""
        longest = max(map(len, self._stops)) - 1
        return next(
            (
                size
                for size in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-size:]) for stop in self._stops)
            ),
            0,
        )

    def finish(self) -> str:
        """Return what is still held back, when the text is complete."""
        held, self._held = self._held, ""
        return held

    def applied(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer that ends at the first stop sequence, with the citations that are left."""
        text = self.cut(answer["answer"])
        if text == answer["answer"]:
            return answer
        left = set(MARKER.findall(text))
        citations = [one for one in answer["citations"] if str(one["marker"]) in left]
        return {**answer, "answer": text, "citations": citations}
