"""Signs of a broken text, worked out from one answer alone: cut short, repetitive, of another language."""

from __future__ import annotations

ROUNDS = 4  # a loop goes round at least this often ...
SHORTEST = 24  # ... and is at least this many characters long: "ha ha ha" is an answer


def repetitive(text: str) -> bool:
    """Whether an answer is empty, or for its greater part ends in a loop.

    A loop is one stretch of characters over and over, up to the end of the text: words need not be
    separated, and what merely resembles itself (a list, a refrain) is none.
    """
    backwards = " ".join(text.split())[::-1]
    if not backwards:
        return True
    return any(
        length >= max(SHORTEST, ROUNDS * period, len(backwards) / 2)
        for length, period in enumerate(_periods(backwards), start=1)
    )


def _periods(text: str) -> list[int]:
    """The smallest period of each prefix of ``text``, by the failure function.

    Paper: Knuth, Morris & Pratt, "Fast pattern matching in strings", SIAM J. Comput. 6 (1977).
    """
    borders = [0] * len(text)
    border = 0
    for end in range(1, len(text)):
        while border and text[end] != text[border]:
            border = borders[border - 1]
        if text[end] == text[border]:
            border += 1
        borders[end] = border
    return [end + 1 - border for end, border in enumerate(borders)]
