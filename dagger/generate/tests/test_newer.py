"""Which passage counts where two contradict each other: the newer one, the new text of a mail."""

from __future__ import annotations

import pytest

from rag_generate.extractive import Extractive
from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest
from rag_generate.newer import is_quoted, is_superseded
from rag_kit.passages import Context


def answer(query: str, *passages: tuple[str, str | None, str], most: int = 3) -> str:
    """Return the answer over passages given as document, date and text, the best first."""
    contexts = [
        {
            "chunk_id": str(n), "document_id": name, "text": text, "span": [0, len(text)],
            "score": 1 / n, "scores": {"dense": 0.7 - 0.05 * n}, "marker": n,
            "source": name, **({"date": date} if date else {}),
        }
        for n, (name, date, text) in enumerate(passages, start=1)
    ]  # fmt: skip
    request = GenerateRequest.model_validate(
        {"query": query, "contexts": contexts, "generate": {"max_sentences": most}}
    )
    *_, draft = Extractive(min_support=0.3).stream(request)
    assert isinstance(draft, Draft)
    return draft.text


SIBLINGS = [
    ("How many days of leave do employees have?", "Employees have 28 days of leave.",
     "From July employees have 30 days of leave."),
    ("What is the deadline for travel expenses?", "The deadline for travel expenses is ten days.",
     "The deadline for travel expenses was changed to thirty days."),
    ("Who approves purchases over 500 euros?", "Ann approves purchases over 500 euros.",
     "Bob approves purchases over 500 euros."),
    ("When does the canteen close?", "The canteen closes at 14:00.",
     "The closing time of the canteen is 15:30; the canteen closes later on Fridays."),
    ("Is smoking allowed on the terrace?", "Smoking is allowed on the terrace.",
     "Smoking is no longer allowed on the terrace."),
]  # fmt: skip


@pytest.mark.parametrize(("query", "old", "new"), SIBLINGS)
def test_the_newer_of_two_documents_comes_first(query: str, old: str, new: str) -> None:
    """Both are shown; with room for one sentence, the newer one alone."""
    passages = (("old", "2022-02-01", old), ("new", "2025-07", new))

    text = answer(query, *passages)
    assert text.index("[2]") < (text.index("[1]") if "[1]" in text else len(text))
    assert "[1]" not in answer(query, *passages, most=1)
    assert answer(query, *passages[::-1]).index("[1]") == answer(query, *passages[::-1]).index("[")


@pytest.mark.parametrize(
    "dates", [(None, None), ("2025", None), (None, "2025"), ("2025", "2025"), ("2025", "2025-03")]
)
def test_without_two_dates_the_better_passage_comes_first(
    dates: tuple[str | None, str | None],
) -> None:
    """A year is not before a month in it."""
    query, old, new = SIBLINGS[0]

    assert "[1]" in answer(query, ("a", dates[0], old), ("b", dates[1], new))[:60]


def test_a_newer_document_on_something_else_changes_nothing() -> None:
    """A date alone is no reason."""
    text = answer(
        "How many days of leave do employees have?",
        ("old", "2022", "Employees have 28 days of leave."),
        ("new", "2025", "Employees park in the north yard. The gate opens at six."),
    )

    assert text == "Employees have 28 days of leave [1]."


@pytest.mark.parametrize(("year", "expected"), [("2024", "20 EUR"), ("2025", "26 EUR")])
def test_a_year_that_is_asked_for_chooses_the_document(year: str, expected: str) -> None:
    """Also the older one."""
    text = answer(
        f"What did the parking permit cost in {year}?",
        ("a", "2024", "The parking permit costs 20 EUR."),
        ("b", "2025", "The parking permit costs 26 EUR."),
    )

    assert expected in text
    assert text.count("EUR") == 1


MAILS = [
    "The meeting is on Friday at ten.\n\n> The meeting is on Thursday at nine.\n",
    "The meeting is on Friday at ten.\n\nOn Mon, 3 Mar 2025, Ann <a@x.org> wrote:\n"
    "The meeting is on Thursday at nine.\n",
    "The meeting is on Friday at ten.\n\n-----Original Message-----\n"
    "The meeting is on Thursday at nine.\n",
    *(
        f"The meeting is on Friday at ten.\n\n{head}\n\nThe meeting is on Thursday at nine.\n"
        for head in (
            "From: Ann\nSent: Monday\nSubject: Plan",
            "*From:* Ann\n*Subject:* Plan\n*Date:* Monday",
            "De : Anne\nEnvoyé : lundi 3 mars",
            "Da: Anna\nInviato: lunedì",
            "Van: Anna\nVerzonden: maandag",
            "Begin forwarded message:",
            "----- Weitergeleitete Nachricht -----",
            "-----Mensaje original-----",
            "El lun, 3 mar 2025, Ana <a@x.org> escribió:",
            "Il giorno lun 3 mar 2025 Anna ha scritto:",
            "Em seg., 3 de mar. de 2025, Ana escreveu:",
            "Op ma 3 mrt 2025 om 10:00 schreef Anna <a@x.org>:",
        )
    ),
    "The meeting is on Friday at ten.\n\nAnn said:\n> > The meeting is on Thursday at nine.\n> Fine.\n",
]


