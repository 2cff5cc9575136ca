"""What a question asks for, by its question words, and what a sentence that answers then holds.

One row a language: when, how often, how many or much, who, where. German has no row for who: all its nouns
are capitalised, so names are not told from other words.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rag_kit.languages import ENGLISH

_DIGITS = "[0-9]"
_YEAR = "1[0-9]{3}|20[0-9]{2}"
_NAME = re.compile(r"(?<=[\w,;(] )[A-Z][a-z]+")
_NAME_ABROAD = re.compile(r"(?<=[\w,;(’'] )[A-ZÀ-Þ][a-zß-ÿ]+")


class Kind(NamedTuple):
    """A kind of question."""

    question: re.Pattern[str]
    answer: re.Pattern[str]  # stands in a sentence that answers
    is_number: bool = False  # without it a sentence hardly answers


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{text})\b", re.IGNORECASE)


def _number(text: str) -> re.Pattern[str]:
    return re.compile(rf"{_DIGITS}|\b(?:{text})\b", re.IGNORECASE)


def _time(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_YEAR}|[0-9]{{1,2}}[:.h][0-9]{{2}}|{text})\b", re.IGNORECASE)


NUMBER = _number(
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|hundred|thousand|million|billion|dozen)s?|half|third|quarter|single|both|pair|couple|several|none"
    r"|once|twice|no limit|unlimited"
)
KINDS: dict[str, tuple[Kind, ...]] = {
    ENGLISH: (
        Kind(
            _words("when|what (?:year|date|day|month)|how old"),
            _words(
                f"{_YEAR}|january|february|march|april|may|june|july|august|september|october|november"
                "|december|century|today|monday|tuesday|wednesday|thursday|friday|saturday|sunday"
            ),
        ),
        Kind(
            _words("how (?:often|frequently)"),
            _words(
                "every|each|once|twice|times|daily|weekly|monthly|yearly|annual(?:ly)?|quarterly|hourly"
                "|per|an? (?:day|week|month|year)"
            ),
        ),
        Kind(
            _words("how (?:many|much|long|far|tall|big|high|old|fast|deep|wide|large|heavy)"),
            NUMBER,
            True,
        ),
        Kind(_words("who(?:se|m)?"), _NAME),
        Kind(
            _words("what happens|what if"),
            _words("if|when|unless|in case|in the event|late|failure|otherwise"),
        ),
        Kind(
            _words("where"), re.compile(r"\b(?:in|at|near|on|under|from|to|of) (?:the )?[A-Z`$/~]")
        ),
    ),
    "german": (
        Kind(
            _words(
                "wann|(?:in|an|seit|ab|bis) welche[mnrs] (?:jahre?|monat|tag|datum|woche)|welches jahr"
            ),
            _time(
                "januar|februar|märz|april|mai|juni|juli|august|september|oktober|november|dezember"
                r"|(?:mon|diens|donners|frei|sams|sonn)tags?|mittwochs?|sonnabends?|jahrhunderts?"
                "|[0-9]{1,2} uhr|heute|täglich|werktags"
            ),
        ),
        Kind(
            _words("wie (?:oft|häufig)"),
            _words(
                r"jede[nrsm]?|alle|einmal|zweimal|dreimal|\w*mal|täglich|wöchentlich|monatlich|jährlich|pro|je"
            ),
        ),
        Kind(
            _words("wie ?viele?|wie (?:lange?|weit|groß|hoch|alt|schnell|tief|breit|schwer|teuer)"),
            _number(
                "eins|eine[nrm]?|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf|zwanzig|dreißig|hundert"
                r"|tausend|millionen?|milliarden?|dutzend|halbe?[nrs]?|\w+zehn|\w+zig|kein\w*|mehrere|beide"
                "|unbegrenzt"
            ),
            True,
        ),
        Kind(
            _words("wo|wohin|woher"),
            _words(
                "im|am|beim|zum|zur|(?:in|an|auf|bei|unter|neben|hinter|vor|über|zwischen) "
                "(?:de[mnr]|eine[mnr])|in|aus|nach|nahe"
            ),
        ),
    ),
    "french": (
        Kind(
            _words("quand|(?:en|de) quelle année|à quelle (?:date|heure)|quels? (?:jours?|mois)"),
            _time(
                "janvier|février|mars|avril|mai|juin|juillet|août|septembre|octobre|novembre|décembre|siècle"
                "|(?:lun|mar|mercre|jeu|vendre|same)di|dimanche|[0-9]{1,2} ?h(?:eures?)?|aujourd'hui"
            ),
        ),
        Kind(
            _words("à quelle fréquence|combien de fois"),
            _words(
                "chaque|tous les|toutes les|fois|par|quotidien\\w*|hebdomadaire|mensuel\\w*|annuel\\w*"
            ),
        ),
        Kind(
            _words(
                "combien|quel âge|quelle (?:est la )?(?:taille|hauteur|longueur|distance|largeur|profondeur)"
            ),
            _number(
                "une?|deux|trois|quatre|cinq|six|sept|huit|neuf|dix|onze|douze|treize|quatorze|quinze|seize|vingt"
                "|trente|quarante|cinquante|soixante|cents?|mille|millions?|milliards?|douzaine|moitié|demie?"
                "|aucune?|plusieurs"
            ),
            True,
        ),
        Kind(_words("qui|de qui|à qui"), _NAME_ABROAD),
        Kind(
            re.compile(r"\boù\b", re.IGNORECASE),
            _words("à|au|aux|dans|en|chez|sur|sous|près d[eu]|derrière|devant|entre"),
        ),
    ),
    "spanish": (
        Kind(
            _words("cu[aá]ndo|(?:en|de) qué (?:año|fecha|mes|día)|qué (?:día|año)|a qué hora"),
            _time(
                "enero|febrero|marzo|abril|mayo|junio|julio|agosto|sep?tiembre|octubre|noviembre|diciembre|siglo"
                "|lunes|martes|miércoles|jueves|viernes|sábados?|domingos?|hoy"
            ),
        ),
        Kind(
            _words("(?:con qué|cada cuánt[oa]) ?(?:frecuencia|tiempo)?|cuántas veces"),
            _words(
                "cada|todos los|todas las|vez|veces|por|diari\\w*|semanal\\w*|mensual\\w*|anual\\w*"
            ),
        ),
        Kind(
            _words("cu[aá]nt[oa]s?|qué (?:edad|altura|distancia|tamaño|longitud)"),
            _number(
                "un[oa]?|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|once|doce|trece|catorce|quince|veinte"
                "|treinta|cuarenta|cincuenta|cien(?:to)?|mil|mill[oó]n(?:es)?|docena|mitad|medi[oa]|ningun[oa]"
                "|vari[oa]s"
            ),
            True,
        ),
        Kind(_words("qui[eé]n(?:es)?"), _NAME_ABROAD),
        Kind(_words("a?d[oó]nde"), _words("en|al?|cerca de|sobre|bajo|junto a|detrás de|entre")),
    ),
    "italian": (
        Kind(
            _words(
                "quando|(?:in|di) (?:che|quale) (?:anno|data|mese|giorno)|(?:che|quale) giorno|a che ora"
            ),
            _time(
                "gennaio|febbraio|marzo|aprile|maggio|giugno|luglio|agosto|settembre|ottobre|novembre|dicembre"
                "|secolo|(?:lune|marte|mercole|giove|vener)dì|sabato|domenica|oggi"
            ),
        ),
        Kind(
            _words("ogni quanto|quante volte|con (?:che|quale) frequenza"),
            _words(
                "ogni|tutti i|tutte le|volt[ae]|al|giornalier\\w*|settimanal\\w*|mensil\\w*|annual\\w*"
            ),
        ),
        Kind(
            _words("quant[oaie]|che (?:età|altezza|distanza|lunghezza)"),
            _number(
                "un[oa]?|due|tre|quattro|cinque|sei|sette|otto|nove|dieci|undici|dodici|quindici|venti|trenta"
                "|quaranta|cinquanta|cento|mille|mila|milion[ei]|miliard[oi]|dozzina|metà|mezz[oa]|nessun[oa]"
            ),
            True,
        ),
        Kind(_words("chi"), _NAME_ABROAD),
        Kind(
            re.compile(r"\bdov(?:e\b|['’]è)", re.IGNORECASE),
            _words(
                "a|ad|al(?:la|lo|l)?|in|nel(?:la|lo|l)?|presso|vicino a|su(?:l|lla)?|sotto|dietro|tra"
            ),
        ),
    ),
    "portuguese": (
        Kind(
            _words("quando|(?:em|de) que (?:ano|data|mês|dia)|que dia|a que horas"),
            _time(
                "janeiro|fevereiro|março|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro|século"
                "|(?:segunda|terça|quarta|quinta|sexta)(?:-feira)?s?|sábados?|domingos?|hoje"
            ),
        ),
        Kind(
            _words("quantas vezes|com que frequência"),
            _words(
                "cada|todos os|todas as|vez|vezes|por|diári\\w*|semanal\\w*|mensal\\w*|anual\\w*"
            ),
        ),
        Kind(
            _words("quant[oa]s?|que (?:idade|altura|distância|comprimento)"),
            _number(
                "uma?|dois|duas|três|quatro|cinco|seis|sete|oito|nove|dez|onze|doze|quinze|vinte|trinta|quarenta"
                "|cinquenta|cem|cento|mil|milh(?:ão|ões)|dúzia|metade|mei[oa]|nenhuma?|vári[oa]s"
            ),
            True,
        ),
        Kind(_words("quem"), _NAME_ABROAD),
        Kind(
            _words("a?onde"),
            _words("em|n[oa]s?|ao?s?|à|perto d[eoa]|sobre|sob|junto a|atrás d[eoa]|entre"),
        ),
    ),
    "dutch": (
        Kind(
            _words("wanneer|(?:in|op|vanaf|sinds) welke? (?:jaar|maand|dag|datum)|hoe laat"),
            _time(
                "januari|februari|maart|april|mei|juni|juli|augustus|september|oktober|november|december|eeuw"
                "|(?:maan|dins|woens|donder|vrij|zater|zon)dags?|[0-9]{1,2} uur|vandaag"
            ),
        ),
        Kind(
            _words("hoe (?:vaak|dikwijls)"),
            _words(
                "elke?|iedere?|keer|maal|per|dagelijks\\w*|wekelijks\\w*|maandelijks\\w*|jaarlijks\\w*"
            ),
        ),
        Kind(
            _words("hoeveel|hoe (?:lang|ver|groot|hoog|oud|snel|diep|breed|zwaar|duur)"),
            _number(
                "één|een|twee|drie|vier|vijf|zes|zeven|acht|negen|tien|elf|twaalf|vijftien|twintig|dertig|veertig"
                "|vijftig|honderd|duizend|miljoen|miljard|dozijn|helft|halve?|geen|meerdere"
            ),
            True,
        ),
        Kind(_words("wie|wiens"), _NAME_ABROAD),
        Kind(
            _words("waar|waarheen|waarvandaan"),
            _words("in|op|bij|naast|onder|te|aan|naar|achter|tussen|uit"),
        ),
    ),
}


def kinds_asked(query: str, language: str) -> tuple[Kind, ...]:
    """Return the kinds of a question; none in a language without a row."""
    return tuple(kind for kind in KINDS.get(language, ()) if kind.question.search(query))
