"""Word equations (OMML) as one line of text: fractions, powers, roots, sums, matrices."""

from __future__ import annotations

import re
from typing import Any

MATH_NAMESPACE = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
MATH = f"{MATH_NAMESPACE}oMath"
SIMPLE = re.compile(r"[\w.,]+|\([^()]*\)")
MAX_DEPTH = 50


def linear(element: Any, depth: int = 0) -> str:
    """Return an equation as text, e.g. `x^2`, `(a+b)/c`, `√(x)`."""
    if depth > MAX_DEPTH:
        return ""
    name = str(element.tag).removeprefix(MATH_NAMESPACE)

    def part(tag: str) -> str:
        found = element.find(f"{MATH_NAMESPACE}{tag}")
        return "" if found is None else linear(found, depth + 1)

    if name == "t":
        return element.text or ""
    if name == "f":
        return f"{_grouped(part('num'))}/{_grouped(part('den'))}"
    if name == "rad":
        return f"{_power(part('deg'), 'root ')}√({part('e')})"
    if name in ("sSup", "sSub", "sSubSup"):
        return _grouped(part("e")) + _power(part("sub"), "_") + _power(part("sup"), "^")
    if name == "nary":
        return f"{_sign(element, 'chr', '∫')}{_power(part('sub'), '_')}{_power(part('sup'), '^')} {part('e')}"
    if name == "d":
        parts = [linear(each, depth + 1) for each in element.findall(f"{MATH_NAMESPACE}e")]
        inside = _sign(element, "sepChr", "|").join(parts)
        return f"{_sign(element, 'begChr', '(')}{inside}{_sign(element, 'endChr', ')')}"
    if name in ("limLow", "limUpp"):
        return f"{part('e')}{_power(part('lim'), '_')}"
    if name == "func":
        return f"{part('fName')}({part('e').removeprefix('(').removesuffix(')')})"
    if name in ("m", "eqArr"):
        return "; ".join(linear(each, depth + 1) for each in element if _is_row(each))
    if name == "mr":
        return ", ".join(linear(each, depth + 1) for each in element)
    return "".join(linear(each, depth + 1) for each in element if not str(each.tag).endswith("Pr"))


def _is_row(element: Any) -> bool:
    return element.tag in (f"{MATH_NAMESPACE}mr", f"{MATH_NAMESPACE}e")


def _grouped(text: str) -> str:
    return text if not text or SIMPLE.fullmatch(text) else f"({text})"


def _power(text: str, mark: str) -> str:
    return f"{mark}{_grouped(text)}" if text else ""


def _sign(element: Any, tag: str, default: str) -> str:
    """Return a character that the properties of an operator or of brackets name."""
    found = element.find(
        f"{MATH_NAMESPACE}{str(element.tag).removeprefix(MATH_NAMESPACE)}Pr/{MATH_NAMESPACE}{tag}"
    )
    return default if found is None else str(found.get(f"{MATH_NAMESPACE}val", ""))
