"""Words that mean the same: which relation a question asks, and which texts say it."""

from __future__ import annotations

import pytest

from rag_kit.equivalents import equivalents, meant_stems, verb_forms


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("Who owns the mill?", "The mill is the property of the parish."),
        ("Whose is the proprietor's share?", "It belongs to the heirs."),
        ("Who is in charge of the archive?", "Ada Byron heads the archive."),
        ("Who runs the shop?", "The manager is Olu Bello."),
        ("Who takes care of the bees?", "The bees are Iva's job."),
        ("How much does a copy cost?", "A copy is 0.10 EUR."),
        ("What is the fee for a locker?", "Members pay 4 dollars."),
        ("How can I terminate the contract?", "Cancellation takes four weeks."),
        ("When can I end my lease?", "Three months' notice is needed."),
        ("Where do I sign up?", "Register at the desk."),
        ("Will the deposit be refunded?", "It is returned after ten days."),
        ("What is prohibited?", "Bottles are not allowed."),
        ("Are drones allowed?", "Drones need the consent of the warden."),
        ("How many guests are permitted?", "At most four guests."),
        ("What isn't covered?", "Excluded: glass and jewellery."),
        ("What is not included?", "Non-refundable costs"),
        ("Can I change it without paying?", "Changes are free of charge."),
        ("Who wrote the report?", "Author: Ida Moen"),
        ("Who looks after the keys?", "The keys are looked after by Ida."),
        ("Who heads the club?", "Its president is Ida."),
        ("Which Java does it need?", "Java 21 is required."),
        ("May I take photos?", "Photography is welcome."),
        ("What is the newest release?", "v3.12.0 of May"),
        ("When are the forms due?", "Forms are payable within ten days."),
        ("Do I have to wear a helmet?", "Helmets are compulsory."),
    ],
)
def test_a_text_says_what_a_question_asks_in_other_words(query: str, text: str) -> None:
    """Each stem of the relation counts as said."""
    said = [one.stems for one in equivalents(query) if one.said.search(text)]
    assert said
    assert meant_stems(query, text) == set().union(*said)


@pytest.mark.parametrize(
    ("query", "text", "language"),
    [
        ("Wem gehört der Garten?", "Eigentümer ist die Gemeinde.", "german"),
        ("Wer ist für die Kasse zuständig?", "Frau Lang leitet die Kasse.", "german"),
        ("Wie kann ich das Abo kündigen?", "Eine Stornierung ist möglich.", "german"),
        ("Qui est le propriétaire ?", "Le jardin appartient à la ville.", "french"),
        ("Quel est le prix ?", "Il coûte 3 euros.", "french"),
    ],
)
def test_german_and_french_have_a_list_too(query: str, text: str, language: str) -> None:
    """Each language has its own words."""
    assert meant_stems(query, text, language)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("Where is the head office?", "The manager is Olu Bello."),
        ("When does the contract end?", "Notice must be given by May."),
        ("What is electric charge?", "The shop is managed by Olu."),
        ("Why did the war end?", "The treaty was cancelled."),
        ("How can I cancel?", "Notice: the office is closed today."),
        ("When is it due?", "Smoke within the yard only."),
        ("What does it include?", "She came with her dog."),
    ],
)
def test_other_meanings_of_the_words_are_left_alone(query: str, text: str) -> None:
    """`head`, `end` and `charge` count only in questions of the relation's form."""
    assert not meant_stems(query, text)


def test_a_language_without_a_list_has_no_equivalents() -> None:
    """Nothing is guessed."""
    assert equivalents("Chi è il proprietario?", "italian") == []


def test_a_verb_has_all_of_its_forms() -> None:
    """Snowball gives each of them a stem of its own."""
    assert set(verb_forms("paid")) == {"pay"}
    assert set(verb_forms("write")) == {"wrote", "written"}
    assert verb_forms("walk") == verb_forms("pay", "german") == []


def test_a_price_stands_at_the_end_of_a_line_of_numbers() -> None:
    """Where each of them could begin a price."""
    numbers = "1,2," * 5000
    assert not meant_stems("How much does it cost?", f"{numbers} km")
    assert meant_stems("How much does it cost?", f"{numbers}12 EUR")
