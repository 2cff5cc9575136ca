"""A citation that points nowhere goes, and its sentence still reads as one."""

from __future__ import annotations

import pytest

from rag_generate.citations import verify
from rag_kit.passages import Context

KNOWN = [
    Context(marker=n, chunk_id=str(n), document_id="d", text="x", span=[0, 1], score=1.0)
    for n in (1, 2)
]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("The port is 9000 [7].", "The port is 9000."),
        ("The port is 9000.[7] The host is x.[1]", "The port is 9000. The host is x.[1]"),
        ("The value is 5 [7][8][1].", "The value is 5 [1]."),
        ("[7] The board may sign.", "The board may sign."),
        ("The limit is 10 [7] or 20 [1].", "The limit is 10 or 20 [1]."),
        ("The port is 9000 ([7]).", "The port is 9000."),
        ("The port is 9000 (see passage [7]), the host x [1].", "The port is 9000, the host x [1]."),
        ("The documents ([7], [1]) say so.", "The documents ([1]) say so."),
        ("See [1] and [7] for details.", "See [1] for details."),
        ("According to [7], the port is 9000.", "The port is 9000."),
        ("According to passage [7] and [8], it is 9000.", "It is 9000."),
        ("As stated in [9], the board may sign [1].", "The board may sign [1]."),
        ("In [7], the port is 9000.", "The port is 9000."),
        ("Based on the documents [7], interns may not.", "Interns may not."),
        ("The board may sign, as described in [7].", "The board may sign."),
        ("The rules in [7] say that interns may not.", "The rules say that interns may not."),
        ("The board may sign [1]. See [7].", "The board may sign [1]."),
        ("The board may sign [1]. See [7] for details. So be it.", "The board may sign [1]. So be it."),
        ("The board may sign [1].\n\nSources: [7], [8]", "The board may sign [1]."),
        ("The board may sign [1].\n\n**References:** [1], [7]",
         "The board may sign [1].\n\n**References:** [1]"),
        ("[7] says that it is 9000. The board may sign [1].", "The board may sign [1]."),
        ("- Passage [7] says so.\n- The board may sign [1].", "- The board may sign [1]."),
        ("Passage [7] says that it is 9000 [1].", "A passage says that it is 9000 [1]."),
    ],
)  # fmt: skip
def test_what_introduces_a_removed_citation_goes_with_it(written: str, expected: str) -> None:
    """Parentheses, lead-ins, lists of sources, and sentences whose subject it is."""
    assert verify(written, KNOWN, None).text == expected
