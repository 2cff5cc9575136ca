"""From bytes to text: UTF-8 first, else the encoding that is declared or detected, and reported."""

from __future__ import annotations

import codecs
import re
from itertools import pairwise
from typing import NamedTuple

from .document import check_text, kind_of, unreadable

BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "cp1252"
# What pages declare, and the larger encoding that browsers read it as (WHATWG Encoding Standard).
READ_AS = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "us-ascii", "ascii"), WESTERN),
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    "big5": "big5hkscs",
    "iso-8859-9": "cp1254",
}
WESTERN_LIKE = (WESTERN, "cp1254")
LATIN = (*WESTERN_LIKE, "cp1250", "cp1257", "iso8859_2", "cp437", "cp850", "mac_roman")
OTHER_SCRIPTS = (
    *("cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "cp866"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
ALPHABETS = tuple(
    frozenset(letters + letters.upper())
    for letters in (
        *("äöüßé", "àâæçéèêëîïôœùûüÿ", "áéíñóúüªº", "ãáàâçéêíóôõúüªº", "àèéìíòóù"),
        *("åäöéü", "æøåéöäü", "áàâëéèêïíôóöüú"),
    )
)
TYPOGRAPHY = frozenset("’‘‚“”„–—…€£¥¢§°·•«»‹›©®™¿¡×÷±²³½¼¾µ¶†‡ˆ˜¨´¸¬¯¹\u00a0\u00ad")
MAX_WESTERN_SHARE = 0.4  # of the letters that are not ASCII; more is another script
SAMPLE_BYTES = 65_536  # of lines that are not ASCII; enough to detect an encoding
COHERENCE_MARGIN = 0.05  # 0 to 1; what the Western encoding may be behind the best one
MAX_PLACES = 3  # named in one warning
MIN_NUL_SHARE = 0.4  # of the bytes of UTF-16 text in ASCII characters; it has half


class Decoded(NamedTuple):
    """A file's text without byte order mark, and how it was read if not as declared or as UTF-8."""

    text: str
    warnings: tuple[str, ...] = ()


def decode(name: str, data: bytes, declared: str = "") -> Decoded:
    """Decode a text file.

    A byte order mark is believed, then valid UTF-8. UTF-8 with a few bad bytes stays UTF-8; else
    the declared encoding is taken where the text looks like it, else a detected one.

    Args:
        name: The file's name.
        data: Its content.
        declared: The encoding that the file itself declares, "" if none.

    Raises:
        StepError: `document_unreadable`: another format, binary, or blank.
    """
    if kind := kind_of(data):
        unreadable(name, f"its content is {kind}, not text; give it the extension of its format")
    decoded = _marked(data) or _unmarked(data, declared)
    return decoded._replace(text=check_text(name, decoded.text))


def _marked(data: bytes) -> Decoded | None:
    encoding = next((codec for mark, codec in BOMS if data.startswith(mark)), None)
    if encoding is None:
        return None
    if encoding == "utf-8-sig":
        return _as_utf8(data.removeprefix(codecs.BOM_UTF8), always=True)
    try:
        return Decoded(data.decode(encoding))
    except UnicodeDecodeError as error:
        why = (
            f"{_place(data, error.start)} is not valid {encoding.upper()}; what is not was replaced"
        )
        return Decoded(data.decode(encoding, "replace"), (why,))


def _unmarked(data: bytes, declared: str) -> Decoded:
    if decoded := _as_utf16(data) or _as_utf8(data):
        return decoded
    encoding = READ_AS.get(declared, declared)
    text = _strict(data, encoding) if encoding else None
    if text is not None and (encoding != WESTERN or _looks_western(text)):
        return Decoded(text)
    detected = _detect(data)
    first = next(i for i, byte in enumerate(data) if byte > 127)
    claim = f"declared as {declared}, " if declared else ""
    why = (
        f"{claim}read as {_label(detected)}, which was detected: {_place(data, first)} is not ASCII"
    )
    if not declared or declared in ("utf-8", "utf8"):
        why = (
            f"{claim}read as {_label(detected)}, which was detected: it is not valid UTF-8, "
            f"first at {_place(data, first)}"
        )
    return Decoded(data.decode(detected, "replace"), (why,))


def _as_utf16(data: bytes) -> Decoded | None:
    """Read UTF-16 without a mark: the zero bytes of its ASCII characters stand on one side."""
    zeros = (data[0::2].count(0), data[1::2].count(0))
    if sum(zeros) < 2 or min(zeros) or len(data) % 2:
        return None
    encoding = "utf-16-le" if zeros[1] else "utf-16-be"
    text = _strict(data, encoding)
    likely = sum(zeros) >= MIN_NUL_SHARE * len(data) or (text and re.search(r"[ \r\n]", text))
    if not text or not likely or not all(c.isprintable() or c.isspace() for c in text):
        return None
    return Decoded(text, (f"read as {encoding.upper()}, which was detected; it has no mark",))


def _as_utf8(data: bytes, *, always: bool = False) -> Decoded | None:
    """Read UTF-8, also with bad bytes as long as most of what is not ASCII is valid.

    A bad byte alone is read as Windows-1252, where it usually comes from; a torn character is
    replaced.
    """
    pieces: list[str] = []
    faults: list[int] = []
    start, view = 0, memoryview(data)
    while start < len(data):
        try:
            pieces.append(codecs.utf_8_decode(view[start:], "strict", True)[0])
            break
        except UnicodeDecodeError as error:
            bad, end = start + error.start, start + error.end
        pieces.append(codecs.utf_8_decode(view[start:bad])[0])
        torn = end - bad > 1
        pieces.append(
            "\N{REPLACEMENT CHARACTER}" if torn else data[bad:end].decode(WESTERN, "replace")
        )
        faults.append(bad)
        start = end
    text = "".join(pieces)
    if not faults:
        return Decoded(text)
    valid = sum(character > "\x7f" for character in text) - len(faults)
    if valid < len(faults) and not always:
        return None
    return Decoded(text, (_bad_bytes(data, faults),))


def _bad_bytes(data: bytes, faults: list[int]) -> str:
    places = ", ".join(_place(data, fault) for fault in faults[:MAX_PLACES])
    more = f" and {len(faults) - MAX_PLACES} more" if len(faults) > MAX_PLACES else ""
    return f"not valid UTF-8, read as {_label(WESTERN)} or replaced there: {places}{more}"


def _place(data: bytes, offset: int) -> str:
    line = data.count(b"\n", 0, offset) + 1
    return f"byte {offset} (0x{data[offset]:02x}) on line {line}"


def _label(encoding: str) -> str:
    return f"windows-{encoding[2:]}" if re.fullmatch(r"cp125\d", encoding) else encoding


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _detect(data: bytes) -> str:
    """Return the encoding of a text that is not UTF-8, judged by its lines that are not ASCII.

    Detectors confuse the encodings of Latin letters on short texts, so a text that is plainly in a
    Western language is not given to one.
    """
    lines = (line for line in data.splitlines(keepends=True) if not line.isascii())
    sample = b"".join(line[:SAMPLE_BYTES] for _, line in zip(range(1000), lines, strict=False))
    sample = sample[:SAMPLE_BYTES]
    western = sample.decode(WESTERN, "replace")
    is_latin, has_signs = _looks_western(western), _has_signs_in_words(western)
    if is_latin and not has_signs and _is_western(western):
        return WESTERN
    from charset_normalizer import from_bytes

    candidates = [*(LATIN if is_latin else ()), *OTHER_SCRIPTS]
    excluded = list(WESTERN_LIKE) if has_signs else None
    matches = list(from_bytes(sample, cp_isolation=candidates, cp_exclusion=excluded))
    if not matches:
        return WESTERN
    best = matches[0]
    for match in matches:
        close = match.coherence >= best.coherence - COHERENCE_MARGIN
        if match.encoding == WESTERN and match.chaos <= best.chaos and close:
            return WESTERN
    return best.encoding


def _is_western(text: str) -> bool:
    """Tell whether the letters are those of one Western language, and the rest is typography."""
    strange = {character for character in text if character > "\x7f"} - TYPOGRAPHY
    return any(strange <= alphabet for alphabet in ALPHABETS)


def _has_signs_in_words(text: str) -> bool:
    """Tell whether a sign other than an apostrophe or a soft hyphen stands between two letters."""
    return any(
        sign > "\x7f" and not sign.isalpha() and sign not in "’´·–—\u00ad" and after.isalpha()
        for (before, sign), (_, after) in pairwise(pairwise(text))
        if before.isalpha()
    )


def _looks_western(text: str) -> bool:
    """Tell whether the letters are mostly ASCII, as in every Western language."""
    letters = [character for character in text if character.isalpha()]
    strange = sum(character > "\x7f" for character in letters)
    return strange <= MAX_WESTERN_SHARE * len(letters)
