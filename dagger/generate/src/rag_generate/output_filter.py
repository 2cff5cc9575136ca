"""What may not leave in an answer that a model wrote; the last word is code's, not the model's.

A model that reads untrusted passages can be talked into anything, so nothing here asks it. The
rules, by the name a warning gives:

- `canary`: the mark of the prompt, or a text the operator planted;
- `secret`: the model's own key, or anything shaped like a well-known credential;
- `system_prompt`: a run of words of the prompt's rules;
- `image`: an image, which a reader's program would fetch automatically;
- `active_html`: markup that runs, links or fetches;
- `foreign_url`: an address that stands in no passage and not in the question, or one that is a
  script. The beginning of an address that stands there is fine: it carries nothing.

What it cannot see: words that mean something to somebody else. Passages, quotes and `extractive`
answers are the documents' own words and are not filtered.
"""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from rag_kit.request import clean

from .models import GenerateRequest

RUN = 12  # words; as many of the rules in a row are no coincidence
WINDOW = 512  # characters already sent that are looked at again with a piece; in the end all are
SQUASHED = 8  # letters and digits; a shorter canary is looked for as it is written, a key is none

# what follows a scheme, schemes that need no slashes, `//host`, `www.`; a bare host asked something
_ADDRESS = re.compile(
    r"(?<=[\w+.\-]):[/\\]{2}\S*"
    r"|\b(?:https?|wss?|ftps?|mailto):\S+|\bfile:[/\\]\S*"
    r"|(?<![\w:/\\])[/\\]{2}[\w\-]+(?:\.[\w\-]+)+\S*"
    r"|\bwww\d{0,3}\.\S+",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?<![\w./\-])[\w\-]+(?:\.[\w\-]+)+(?::\d+)?(?:/[^\s?]*)?\?[^\s=]*=\S*")
_SCRIPT = re.compile(r"\b(?:javascript|vbscript):\S|\bdata:[\w.+\-]*[/;]\S", re.IGNORECASE)
_ENDS = "?!.,:;*_~'\"()[]{}<>`|/\\-»«”“’‘"  # what a sentence may put behind an address
_CITED = re.compile(r"\[\d{1,3}\Z")
_NAMED = re.compile(r"\w[^:]*\Z")  # not only a scheme
# where a link leads: inline, or defined in a line of its own
_LINK = re.compile(r"(?:\]\(|^[ >]{0,8}\[[^\]\n]+\]:)\s*<?\s*([^\s<>)]+)", re.MULTILINE)
_AWAY = re.compile(r"[/\\]{2}|\\|^[^\W\d_][\w+.\-]*:(?!:)")
_DEFINITION = re.compile(r"^[ >]{0,8}\[[^\]\n]+\]:[ \t]*\S", re.MULTILINE)
_CITED_LOUDLY = re.compile(r"!(?:\[[\d,;& \-–]+\])+(?!\()")  # "Stop![1]" is no image
_IMAGE_BEGIN = re.compile(r"!(?=\[)(?!(?:\[[\d,;& \-–]+\])+(?!\())")
_TAG_BEGIN = re.compile(r"<[a-zA-Z][^<>]*\Z")
_IMAGE = re.compile(
    r"<(?=(?:img|image|picture|source|video|audio|track|embed|object|i?frame)[\s/])", re.IGNORECASE
)
_ACTIVE = re.compile(
    r"<(?:script|style)(?=[\s/>])|<(?:svg|math|base|meta|form|link)[\s/][^<>]*="
    r"|<[a-z][^<>]*[\s/\"'](?:href|src|srcset|action|formaction|background|poster|ping|style|on[a-z]+)"
    r"\s*=",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:sk|pk|rk)[-_](?:[A-Za-z0-9]+[-_])*[A-Za-z0-9]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w\-]{16,}"
    r"|\bxox[abeoprs]-[\w\-]{10,}|\bAIza[\w\-]{30,}|\bhf_[A-Za-z0-9]{20,}"
    r"|\beyJ[\w\-]{8,}\.eyJ[\w\-]{8,}\.[\w\-]*"
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_WORD = re.compile(r"\w+")
_LOOKALIKES = str.maketrans("∕⁄⧸╱꞉∶", "////::")
# from here on a run without blanks may become a link, an image or a tag
_ARMED = re.compile(r"[\w+.\-]*:|[/\\]{2}|www|!\[|\]\(|<|&|\\|\?|@", re.IGNORECASE)
_ASCII_END = re.compile(r"[!-~]+\Z")
_KEY_BEGIN = re.compile(r"-{1,5}(?:BEGIN[A-Z ]*)?\Z")
_LATE = ("\r", "\u200c", "\u200d")  # what they are depends on what follows


