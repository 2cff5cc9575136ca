"""Mail and archives: each file inside is read by its own loader, under a name of its own, bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import office_kit as kit
import pytest
from test_office_formats import one, refusal

from rag_retrieve import Retriever
from rag_retrieve.documents import load
from rag_retrieve.documents.budget import Budget
from rag_retrieve.index.places import covers, file_of

QUOTED = "> The rent is 900.\n"


def mail(
    text: str = "The rent is 950.", *, page: str = "", subject: str = "Réunion"
) -> EmailMessage:
    """Return a mail; with `page`, as an alternative to its text."""
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "Ann Lee <Ann@example.org>"
    message["To"] = "bob@example.org, Carl <carl@example.org>"
    message["Date"] = "Fri, 15 Mar 2024 14:30:00 +0100"
    message["Message-ID"] = "<17@example.org>"
    message.set_content(text)
    if page:
        message.add_alternative(page, subtype="html")
    return message


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    """Return a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


# mail


def test_a_mail_has_its_head_as_text_and_as_metadata() -> None:
    """Addresses as lists, the date with its zone; the subject is the title."""
    document = one("a.eml", mail("The rent is 950.\n\n" + QUOTED).as_bytes(policy=SMTP))

    assert document.title == "Réunion"
    assert document.metadata == {
        "subject": "Réunion",
        "from": "ann@example.org",
        "to": ["bob@example.org", "carl@example.org"],
        "date": "2024-03-15T14:30:00+01:00",
        "message_id": "17@example.org",
    }
    assert document.text.startswith("Subject: Réunion\nDate: Fri, 15 Mar 2024")
    assert document.text.endswith("The rent is 950.\n\n> The rent is 900.")


def test_a_mail_that_is_a_page_keeps_what_it_quotes_marked() -> None:
    """Each line of a quotation begins with `>`; code stays code."""
    page = (
        "<p>The rent is 950.</p><blockquote><p>The rent is 900.</p><p>Since May.</p></blockquote>"
    )
    document = one("a.eml", mail("Hi", page=page).as_bytes())

    assert document.text.split("\n\n", 1)[1] == (
        "The rent is 950.\n\n> The rent is 900.\n\n> Since May."
    )


def test_attachments_are_documents_of_their_own_that_know_their_mail() -> None:
    """Read by the loaders of their endings; one that is not read is named."""
    message = mail()
    message.add_attachment(
        b"Item,Price\nPump,40\n", maintype="text", subtype="csv", filename="p.csv"
    )
    message.add_attachment(kit.xlsx({"S": [["a", "b", "c"]]}), maintype="application", subtype="x",
                           filename="../up/b.xlsx")  # fmt: skip
    message.add_attachment(b"\x00", maintype="application", subtype="x", filename="c.exe")
    message.add_attachment(mail("Inner words.", subject="Old"))
    documents = load("a.eml", message.as_bytes())

    assert [document.document_id for document in documents] == [
        "a.eml", "a.eml/p.csv", "a.eml/_up_b.xlsx", "a.eml/attachment-4.eml",
    ]  # fmt: skip
    assert documents[0].text.endswith("Attachments: p.csv, _up_b.xlsx, c.exe, attachment-4.eml")
    assert documents[0].warnings == ("files in it that are not read: 1 .exe",)
    assert documents[1].metadata["subject"] == "Réunion"
    assert documents[1].metadata["columns"] == ["Item", "Price"]
    assert "Inner words." in documents[3].text


@pytest.mark.parametrize("page", ["", "<p>Grüße</p>"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "utf-16"])
def test_the_words_of_a_mail_are_decoded(charset: str, page: str) -> None:
    """By the encoding that it declares."""
    message = EmailMessage()
    message["From"] = "a@example.org"
    message.set_content("Grüße aus Köln", charset=charset)
    if page:
        message.add_alternative(page, subtype="html", charset=charset)

    assert "Grüße" in one("a.eml", message.as_bytes()).text


def test_a_mailbox_is_one_document_a_message_by_its_id() -> None:
    """A message without an id has its number; a line that only looks like a start is text."""
    plain = b"Subject: Two\n\nFrom here on 10:00 it rains.\n>From that day on.\n"
    box = b"From a@b Fri Mar 15 14:30:00 2024\n" + mail("One.").as_bytes()
    box += b"\nFrom c@d Sat Mar 16 09:00:00 2024\n" + plain
    documents = load("a.mbox", box)

    assert [document.document_id for document in documents] == ["a.mbox#17@example.org", "a.mbox#2"]
    assert documents[1].text.endswith("From here on 10:00 it rains.\nFrom that day on.")


@pytest.mark.parametrize(
    "data",
    [b"Just words.\n", b"\n\n", b"Subject: x\n\n", b"From: a\nContent-Type: multipart/mixed\n\n"],
)
def test_what_is_no_mail_is_refused_or_read_by_its_head(data: bytes) -> None:
    """There is no document without text."""
    try:
        assert all(document.text.strip() for document in load("a.eml", data))
    except Exception as error:
        assert getattr(error, "code", "") == "document_unreadable"


# archives

