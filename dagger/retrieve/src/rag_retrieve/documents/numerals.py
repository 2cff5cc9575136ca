"""Numbers of list items and headings: decimal, letters, Roman numerals."""

from __future__ import annotations

ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l")),
    *((40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)


def numeral(number: int, style: str) -> str:
    """Write the number of a list item as Word's `numFmt` says: letters, Roman numerals, else decimal."""
    if style in ("lowerLetter", "upperLetter") and number > 0:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 % 40 + 1)
        return letters.upper() if style == "upperLetter" else letters
    if style in ("lowerRoman", "upperRoman") and 0 < number < 4000:
        roman = ""
        for size, mark in ROMAN:
            roman += mark * (number // size)
            number %= size
        return roman.upper() if style == "upperRoman" else roman
    return f"{number:02}" if style == "decimalZero" else str(number)