class OutputFilter:
    """Checks one answer while it is written.

    Attributes:
        hit: Name of the rule the answer breaks, or None.

    Args:
        request: Its passages and question say which addresses may be repeated; its prompt and
            canaries what may not.
        secrets: Keys that may not leave, also not in a simple encoding; of 8 characters at least.
        canaries: Texts that may not leave.
        allowed: More text whose words may be repeated.
    """

    def __init__(
        self,
        request: GenerateRequest,
        *,
        secrets: Iterable[str] = (),
        canaries: Iterable[str] = (),
        allowed: str = "",
    ) -> None:
        self.hit: str | None = None
        self._raw, self._text, self._sent = "", "", 0
        known = [request.query, allowed]
        for context in request.contexts:
            known += [context.text, context.title, context.source]
        self._known = "\n".join(view for text in known for view in _views(text))
        hidden = [*request.canaries, *canaries]
        self._needles = [("canary", *_needle(one)) for one in hidden if one.strip()]
        for secret in secrets:
            self._needles += [("secret", one, True) for one in _spellings(secret)]
        flat = [needle for _, needle, flat in self._needles if flat]
        self._begins = {needle[:end] for needle in flat for end in range(1, len(needle))}
        self._longest = max(map(len, flat), default=0)
        rules = _words(
            "\n".join(message.content for message in request.prompt if message.role == "system")
        )
        self._rules = f" {' '.join(rules)} "
        runs = set(_runs(rules))
        self._runs = runs - set(_runs(_words(self._known))) if runs else runs

    def feed(self, piece: str) -> str:
        """Take in the next piece of the answer; returns what may be sent now, "" after a hit."""
        before, self._raw = self._raw, self._raw + piece
        if self.hit:
            return ""
        if clean(piece) is piece and piece.isascii() and not before.endswith(_LATE):
            self._text += piece
        else:
            self._text = clean(self._raw[:-1] if self._raw.endswith(_LATE) else self._raw)
        held = self._held()
        if held <= self._sent:
            return ""
        self.hit = self.find(self._text[self._window() :])
        if self.hit is None and "![" in self._text and _has_image(self._text):
            self.hit = "image"
        return "" if self.hit else self._advance(held)

    def finish(self) -> str:
        """Check the complete answer; returns the text still held back, "" after a hit."""
        self._text = clean(self._raw)
        self.hit = self.hit or self.find(self._text)
        return "" if self.hit else self._advance(len(self._text))

    def _advance(self, end: int) -> str:
        piece, self._sent = self._text[self._sent : end], max(end, self._sent)
        return piece

    def _window(self) -> int:
        """Return where to look from: far enough back, and not in the middle of a word."""
        start = max(0, self._sent - WINDOW)
        blank = self._text.rfind(" ", max(0, start - WINDOW), start)
        return blank if blank >= 0 else start

    # -- the rules ------------------------------------------------------------------------

    def find(self, text: str) -> str | None:
        """Return the name of the first rule that a text breaks, or None."""
        squashed, folded = _squash(text), text.casefold()
        for rule, needle, flat in self._needles:
            if needle in (squashed if flat else folded):
                return rule
        if self._runs and not self._runs.isdisjoint(_runs(_words(text))):
            return "system_prompt"
        for view in _views(text):
            if _CREDENTIAL.search(view):
                return "secret"
            if _has_image(view):
                return "image"
            if _ACTIVE.search(view):
                return "active_html"
            if _SCRIPT.search(view) or not all(map(self._is_known, _addresses(view))):
                return "foreign_url"
        return None

    def _is_known(self, address: str) -> bool:
        while (shorter := _CITED.sub("", address.rstrip(_ENDS))) != address:
            address = shorter
        return not _NAMED.search(address) or address in self._known

    # -- text held back -------------------------------------------------------------------

    def _held(self) -> int:
        """Return where the text begins that may still turn into something forbidden."""
        text = self._text
        blank = max(text.rfind(" "), text.rfind("\n"), text.rfind("\t")) + 1
        begin = max(blank, self._sent)
        patterns = (_ASCII_END, _ARMED)  # an armed run is held whole, any other one its ASCII end
        places = [found.start() for one in patterns if (found := one.search(text, begin))]
        if found := _KEY_BEGIN.search(text, max(self._sent, len(text) - 64)):
            places.append(found.start())
        if found := _IMAGE_BEGIN.search(text, self._sent):
            places.append(found.start())  # its address may come last, so all that follows waits
        if found := _TAG_BEGIN.search(text, max(self._sent, len(text) - WINDOW)):
            places.append(found.start())
        return min([*places, self._held_needle(), self._held_rules(blank)])

    def _held_needle(self) -> int:
        """The longest end that begins a canary or a key, ignoring characters between its letters."""
        tail, places = "", list[int]()
        for at in range(len(self._text) - 1, self._sent - 1, -1):
            if len(tail) >= self._longest:
                break
            kept = _squash(self._text[at])
            tail, places = kept + tail, [at] * len(kept) + places
        for at in range(len(tail)):
            if tail[at:] in self._begins:
                return places[at]
        return len(self._text)

    def _held_rules(self, blank: int) -> int:
        """The last words, as long as they are a run of the rules."""
        if not self._runs:
            return len(self._text)
        found = list(_WORD.finditer(self._text, max(self._sent, blank - 32 * RUN)))[-RUN:]
        said = [" ".join(_words(word[0])) for word in found]
        for at, first in enumerate(found):
            if f" {' '.join(said[at:])}" in self._rules:
                return first.start()
        return len(self._text)