FILES = {
    "docs/a.md": b"# Tea\n\nHot.\n",
    "b.jsonl": b'{"id": 7, "text": "Milk."}\n',
    "c.bin": b"\0",
}
IDS = ["z/docs/a.md", "z/b.jsonl#7"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("z.zip", kit.zipped(FILES)),
        ("z.tar", tar(FILES)),
        ("z.tgz", tar(FILES, "w:gz")),
        ("z.tar.gz", tar(FILES, "w:gz")),
        ("z.tar.bz2", tar(FILES, "w:bz2")),
        ("z.tar.xz", tar(FILES, "w:xz")),
    ],
)
def test_the_files_of_an_archive_are_read_under_their_paths(name: str, data: bytes) -> None:
    """Records, too; what has no loader is counted."""
    documents = load(name, data)

    assert [document.document_id.replace(name, "z") for document in documents] == IDS
    assert documents[0].title == "Tea"
    assert documents[0].warnings == ("files in it that are not read: 1 .bin",)
    assert {file_of(document.document_id) for document in documents} == {name}
    assert all(covers(name, document.document_id) for document in documents)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.log.gz", gzip.compress(b"It broke.\n")),
        ("a.txt.bz2", bz2.compress(b"It broke.\n")),
        ("a.md.xz", lzma.compress(b"It broke.\n")),
    ],
)
def test_a_file_that_is_compressed_alone_is_read(name: str, data: bytes) -> None:
    """By the ending that it has inside."""
    document = one(name, data)

    assert document.document_id == f"{name}/{name.rpartition('.')[0]}"
    assert document.text == "It broke.\n"


def test_members_outside_of_an_archive_links_and_the_hidden_are_not_followed() -> None:
    """Steps upwards and roots are taken from a path; two files of one path are both read."""
    files = {"../../etc/a.txt": b"One.", "/root/a.txt": b"Two.", "etc/a.txt": b"Three.",
             "__MACOSX/a.txt": b"x", ".git/a.txt": b"y", "x/.env.txt": b"z"}  # fmt: skip
    ids = [document.document_id for document in load("z.zip", kit.zipped(files))]

    assert ids == ["z.zip/etc/a.txt", "z.zip/root/a.txt", "z.zip/etc/a-2.txt"]


def test_one_bad_member_costs_one_member() -> None:
    """It is named with the reason; the others are read."""
    (document,) = load("z.zip", kit.zipped({"a.pdf": b"no pdf", "b.txt": b"Good."}))

    assert document.document_id == "z.zip/b.txt"
    assert "z.zip/a.pdf" in document.warnings[0]


def test_an_archive_that_breaks_off_is_read_until_there() -> None:
    """The rest is named as missing."""
    whole = tar({"a.txt": b"Good.", "b.txt": b"x" * 5000})
    (document,) = load("z.tar", whole[:2500])

    assert document.document_id == "z.tar/a.txt"
    assert "breaks off" in document.warnings[0] or "b.txt" in document.warnings[0]


def nested(levels: int) -> bytes:
    """Return a zip archive in a zip archive in a zip archive."""
    data = kit.zipped({"a.txt": b"Deep."})
    for _ in range(levels - 1):
        data = kit.zipped({"z.zip": data})
    return data


def test_archives_in_archives_are_read_to_a_depth() -> None:
    """The fourth level is read, the fifth is not."""
    assert one("z.zip", nested(4)).text == "Deep."
    assert "nested in more than 4" in refusal("z.zip", nested(5))


def test_what_unpacks_to_too_much_is_left_out_and_named() -> None:
    """By its size as the archive says, and as it turns out to be."""
    bomb = gzip.compress(b"x" * (51 << 20))

    assert "unpacks to more than" in refusal("a.txt.gz", bomb)
    assert "has 53477376 bytes" in refusal("a.zip", kit.zipped({"a.txt": b"x" * (51 << 20)}))


@pytest.mark.parametrize(
    ("budget", "why"), [(Budget(members=2), "first"), (Budget(bytes=8), "bytes")]
)
def test_an_archive_is_read_as_far_as_its_budget_goes(budget: Budget, why: str) -> None:
    """What is left out is said once."""
    files = {f"{number}.txt": b"Word." for number in range(9)}
    documents = load("z.zip", kit.zipped(files), budget)

    assert 1 <= len(documents) <= 2
    assert why in " ".join(documents[0].warnings)


def test_a_damaged_member_does_not_let_prune_delete_what_was_read_of_it_before(
    retriever: Retriever, tmp_path: Path
) -> None:
    """It is broken, not gone; what is gone from an archive that was read whole is deleted."""
    path = tmp_path / "docs" / "z.zip"
    path.parent.mkdir()
    path.write_bytes(kit.zipped({"a.txt": b"Tea is hot.", "b.csv": b"a,b\n1,2\n"}))
    retriever.ingest([path.parent])
    path.write_bytes(kit.zipped({"a.txt": b"Tea is hot.", "b.csv": b"\0"}))
    damaged = retriever.ingest([path.parent], prune=True)
    path.write_bytes(kit.zipped({"a.txt": b"Tea is hot."}))
    smaller = retriever.ingest([path.parent], prune=True)

    assert (damaged.deleted, damaged.unchanged) == ([], ["docs/z.zip/a.txt"])
    assert smaller.deleted == ["docs/z.zip/b.csv"]
