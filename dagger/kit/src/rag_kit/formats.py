"""The file formats `retrieve` reads, for help texts; imports nothing, so that modules stay light."""

FORMATS = (
    *(
        "txt",
        "md",
        "html",
        "pdf",
        "docx",
        "odt",
        "rtf",
        "epub",
        "pptx",
        "xlsx",
        "xls",
        "ods",
        "csv",
    ),
    *("eml", "json", "xml", "yaml", "ipynb", "org", "py", "zip"),
)
"""By their most common extension; `rag_retrieve.documents` has every extension."""


def listed(word: str = "and") -> str:
    """Return the formats as a list for a sentence: txt, md, … and json."""
    return f"{', '.join(FORMATS[:-1])} {word} {FORMATS[-1]}"
