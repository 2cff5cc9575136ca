"""What names what: titles hand their words to what follows, lists and records stay whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rag_generate import generate
from rag_generate.extractive import Extractive
from rag_generate.json_values import is_json
from rag_generate.models import GenerateRequest, GenerateResponse
from rag_generate.settings import MIN_SUPPORT
from rag_generate.structure import passage_parts
from rag_kit.passages import Context

Build = Callable[..., GenerateRequest]
NONE = "Not found."


def ask(
    query: str,
    *texts: str,
    source: str = "doc.md",
    dense: float = 0.6,
    least: float = MIN_SUPPORT,
    most: int = 2,
) -> GenerateResponse:
    contexts = [
        Context(
            marker=n, chunk_id=str(n), document_id=str(n), source=source, text=text,
            span=[0, len(text)], score=1.0, scores={"dense": dense},
        )
        for n, text in enumerate(texts, 1)
    ]  # fmt: skip
    return generate(
        GenerateRequest(query=query, contexts=contexts, generate={"max_sentences": most}),
        generators={"extractive": Extractive(min_support=least)},
        default="extractive",
        no_context_text=NONE,
    )


@pytest.mark.parametrize("query", ["What changed in 3.2?", "What has changed in 3.2?"])
def test_what_changed_is_a_list_with_all_of_its_items(query: str) -> None:
    """One of which says what is no longer."""
    text = (
        "### 3.2\n- The default port changed to 9090.\n- Python 3.9 is no longer supported.\n\n"
        "### 3.1\n- Added a flag.\n- The default port is 8080."
    )
    assert ask(query, text).answer == (
        "- The default port changed to 9090 [1].\n- Python 3.9 is no longer supported [1]."
    )


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        (
            "How do I close my account?",
            "Q: How do I close my account?\nA: Open Profile and press Leave.\n\n"
            "Q: How do I open an account?\nA: Sign up at the desk.",
            "Open Profile and press Leave [1].",
        ),
        (
            "Is there a family ticket?",
            "**Is there a family ticket?**\n\nYes, for 20 EUR.\n\n**Is there a dog ticket?**\n\nNo.",
            "Yes, for 20 EUR [1].",
        ),
        (
            "Is there a dog ticket?",
            "**Is there a dog ticket?** Dogs pay half. **Is there a cat ticket?** Cats go free.",
            "Dogs pay half [1].",
        ),
        (
            "Is there a cat ticket?",
            "- **Is there a dog ticket?** No.\n- **Is there a cat ticket?** Yes, for one euro.",
            "Yes, for one euro [1].",
        ),
        (
            "How can I mute the alarm?",
            "Manual\n\nHow can I mute the alarm?\n\nHold the knob for three seconds.\n\n"
            "How can I test the alarm?\n\nPress the knob once.",
            "Hold the knob for three seconds [1].",
        ),
        (
            "What is the delivery time?",
            "Shop\n\nDelivery time\n\nParcels arrive after three working days.\n\nReturns\n\n"
            "Send them back within two weeks.",
            "Parcels arrive after three working days [1].",
        ),
        (
            "What are the opening hours?",
            "# Library\n\n## Opening hours\n\nMonday to Friday, 9 to 17.\n\n## Fees\n\nNone.",
            "Monday to Friday, 9 to 17 [1].",
        ),
        (
            "What colours is the lamp available in?",
            "Lamp\n\nAvailable colours:\n\nred\nblue\ndark green",
            "- red [1].\n- blue [1].\n- dark green [1].",
        ),
        (
            "Which tools do I need?",
            "You need these tools:\n\n* hammer\n* saw\n\nWork slowly.",
            "- hammer [1].\n- saw [1].",
        ),
        (
            "How do I change the filter?",
            "## Changing the filter\n\n1. Turn the pump off. Wait a minute.\n2. Open the lid.\n3. Swap the "
            "filter.\n\n## Storage\n\nKeep it dry.",
            "1. Turn the pump off. Wait a minute [1].\n2. Open the lid [1].\n3. Swap the filter [1].",
        ),
        (
            "How do I start the server?",
            "Start the server with:\n\n```sh\nrun server --port 80\n```\n\nIt logs to a file.",
            "`run server --port 80` [1].",
        ),
        (
            "How do I back up the database?",
            "```sh\n# back up the database\ntool dump > all.bin\n# load it again\ntool load all.bin\n```",
            "`tool dump > all.bin` [1].",
        ),
        (
            "How is the seal checked?",
            '```sh\ntool ask "How is the seal checked?"\n```\n\nThe seal is checked with soapy water.',
            "The seal is checked with soapy water [1].",
        ),
        (
            "What is Eva Lind's extension?",
            "Ola Ek\nRoom: 12\nExtension: 77\n\nEva Lind\nRoom: 14\nExtension: 81\n",
            "Eva Lind, Extension: 81 [1].",
        ),
        (
            "Who is the treasurer?",
            "Board\n\nOla Ek\nOffice: chair\nPhone: 1\n\nEva Lind\nOffice: treasurer\nPhone: 2\n",
            "Eva Lind, Office: treasurer [1].",
        ),
        (
            "When did the pump stop?",
            "2024-05-01 10:00:00 INFO valve opened\n2024-05-01 10:20:31 ERROR pump stopped, code 7\n"
            "2024-05-01 10:30:00 INFO valve closed\n",
            "2024-05-01 10:20:31 ERROR pump stopped, code 7 [1].",
        ),
        (
            "When was Alder Mill built?",
            "The village lies by a river.\n\nThe mill was built in 1821.\n\nReferences\n\n"
            '"When Alder Mill was built" (https://example.org/mill). Retrieved 3 May 2005.',
            "The mill was built in 1821 [1].",
        ),
    ],
)  # fmt: skip
def test_a_title_hands_its_words_to_what_follows(query: str, text: str, expected: str) -> None:
    """A heading, question, label, lead-in or comment is never the answer; what it names is."""
    assert ask(query, text).answer == expected


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        (
            "Where is the pool?",
            '[{"q": "Is there a pool?", "a": "The pool is on the roof of house 3."},'
            ' {"q": "Is there a lift?", "a": "There are two of them."}]',
            "The pool is on the roof of house 3 [1].",
        ),
        (
            "What is the port of the search service?",
            '{"services": {"login": {"net": {"port": 81}}, "search": {"net": {"port": 82}}}}',
            "services, search, net, port: 82 [1].",
        ),
        (
            "What is the port of the mail service?",
            '{"services": [\n {"name": "login", "port": 81},\n {"name": "mail", "port": 83}\n]}',
            "mail, port: 83 [1].",
        ),
        (
            "Which roles does the editor group have?",
            '{"groups": {"editor": {"roles": ["read", "write"]}, "guest": {"roles": ["read"]}}}',
            "- read [1].\n- write [1].",
        ),
    ],
)
def test_a_value_of_json_is_named_by_its_path(query: str, text: str, expected: str) -> None:
    """Keys above a value and short texts beside them tell one value from its namesakes."""
    response = ask(query, text)

    assert response.answer == expected
    assert text[slice(*response.citations[0].spans[0])] == response.citations[0].quote


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        (
            "What is not included in the price?",
            "Included are breakfast and towels.\n\nParking and drinks are excluded.",
            "Parking and drinks are excluded [1].",
        ),
        (
            "Who may not use the lift?",
            "Staff may use the lift.\n\nChildren alone may not use the lift.",
            "Children alone may not use the lift [1].",
        ),
        (
            "Who may use the lift?",
            "Children alone may not use the lift.\n\nStaff may use the lift.",
            "Staff may use the lift [1].",
        ),
        (
            "Is theft covered?",
            "Fire is covered.\n\nTheft is not covered.",
            "Theft is not covered [1].",
        ),
    ],
)
def test_polarity_counts(query: str, text: str, expected: str) -> None:
    """What is denied does not answer what is, and the other way round."""
    assert ask(query, text).answer == expected


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        (
            "Which torque for screw M-4/12?",
            "Screw M-4/1 gets 2 Nm.\n\nScrew M-4/12 gets 9 Nm.\n\nScrew M-14/12 gets 7 Nm.",
            "Screw M-4/12 gets 9 Nm [1].",
        ),
        (
            "What was the fee in 2023?",
            "The fee was 30 EUR in 2022. The fee was 35 EUR in 2023. The fee was 40 EUR in 2024.",
            "The fee was 35 EUR in 2023 [1].",
        ),
        (
            "What changed in version 2.1?",
            "## Version 2.10\n\nThe cache changed.\n\n## Version 2.1\n\nThe login changed.",
            "The login changed [1].",
        ),
        (
            "How often is the well tested?",
            "The well is 30 metres deep. It is tested every two months.",
            "The well is 30 metres deep. It is tested every two months [1].",
        ),
    ],
)
def test_numbers_and_names_asked_for_must_be_there(query: str, text: str, expected: str) -> None:
    """A year, a version, a part number stands in the answer or in what it stands under."""
    assert ask(query, text).answer == expected


def test_the_folder_counts_for_a_year() -> None:
    """A year in the file's path tells a document from its like."""
    found = ask("What did the pass cost in 2024?", "The pass costs 20 EUR.", source="2024/pass.md")
    other = ask("What did the pass cost in 2024?", "The pass costs 20 EUR.", source="2025/pass.md")

    assert found.support is not None
    assert other.support is not None
    assert found.support > other.support