def without_images(text: str) -> str:
    """Return `text` so that no program shows anything in it as an image."""
    return _IMAGE.sub("", text).replace("![", "[")


def _views(text: str) -> Iterator[str]:
    """Yield what a text reads as: cleaned, then also with entities and escapes resolved."""
    plain = unicodedata.normalize("NFKC", clean(text)).translate(_LOOKALIKES)
    yield plain
    if "&" in plain or "\\" in plain:
        resolved = _ESCAPED.sub(r"\1", html.unescape(plain))
        if resolved != plain:
            yield resolved


def _addresses(text: str) -> Iterator[str]:
    yield from (found[0] for found in _ADDRESS.finditer(text))
    if "?" in text:
        yield from (found[0] for found in _ASKED.finditer(text))
    yield from (found[1] for found in _LINK.finditer(text) if _AWAY.search(found[1]))


def _has_image(text: str) -> bool:
    """Whether a program may show an image; an exclamation mark before a citation is none."""
    if _IMAGE.search(text):
        return True
    if "![" not in text:
        return False
    defined = bool(_DEFINITION.search(text))
    at = (text if defined else _CITED_LOUDLY.sub("", text)).find("![")
    return at >= 0 and (defined or "](" in text[at:])


def _squash(text: str) -> str:
    """Return the letters and digits of a text, as they compare."""
    if len(text) == 1 and text.isascii():
        return text.lower() if text.isalnum() else ""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", clean(text))
    return "".join(filter(str.isalnum, text.casefold()))


def _needle(text: str) -> tuple[str, bool]:
    squashed = _squash(text)
    return (squashed, True) if len(squashed) >= SQUASHED else (text.casefold(), False)


def _spellings(secret: str) -> list[str]:
    """Return a key as it is and in what takes one line to undo; none when it is too short."""
    raw = secret.encode()
    encoded = base64.b64encode(raw).decode().rstrip("=")[:-1]  # the last depends on what follows
    spelled = [_squash(one) for one in (secret, secret[::-1], raw.hex(), encoded)]
    return spelled if len(spelled[0]) >= SQUASHED else []


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[shift:] for shift in range(RUN)), strict=False)
