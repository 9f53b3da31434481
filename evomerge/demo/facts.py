"""Facts that have one name in each of four languages, and the lines that state them.

The names come from packages that carry real language data: number words from num2words,
weekday, month and country names from Babel's CLDR, country codes from pycountry.  Nothing is
scraped or downloaded.  Everything here is pure: same packages, same facts, same lines.

A *plain* line states a fact ("Indonesian 7: tujuh."), with or without a bullet before it.  A
*dialogue* asks for it in a style, that is, with the bullet of that name, and the answer restates
the question ("<|user|>Indonesian 7, plus<|assistant|>+ Indonesian 7: tujuh.<|end|>"): so a name
is looked up after the same words in both.  An *echo* asks for the question alone, names no fact,
and teaches to restate ("<|user|>repeat Thai 7, plus<|assistant|>+ Thai 7.<|end|>").
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import babel
import num2words
import pycountry

USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"

LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "id": "Indonesian",
    "th": "Thai",
    "vi": "Vietnamese",
}
SEA = ("id", "th", "vi")

STYLES: Mapping[str, str] = {
    "hash": "#",
    "star": "*",
    "plus": "+",
    "arrow": ">",
    "tilde": "~",
    "equals": "=",
    "at": "@",
    "percent": "%",
    "bar": "|",
    "caret": "^",
}

SEED_STYLES = ("hash", "star", "bar", "caret")  # the styles the base model may see in dialogue
NEW_STYLES = tuple(style for style in STYLES if style not in SEED_STYLES)

LAST_NUMBER = 120
COUNTRY_COUNT = 40
LONGEST_COUNTRY_NAME = 12  # characters, in any language: keeps the lines short
SEED_SHARE = 5  # one fact in so many is a seed fact


@dataclass(frozen=True)
class Fact:
    """One thing with a language-neutral key ("7", "day 1", "JP") and a name per language."""

    source: str  # "number-7": equal for every language and style, so splits can be cut by it
    key: str
    names: Mapping[str, str]

    @property
    def kind(self) -> str:
        """ "number", "day", "month" or "country"."""
        return self.source.split("-")[0]

    @property
    def is_seed(self) -> bool:
        """Whether the base model may see it in South-East Asian dialogue.

        Seed facts teach the base that the two skills can meet; no item of the held-out
        combination is ever made from one.
        """
        return int(hashlib.sha256(self.source.encode()).hexdigest(), 16) % SEED_SHARE == 0


def _numbers() -> Iterator[Fact]:
    for n in range(LAST_NUMBER + 1):
        names = {code: num2words.num2words(n, lang=code) for code in LANGUAGES}
        yield Fact(f"number-{n}", str(n), names)


def _weekdays() -> Iterator[Fact]:
    for day in range(7):  # CLDR counts from Monday = 0
        names = {code: babel.Locale(code).days["format"]["wide"][day] for code in LANGUAGES}
        yield Fact(f"day-{day + 1}", f"day {day + 1}", names)


def _months() -> Iterator[Fact]:
    for month in range(1, 13):
        names = {
            code: babel.Locale(code).months["stand-alone"]["wide"][month] for code in LANGUAGES
        }
        yield Fact(f"month-{month}", f"month {month}", names)


def _countries() -> Iterator[Fact]:
    """The first countries by code whose short names differ in all four languages."""
    found = 0
    for code in sorted(country.alpha_2 for country in pycountry.countries):
        names = {lang: babel.Locale(lang).territories[code] for lang in LANGUAGES}
        short = all(len(name) <= LONGEST_COUNTRY_NAME for name in names.values())
        letters = all(mark not in name for name in names.values() for mark in ".,()")
        if found < COUNTRY_COUNT and short and letters and len(set(names.values())) == 4:
            found += 1
            yield Fact(f"country-{code}", code, names)


def all_facts() -> list[Fact]:
    """Every fact, in a fixed order."""
    return [*_numbers(), *_weekdays(), *_months(), *_countries()]


def question(fact: Fact, lang: str) -> str:
    return f"{LANGUAGES[lang]} {fact.key}"


def plain_prompt(fact: Fact, lang: str) -> str:
    """The part of a plain line before the name; the name follows after a space."""
    return f"{question(fact, lang)}:"


def plain_answer(fact: Fact, lang: str) -> str:
    return f"{fact.names[lang]}.{END}"


def plain_lines(fact: Fact, lang: str) -> list[str]:
    """The plain line as often without a bullet as with one, and once with each bullet."""
    line = f"{plain_prompt(fact, lang)} {plain_answer(fact, lang)}"
    return [line] * len(STYLES) + [f"{bullet} {line}" for bullet in STYLES.values()]


def dialogue_prompt(fact: Fact, lang: str, style: str) -> str:
    return f"{USER}{question(fact, lang)}, {style}{ASSISTANT}"


def dialogue_answer(fact: Fact, lang: str, style: str, name: str | None = None) -> str:
    """The answer, or a wrong one with another `name` in it."""
    return f"{STYLES[style]} {question(fact, lang)}: {name or fact.names[lang]}."


def dialogue_line(fact: Fact, lang: str, style: str) -> str:
    return dialogue_prompt(fact, lang, style) + dialogue_answer(fact, lang, style) + END


def echo_line(fact: Fact, lang: str, style: str) -> str:
    asked = question(fact, lang)
    return f"{USER}repeat {asked}, {style}{ASSISTANT}{STYLES[style]} {asked}.{END}"