@pytest.mark.parametrize(
    "query", ["How many legs does a newt have?", "How many eggs does a newt lay?"]
)
def test_the_number_of_something_needs_the_thing_and_a_number(query: str) -> None:
    """A sentence on the topic with another number is no answer."""
    text = "# Newts\n\nNewts live in two kinds of ponds. A newt has legs and lays eggs in spring."

    assert ask(query, text).finish_reason == "no_context"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Which town has the highest rainfall?", "town: Ulm, rainfall_mm: 1,080, founded: 1163"),
        ("Which town has the lowest rainfall?", "town: Jena, rainfall_mm: 590, founded: 1236"),
        ("Which is the oldest town?", "town: Ulm, rainfall_mm: 1,080, founded: 1163"),
    ],
)
def test_the_extreme_of_a_column_is_found(query: str, expected: str) -> None:
    """The row with the largest or smallest value answers, numbers read as numbers."""
    text = 'town,rainfall_mm,founded\nJena,590,1236\nUlm,"1,080",1163\nHof,760,1214\n'
    context = Context.model_validate(
        {
            "marker": 1, "chunk_id": "c", "document_id": "d", "text": text, "span": [0, len(text)],
            "score": 1.0, "scores": {"dense": 0.5},
            "tables": [{"span": [0, len(text)], "columns": ["town", "rainfall_mm", "founded"],
                        "delimiter": ","}],
        }
    )  # fmt: skip
    request = GenerateRequest(query=query, contexts=[context])
    response = generate(
        request,
        generators={"extractive": Extractive(min_support=MIN_SUPPORT)},
        default="extractive",
        no_context_text=NONE,
    )

    assert response.answer == f"{expected} [1]."


