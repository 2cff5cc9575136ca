"""The file formats `retrieve` reads, as people are told them; imports nothing, for modules and commands."""

FORMATS = ("txt", "md", "html", "pdf", "docx", "csv", "json")
"""By their most common extension; `rag_retrieve.documents` knows every extension."""


def listed(word: str = "and") -> str:
    """Return the formats as part of a sentence: txt, md, … and json."""
    return f"{', '.join(FORMATS[:-1])} {word} {FORMATS[-1]}"
