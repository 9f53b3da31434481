"""Degenerate answers are recognised; lists, tables and refrains are not."""

from __future__ import annotations

import pytest

from evomerge.scorers.signals import repetitive

BROKEN = {
    "empty": " \n",
    "word": "the " * 20,
    "sentence": "The answer is 5. " * 6,
    "late": "So 3 + 4 = 7.\n" + "She has 7 apples left.\n" * 9 + "She has",
    "thai": "คำตอบคือห้า" * 5,
    "undecodable": "\ufffd" * 40,
}
SOUND = {
    "short": "ha ha ha",
    "list": "".join(f"{n}. {word}\n" for n, word in enumerate(["tea", "milk", "rice", "salt"], 1)),
    "table": "".join(f"7 x {n} = {7 * n}\n" for n in range(1, 30)),
    "templated list": "".join(
        f"- The capital of {country} is {city}.\n"
        for country, city in [
            ("Thailand", "Bangkok"),
            ("Vietnam", "Hanoi"),
            ("Indonesia", "Jakarta"),
            ("Laos", "Vientiane"),
            ("Malaysia", "Kuala Lumpur"),
        ]
    ),
    "poem": (
        "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\n"
        "Life is but a dream.\n"
    )
    * 2,
    "thai": "มีเด็กชายสิบสองคนและเด็กหญิงสิบห้าคน ดังนั้นมีเด็กทั้งหมดยี่สิบเจ็ดคน",
    "stammer": "It was a very, very, very, very, very, very long day, and she went home early that day.",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_loops_and_silence_are_repetitive(text: str) -> None:
    assert repetitive(text)


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_lists_tables_and_poems_are_not(text: str) -> None:
    assert not repetitive(text)