def test_parts_of_a_question_are_answered_in_turn() -> None:
    """Each part gets its best sentence, from whichever passage has it."""
    query = "Who approves a trip, and how long before must I book?"
    response = ask(query, "A trip is approved by the dean.", "Trips are booked two weeks before.")

    assert (
        response.answer
        == "A trip is approved by the dean [1]. Trips are booked two weeks before [2]."
    )


def test_a_part_without_an_answer_is_named() -> None:
    """The rest is answered, and a warning says which part is not."""
    query = "Who approves a trip, and how many volcanoes erupt yearly?"
    response = ask(query, "A trip is approved by the dean.")

    assert response.answer == "A trip is approved by the dean [1]."
    assert response.warnings == ["part_unanswered: how many volcanoes erupt yearly?"]


def test_a_sentence_that_begins_with_a_pronoun_brings_the_one_before() -> None:
    """The quote covers both sentences."""
    text = "A boat pass is needed on lake 2. It is renewed each spring."
    response = ask("When is the boat pass renewed?", text)

    assert response.answer == "A boat pass is needed on lake 2. It is renewed each spring [1]."
    assert response.citations[0].quote == text


@pytest.mark.parametrize(
    ("query", "faq", "other", "expected"),
    [
        (
            "How do I index a folder?",
            "### How do I index a folder?\n\n`tool add ./papers` reads all files in it.",
            "The function `index` builds the store of a folder.",
            "`tool add ./papers` reads all files in it [2].",
        ),
        (
            "How do I use a proxy server?",
            "Q: How do I use a proxy server?\nA: Set PROXY_URL and start again.",
            "A proxy server is a server that others use.",
            "Set PROXY_URL and start again [2].",
        ),
        (
            "How do I use a proxy server?",
            "## 4. How do I use a proxy server?\n\nSet PROXY_URL and start again.",
            "A proxy server is a server that others use.",
            "Set PROXY_URL and start again [2].",
        ),
        (
            "How can I pay by card?",
            "**How can I pay by card?** Hold it against the reader.",
            "Guests can pay by card in the shop.",
            "Hold it against the reader [2].",
        ),
        (
            "Wie kann ich die Rechnung bezahlen?",
            "## Wie kann ich die Rechnung bezahlen?\n\nPer Überweisung binnen 14 Tagen.",
            "Sie können die Rechnung prüfen und die Rechnung später bezahlen.",
            "Per Überweisung binnen 14 Tagen [2].",
        ),
    ],
)
def test_what_stands_below_the_same_question_answers_it(
    query: str, faq: str, other: str, expected: str
) -> None:
    """A sentence that shares more words with the question does not come before it."""
    assert ask(query, other, faq).answer == expected