@pytest.mark.parametrize("mail", MAILS)
def test_new_text_of_a_mail_comes_before_what_it_quotes(mail: str) -> None:
    """Lines with `>`, and what stands below the head of the old mail."""
    assert is_quoted(mail, mail.index("The meeting is on Thursday"))
    assert not is_quoted(mail, mail.index("The meeting is on Friday"))
    text = answer("When is the meeting?", ("mail", None, mail))
    assert "Friday" in text and "Thursday" not in text


def test_an_old_mail_answers_what_the_new_text_does_not() -> None:
    """It is left out only where the new text is about the same."""
    mail = "Thank you, that is fine with me.\n\n> The meeting is on Thursday at nine.\n"

    assert "Thursday" in answer("When is the meeting?", ("mail", None, mail))


def test_a_note_in_markdown_is_no_old_mail() -> None:
    """There `>` marks what is important."""
    page = "The upload limit is 20 MB for guests.\n\n> The upload limit is 50 MB for members.\n"

    assert "50 MB" in answer("What is the upload limit for members?", ("limits.md", None, page))


def test_the_head_of_the_mail_itself_is_not_one_above_an_old_mail() -> None:
    """A saved mail begins with its own sender and date."""
    mail = "From: Ann\nDate: Monday\n\nThe meeting is on Friday at ten.\n"

    assert not is_quoted(mail, mail.index("The meeting"))


@pytest.mark.parametrize(
    "said",
    [
        "This policy is superseded by the rules of July.",
        "This document has been withdrawn.",
        "The rule below is no longer valid.",
    ],
)
def test_a_document_that_says_it_is_not_valid_comes_after(said: str) -> None:
    """Without any date; the sentence counts for its passage."""
    query, old, new = SIBLINGS[0]

    text = answer(query, ("a", None, f"{said} {old}"), ("b", None, new), most=1)

    assert "30 days" in text


@pytest.mark.parametrize(
    ("first", "second", "newer"),
    [
        ("rules-v1.md", "rules-v2.md", "30"), ("rules-v9.md", "rules-v10.md", "30"),
        ("rules v1.9.docx", "rules v1.10.docx", "30"), ("rules-v2.md", "rules-v1.md", "28"),
        ("rules-v1.md", "other-v2.md", "28"), ("rev1.md", "rev2.md", "28"),
    ],
)  # fmt: skip
def test_the_later_version_in_a_name_is_newer(first: str, second: str, newer: str) -> None:
    """Where the names are equal otherwise; versions compare as numbers."""
    query, old, new = SIBLINGS[0]

    assert f"{newer} days" in answer(query, (first, None, old), (second, None, new), most=1)


@pytest.mark.parametrize(
    ("metadata", "is_old"),
    [
        ({"status": "Superseded"}, True), ({"superseded-by": "b.md"}, True),
        ({"status": "valid"}, False), ({}, False),
    ],
)  # fmt: skip
def test_metadata_says_that_a_document_is_not_valid(metadata: dict[str, str], is_old: bool) -> None:
    """A status, or the document that replaces it."""
    context = Context(
        chunk_id="a", document_id="a", text="Text.", span=[0, 5], score=1, marker=1,
        metadata=dict(metadata),
    )  # fmt: skip

    assert is_superseded(context) is is_old


STEEL = (
    "In 2023 the plant produced 14,200 tonnes of steel. In 2024 it produced 15,900 tonnes of steel."
)


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("How much steel was produced in 2024?", STEEL, "15,900"),
        ("How much steel was produced in 2022?", STEEL, ""),
        ("Who was the director in 2022?", f"{STEEL} Ann Lee was the director in 2022.", "Ann Lee"),
        ("Who was the director in 2021?", "Ann Lee was the director in 2022.", ""),
        ("Who was the director in 2021?", "Ann Lee was the director from 2019 to 2023.", "Ann Lee"),
        ("Who was the director in 2021?", "Ann Lee has been the director since 2019.", "Ann Lee"),
        ("Who was the director in 2021?", "The director was Ann Lee (2019–2023).", "Ann Lee"),
        ("Who was the director in 2021?", "The director is Ann Lee.", "Ann Lee"),
    ],
)
def test_a_figure_of_another_year_is_no_answer(query: str, text: str, expected: str) -> None:
    """A time that may hold the year asked for, or none, is one."""
    found = answer(query, ("report", None, text))
    assert (expected in found) if expected else found == ""
