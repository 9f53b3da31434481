"""Near-duplicates are found across scorers; what is made from one template is none."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from evomerge.suite.duplicates import find_duplicates
from evomerge.suite.scorer import Item
from evomerge.suite.splits import SPLITS, assign

APPLES = "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May. How many clips did she sell altogether in April and May?"
WORDS = [f"w{n}x" for n in range(4000)]


def inventory(*texts: str, name: str = "a") -> list[Item]:
    return [Item(f"{name}{n}", f"{name}-{n}", text=text) for n, text in enumerate(texts)]


def passage(seed: int, words: int = 30) -> str:
    return " ".join(random.Random(seed).sample(WORDS, words))


FILLER = [passage(seed) for seed in range(100)]


def grouped(**items: Sequence[Item]) -> list[tuple[str, ...]]:
    return [group.sources for group in find_duplicates(items)]


@pytest.mark.parametrize(
    "copy",
    [
        APPLES.upper().replace(" ", "  "),
        APPLES.replace("Natalia", "Natasha"),
        "Read carefully. " + APPLES + " Answer with one number.",
    ],
)
def test_copies_are_found_across_scorers(copy: str) -> None:
    a, b = inventory(APPLES, *FILLER[:50]), inventory(copy, *FILLER[50:], name="b")
    assert grouped(a=a, b=b) == grouped(b=b, a=a[::-1]) == [("a-0", "b-0")]


def test_copies_are_found_in_a_script_without_spaces() -> None:
    thai = "มีเด็กชายสิบสองคนและเด็กหญิงสิบห้าคนในห้องเรียนนี้ รวมทั้งหมดกี่คน"
    texts = [thai, thai.replace("สิบสอง", "สิบสาม"), "เธอขายแอปเปิ้ลครึ่งหนึ่งในตอนเช้าและที่เหลือในตอนเที่ยง"]
    assert grouped(a=inventory(*texts)) == [("a-0", "a-1")]


def test_items_of_one_template_are_no_copies() -> None:
    prompts = [f"<|user|>Thai {n}, {style}<|assistant|>" for n in range(50) for style in "ab"]
    sums = [f"Question: What is {n} + {n % 7}? Think step by step.\nAnswer:" for n in range(100)]
    assert grouped(a=inventory(*prompts), b=inventory(*sums, name="b")) == []


def test_what_all_items_say_is_boilerplate() -> None:
    assert grouped(a=inventory(*["Complete the sentence."] * 30)) == []
    few_shot = passage(1, 200)
    assert grouped(a=inventory(*(f"{few_shot} {text}" for text in FILLER[:30]))) == []


def test_questions_about_one_passage_belong_together() -> None:
    texts = [f"{passage(n // 3, 60)} {passage(1000 + n, 5)}" for n in range(60)]
    groups = grouped(a=inventory(*texts))
    assert len(groups) == 20 and all(len(group) == 3 for group in groups)


def test_no_split_holds_a_copy_of_anothers_item() -> None:
    pairs = {"a": inventory(*FILLER), "b": inventory(*FILLER, name="b")}
    found = assign(pairs)
    for split in SPLITS:
        mine, theirs = ([id[1:] for id in found[split][name]] for name in pairs)
        assert mine == theirs, "copies keep step, like translations"
    alone = assign({"a": pairs["a"]})
    moved = [id for split in SPLITS for id in found[split]["a"] if id not in alone[split]["a"]]
    assert 0 < len(moved) < 60, "about half of the groups fall where the other copy falls"


def test_a_fixed_split_is_kept() -> None:
    items = [Item(split, split, split=split, text=APPLES) for split in SPLITS]
    assert assign({"f": items}) == {split: {"f": [split]} for split in SPLITS}