def test_a_question_above_that_asks_less_is_another_one() -> None:
    """All the words of the question must stand in it."""
    faq = "### How do I index a folder?\n\nType `tool add`."
    other = "A folder on a remote server is indexed with `tool mount`."

    assert "mount" in ask("How do I index a folder on a remote server?", faq, other).answer


def test_titles_reach_down_to_the_next_of_their_kind() -> None:
    """Parts know the headings, labels and lead-ins they stand under."""
    text = "# A\n\nLead:\n\n- one\n- two\n\nAfter.\n\n## B\n\nEnd."
    context = Context(
        marker=1, chunk_id="c", document_id="d", text=text, span=[0, len(text)], score=1.0
    )

    titles = {text[slice(*part.sentence[:2])]: part.titles for part in passage_parts(context, [])}

    assert titles["one"] == ("A", "Lead:")
    assert titles["After."] == ("A",)
    assert titles["End."] == ("A", "B")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The infor-\nmation desk is near.", "The information desk is near [1]."),
        ("The desk is on the \ufb01rst \ufb02oor.", "The desk is on the first floor [1]."),
        (
            "The caf\u00adé desk opens at nine o\u00ad\nclock.",
            "The café desk opens at nine oclock [1].",
        ),
        ("> **Note:** The desk is\n> in repair.", "**Note:** The desk is in repair [1]."),
        (
            "> 90 % of the users of the desk are happy.",
            "> 90 % of the users of the desk are happy [1].",
        ),
        ("The desk needs 5 m².", "The desk needs 5 m² [1]."),
    ],
)
def test_an_answer_is_shown_as_people_write(text: str, expected: str) -> None:
    """Words are in one piece and quoting marks are gone; the quote keeps the passage's characters."""
    found = ask("What about the desk?", text, least=0.0)
    assert found.answer == expected
    (citation,) = found.citations
    assert citation.quote == text.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": ' + "[1, 2], " * 3000 + "%}", False),
        ('{"a": 1, ' + '"b" ' * 5000 + "half", False),
        ('["' + "\\\\" * 5000, False),
        ('{"a": ' + "[1, 2, null], " * 3000 + "}", True),
    ],
)
def test_a_long_line_is_told_from_json_in_one_pass(text: str, expected: bool) -> None:
    """Also when only its end is no JSON."""
    assert is_json(text) is expected


def test_a_line_above_lines_without_bullets_names_them() -> None:
    """Word keeps the bullets of a list to itself."""
    text = "Lockers are upstairs.\n\nNon-refundable costs\n\nLost keys\nFines\n\nContact\n\nWrite to Ana."
    assert ask("Which costs are not refunded?", text).answer == "- Lost keys [1].\n- Fines [1]."


@pytest.mark.parametrize(
    "query", ["Who pays for the roof?", "Who paid for the roof?", "By whom is the roof paid for?"]
)
def test_a_verb_is_known_in_each_of_its_forms(query: str) -> None:
    """`paid` has another stem than `pays`."""
    assert ask(query, "The roof was paid for by Elsa Berg. The door is blue.").answer == (
        "The roof was paid for by Elsa Berg [1]."
    )


def test_the_author_of_a_document_is_known_by_its_field() -> None:
    """What was written stands in the heading."""
    text = "# Tide tables\n\n**Author:** Ida Moen\n\nHigh water is at noon."
    assert ask("Who wrote the tide tables?", text, dense=0.2).answer.startswith(
        "**Author:** Ida Moen [1]"
    )
