"""Language identification on real sentences; Indonesian against Malay above all."""

from __future__ import annotations

import itertools

import pytest

from evomerge.errors import InputError
from evomerge.suite.language import LANGUAGES, _identifier, check_language, off_language

SENTENCES = {
    "en": [
        "She sold half of her apples in the morning and the rest at noon.",
        "There are 12 boys and 15 girls, so 12 + 15 = 27 children in all.",
        "The answer is 18 dollars, because every ticket costs 6 dollars.",
    ],
    "id": [
        "Dia menjual setengah apelnya pada pagi hari dan sisanya pada siang hari.",
        "Ada 12 anak laki-laki dan 15 anak perempuan, jadi 12 + 15 = 27 anak semuanya.",
        "Jawabannya adalah 18 dolar, karena setiap tiket berharga 6 dolar.",
    ],
    "th": [
        "เธอขายแอปเปิ้ลครึ่งหนึ่งในตอนเช้าและที่เหลือในตอนเที่ยง",
        "มีเด็กชาย 12 คนและเด็กหญิง 15 คน ดังนั้นมีเด็กทั้งหมด 12 + 15 = 27 คน",
        "คำตอบคือ 18 ดอลลาร์ เพราะตั๋วแต่ละใบราคา 6 ดอลลาร์",
    ],
    "vi": [
        "Cô ấy bán một nửa số táo vào buổi sáng và phần còn lại vào buổi trưa.",
        "Có 12 bé trai và 15 bé gái, vậy có tất cả 12 + 15 = 27 đứa trẻ.",
        "Câu trả lời là 18 đô la, vì mỗi vé có giá 6 đô la.",
    ],
}


@pytest.mark.parametrize(("asked", "written"), list(itertools.product(SENTENCES, SENTENCES)))
def test_tells_the_language_asked_for_from_others(asked: str, written: str) -> None:
    for sentence in SENTENCES[written]:
        assert off_language(sentence, asked) is (asked != written), sentence


def test_indonesian_and_malay_pass_for_each_other() -> None:
    malay = "Budak lelaki itu membeli sebuah basikal dengan wang yang disimpan selama setahun."
    for sentence in [malay, *SENTENCES["id"]]:
        assert off_language(sentence, "id") is False
        assert off_language(sentence, "ms") is False


def test_says_nothing_of_what_holds_few_letters() -> None:
    assert off_language("12 + 15 = 27", "th") is None
    assert off_language("Jakarta.", "en") is None
    assert off_language("", "id") is None


def test_marks_above_and_below_letters_belong_to_words() -> None:
    assert off_language("ที่นี่มีน้ำผึ้งนี่ก็ใช่", "th") is False


def test_knows_every_language_it_offers() -> None:
    assert set(LANGUAGES) <= set(_identifier().labels)


def test_an_unknown_code_is_refused_with_what_is_known() -> None:
    check_language("th")
    with pytest.raises(InputError, match=r"'jp'.*ISO 639-1.* ja,"):
        check_language("jp")
