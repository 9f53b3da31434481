"""Is a text in the language that was asked for? Answered by py3langid, whose model ships with it.

Only languages that people write a lot in compete: a short text resembles some small language by
chance more often than it is in it. The language asked for gets the benefit of the doubt. So judged,
cut-outs of 40 characters of Indonesian, Thai, Vietnamese and English text are called off-language
by mistake about once in a hundred times, of 200 characters never.

Papers: Lui & Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", ACL 2012,
    https://aclanthology.org/P12-3005.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from evomerge.errors import InputError, did_you_mean

_CODES = """
af am ar as az be bg bn bs ca cs cy da de el en es et eu fa fi fr ga gl gu ha he hi hr hu
hy id ig is it ja ka kk km kn ko ky lo lt lv mg mk ml mn mr ms my ne nl no or pa pl ps pt
ro ru rw si sk sl so sq sr sv sw ta te th tl tr uk ur uz vi xh yo zh zu
"""
LANGUAGES = tuple(_CODES.split())
"""ISO 639-1 codes of the languages told apart."""

# Too alike to tell a paragraph of one from the other: each passes for the others.
_ALIKE = ({"id", "ms"}, {"bs", "hr", "sr"})
_LETTERS = 20  # fewer say nothing
_DOUBT = 3.0  # times as likely that another language must be


def check_language(code: str) -> None:
    """Refuse a language that cannot be recognised.

    Raises:
        InputError: ``code`` is none of ``LANGUAGES``.
    """
    if code not in LANGUAGES:
        raise InputError(
            f"unknown language {code!r}{did_you_mean(code, LANGUAGES)}; expected an ISO 639-1 code, "
            f"one of: {', '.join(LANGUAGES)}"
        )


def off_language(text: str, language: str) -> bool | None:
    """Whether ``text`` is in another language than ``language``; None if it is too short to tell.

    Args:
        text: whatever a model wrote. Digits, punctuation and symbols do not count.
        language: one of ``LANGUAGES``. Indonesian passes for Malay, Bosnian for Croatian and for
            Serbian, and the other way round: short texts do not tell them apart.

    Raises:
        InputError: an unknown language.
    """
    check_language(language)
    words = "".join(letter if _is_letter(letter) else " " for letter in text).split()
    if sum(map(len, words)) < _LETTERS:
        return None
    likely: dict[str, float] = dict(_identifier().rank(" ".join(words)))
    accepted = next((alike for alike in _ALIKE if language in alike), {language})
    return max(likely.values()) > _DOUBT * max(likely[code] for code in accepted)


def _is_letter(character: str) -> bool:
    """Letters, and the marks that Thai, Hindi, ... put above and below them."""
    return unicodedata.category(character)[0] in "LM" or character in "'’"


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
