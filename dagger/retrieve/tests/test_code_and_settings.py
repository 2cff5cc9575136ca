"""Source code, settings, XML, notebooks, Org and LaTeX; code in pages stays code."""

from __future__ import annotations

import json

import pytest
from test_office_formats import cells, one, refusal

from rag_retrieve.documents import READERS, LoadedDocument
from rag_retrieve.documents.chunker import Chunk, chunk
from rag_retrieve.documents.source import FAMILY


def pieces(document: LoadedDocument, size: int = 12) -> list[Chunk]:
    """Cut a document by its words."""
    return chunk(document, count_tokens=lambda text: len(text.split()), max_tokens=size)


def headings(name: str, text: str) -> list[tuple[int, str]]:
    """Return level and words of the headings of a text."""
    return [(heading.level, heading.text) for heading in one(name, text.encode()).headings]


# source code

PYTHON = '''"""Pumps and what they cost."""

import math

# How much a pump costs.
@cached
def price(size):
    """Return the price, which grows with the size of the pump, in euro."""
    return size * 2  # not a price list


class Pump:
    def start(self):
        text = """def no_function(): pass"""
        for part in self.parts:
            part.on()
            part.check(part.size, part.weight, part.height)
            self.log.append((part.name, part.size, part.state))
'''

CODE = {
    "a.py": (PYTHON, [(1, "price"), (1, "Pump"), (2, "start")]),
    "a.js": (
        "export class Cart {\n}\nexport const total = (items) => {\n};\n"
        "async function load(url) {\n}\nif (x) {\n}\n",
        [(1, "Cart"), (1, "total"), (1, "load")],
    ),
    "a.java": (
        "public class Shop {\n    private static int sum(int a, int b) {\n"
        "        return add(a, b);\n    }\n}\n",
        [(1, "Shop"), (2, "sum")],
    ),
    "a.go": ("func (s *Server) Run() error {\n}\ntype Server struct {\n}\n", [(1, "Run"), (1, "Server")]),
    "a.rs": ("pub fn open(path: &str) -> File {\n}\nimpl<T> Store<T> {\n}\n", [(1, "open"), (1, "Store")]),
    "a.c": ("static int read_all(int fd) {\n    while (more(fd)) {\n    }\n}\n", [(1, "read_all")]),
    "a.sql": ("-- all users\nCREATE TABLE IF NOT EXISTS users (\n id int\n);\n", [(1, "users")]),
    "a.sh": ("# Deploy it.\ndeploy() {\n  run\n}\nfunction stop {\n}\n", [(1, "deploy"), (1, "stop")]),
    "a.rb": ("class Dog\n  def bark\n  end\nend\n", [(1, "Dog"), (1, "bark")]),
    "a.cs": ("namespace A {\n}\npublic async Task Send(string to)\n{\n}\n", [(1, "A"), (1, "Send")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_source_code_is_its_file_with_functions_and_classes_as_headings(name: str) -> None:
    """Conditions, calls and what stands in texts are none."""
    text, found = CODE[name]

    assert headings(name, text) == found
    assert one(name, text.encode()).text == text


def test_a_passage_of_comments_is_text_and_one_of_code_is_code() -> None:
    """A function begins with the comments and decorators right above it."""
    document = one("a.py", PYTHON.encode())
    found = pieces(document, 24)
    price = next(piece for piece in found if "in euro" in piece.text)
    start = next(piece for piece in found if "part.check" in piece.text)

    assert document.text[document.headings[0].offset :].startswith("# How much")
    assert (price.in_code, start.in_code) == (False, True)
    assert all(document.text[slice(*piece.span)] == piece.text for piece in found)


def test_every_language_has_an_ending_that_is_read() -> None:
    """No family of comments is kept for an ending without a loader."""
    assert set(FAMILY) <= set(READERS)


# settings


def test_keys_and_sections_of_settings_are_headings() -> None:
    """The text stays the file's; a block of text has no keys."""
    yaml = "server:\n  host: db1\n  tls:\n    port: 443\n"
    yaml += 'note: |\n  title:\n  words\n"quoted key":\n  - a: 1\n'

    assert headings("a.yaml", yaml) == [(1, "server"), (2, "tls"), (1, "quoted key")]
    assert headings("a.toml", "[server]\na = 1\n[server.tls]\n[[users]]\n") == [
        (1, "server"), (2, "server.tls"), (1, "users"),
    ]  # fmt: skip
    assert headings("a.ini", "; about\n[main]\nkey = [a]\n[other] # x\n") == [
        (1, "main"),
        (1, "other"),
    ]
    assert one("a.conf", b"# The port.\nport 80\n").text == "# The port.\nport 80\n"


# XML


def test_values_of_xml_keep_their_names_and_records_are_apart() -> None:
    """Attributes, too; names of the elements around stand before them."""
    data = b"""<shop><site><city>Rome</city></site>
<item id="7"><name>Pump</name><price unit="EUR">40</price></item>
<item id="8"><name>Valve</name></item><user name="ann" role="admin"/></shop>"""
    document = one("a.xml", data)

    assert document.text.split("\n\n") == [
        "site.city: Rome",
        "item id: 7\nname: Pump\nprice (unit: EUR): 40",
        "item id: 8\nname: Valve\nuser name: ann, role: admin",
    ]
    assert len(document.breaks) == 2


def test_prose_in_xml_is_paragraphs_under_headings() -> None:
    """Marks within a sentence part nothing; comments are not there."""
    data = b"""<book><title>Tea</title><!-- no --><chapter><title>Green</title>
<para>It is <emphasis>very</emphasis> hot.</para><para>Twice.</para></chapter></book>"""
    document = one("a.xml", data)

    assert document.text == "Tea\n\nGreen\n\nIt is very hot.\n\nTwice."
    assert headings("a.xml", data.decode()) == [(1, "Tea"), (2, "Green")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("<a>" * 100_000, "not well-formed"),
        ("<a><b></a>", "line 1"),
        ("<a/>", "no text"),
    ],
)
def test_broken_xml_is_refused_with_the_reason(data: str, why: str) -> None:
    """Nested too deep, not well-formed, or empty."""
    assert why in refusal("a.xml", data.encode())


@pytest.mark.parametrize(
    "entities",
    ['<!ENTITY b "haha"><!ENTITY c "&b;&b;&b;&b;">', '<!ENTITY c SYSTEM "file:///etc/passwd">'],
)
def test_entities_of_an_xml_file_are_not_resolved(entities: str) -> None:
    """They stand as they are written, and no file is read."""
    document = one("a.xml", f"<!DOCTYPE a [{entities}]><a>See &c; at 5&#160;m.</a>".encode())

    assert document.text == "See &c; at 5 m."
    assert document.warnings == ("1 entities of its own are not resolved (&name;)",)


# notebooks


def test_a_notebook_is_text_and_code_with_what_it_printed() -> None:
    """Tables of a result are tables; how an object is called is no text."""
    frame = "<table><thead><tr><th></th><th>Item</th><th>Price</th></tr></thead>"
    frame += "<tr><th>0</th><td>Pump</td><td>40</td></tr></table>"
    notebook = {
        "metadata": {"language_info": {"name": "python"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Sales\n", "All of *them*."]},
            {
                "cell_type": "code",
                "source": "total()",
                "outputs": [
                    {"output_type": "stream", "text": ["about 12\n"]},
                    {"output_type": "execute_result", "data": {"text/html": frame, "text/plain": "x"}},
                    {"output_type": "display_data", "data": {"text/plain": "<Figure size 10x10>"}},
                ],
            },
        ],
    }  # fmt: skip
    document = one("a.ipynb", json.dumps(notebook).encode())

    assert document.title == "Sales"
    assert "```python\ntotal()\n```\n\n```\nabout 12\n```" in document.text
    assert cells(document)[0]["Price"] == "40"
    assert "Figure" not in document.text
    assert [piece.in_code for piece in pieces(document, 4) if piece.text == "total()\n```"] in (
        [],
        [True],
    )


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"cells": []}', '{"cells": [{"cell_type": "code"}]}', "[" * 99_999]
)
def test_what_is_no_notebook_is_refused(data: str) -> None:
    """Broken, of another shape, empty, nested too deep."""
    refusal("a.ipynb", data.encode())


# Org and LaTeX


def test_org_has_headings_and_tables_and_no_comments() -> None:
    """The text keeps its offsets; code holds no heading."""
    text = "#+TITLE: Tea\n# secret\n* TODO Green :a:b:\nHot +cold+ tea.\n"
    text += "#+BEGIN_SRC sh\n* no\n#+END_SRC\n| Item | Price |\n|------+-------|\n| Pump | 40 |\n"
    document = one("a.org", text.encode())

    assert (document.title, headings("a.org", text)) == ("Tea", [(1, "Green")])
    assert "secret" not in document.text
    assert "cold" not in document.text
    assert len(document.text) == len(text)
    assert document.tables[0].columns == ("Item", "Price")


def test_latex_has_sections_and_nothing_that_is_commented_out() -> None:
    """The preamble is blank but for the title; a percent sign that is written stays."""
    text = "\\documentclass{a}\n\\title{On \\emph{Tea}}\n\\begin{document}\n\\section{Heat}\n"
    text += "It is 5\\% hot. % not\n\\begin{comment}\nold\n\\end{comment}\n"
    text += "\\begin{verbatim}\n% code\n\\end{verbatim}\n\\end{document}\n"
    document = one("a.tex", text.encode())

    assert (document.title, headings("a.tex", text)) == ("On Tea", [(2, "Heat")])
    assert "5\\% hot." in document.text
    assert all(word not in document.text for word in ("not", "old", "documentclass"))
    assert "% code" in document.text
    assert len(document.text) == len(text)


# pages

PAGES = {
    "marked by an element": ("<pre><code>apt install pump\n</code></pre>", True),
    "marked by a class": ("<div class='highlight-sh'><pre>the pump is set to run</pre></div>", True),
    "commands": ("<pre>$ pump --speed 5\n$ pump stop</pre>", True),
    "a poem": ("<pre>The sea rose in the night\nand took the boats with it.</pre>", False),
    "a notice": ("<pre>Dear all,\n\nthe office will be closed on Monday and Tuesday.\n</pre>", False),
}  # fmt: skip


@pytest.mark.parametrize("case", PAGES)
def test_code_of_a_page_stands_between_fences(case: str) -> None:
    """What reads as prose does not; each passage that begins in code says so."""
    page, is_code = PAGES[case]
    document = one("a.html", f"<p>Before.</p>{page}<p>After.</p>".encode())

    assert ("```" in document.text) == is_code
    assert document.text.startswith("Before.\n\n")
    assert document.text.endswith("\n\nAfter.")


def test_a_passage_that_begins_in_the_code_of_a_page_says_so() -> None:
    """A fence in the code itself ends nothing."""
    code = "```\n" + "".join(f"set_value({number}, {number})\n" for number in range(30))
    document = one("a.html", f"<p>Before.</p><pre><code>{code}</code></pre><p>After.</p>".encode())
    found = pieces(document)

    assert document.text.count("````") == 2
    assert [piece.in_code for piece in found[:3]] == [False, True, True]
