"""What a first search is chosen to be, from facts alone."""

from __future__ import annotations

import pytest

from evomerge.commands.choice import Facts, Wishes, choose
from evomerge.errors import InputError

BASE = Facts("base", "Qwen/Qwen1.5-7B", 7_700_000_000)
CHAT = Facts("chat", "Qwen/Qwen1.5-7B-Chat", 7_700_000_000, template=True)
SEA = Facts("sea", "sail/Sailor-7B", 7_700_000_000, ("id", "th", "vi", "en"))


def test_a_chat_model_and_one_of_languages() -> None:
    choice = choose(BASE, [CHAT, SEA], Wishes())
    assert (choice.tokenizer, choice.space) == ("chat", "multilingual-instruct")
    assert (choice.fitness, choice.evaluations) == ("sea-plus-instruct", 100)
    assert set(choice.why) == {"tokenizer", "space", "fitness", "budget"}
    assert "id, th, vi" in choice.why["fitness"]


def test_what_the_user_says_goes() -> None:
    wishes = Wishes("soup", "demo", evaluations=17)
    choice = choose(BASE, [CHAT, SEA], wishes)
    assert (choice.space, choice.fitness, choice.evaluations) == ("soup", "demo", 17)


def test_floors_need_their_name() -> None:
    helpful = Facts("helpful", "org/model-instruct", 10**9, template=True)
    with pytest.raises(InputError, match=r"--source chat=org/model-instruct in place of"):
        choose(BASE, [helpful, SEA], Wishes())
    assert choose(BASE, [helpful, SEA], Wishes(fitness="multilingual-math")).tokenizer == "helpful"


def test_languages_that_a_chat_model_knows_too_do_not_make_it_the_other() -> None:
    both = Facts("other", "sail/Sailor-7B-Chat", 7_700_000_000, ("id", "th", "vi"), template=True)
    assert choose(BASE, [both, CHAT], Wishes()).tokenizer == "chat"


@pytest.mark.parametrize(
    ("sources", "fitness"),
    [
        ([CHAT], "instruct"),
        ([CHAT, Facts("maths", "org/maths", 10**9)], "instruct"),
        ([Facts("long", "org/R1-distill", 10**9), Facts("short", "org/b", 10**9)], "long2short"),
        ([Facts("ja", "org/a", 10**9), Facts("de", "org/b", 10**9)], "multilingual-math"),
    ],
)
def test_fitness_by_what_the_models_are(sources: list[Facts], fitness: str) -> None:
    assert choose(BASE, sources, Wishes()).fitness == fitness


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([BASE, Facts("a", "org/a", 10**9), Facts("b", "org/b", 10**9)], "--texts NAME=FILE"),
        ([BASE, Facts("korean", "org/b", 10**9)], r"\(ko\) are in none"),
        ([BASE, Facts("e", "org/e", 10**9, has_head=False)], "no head over tokens"),
    ],
)
def test_nothing_fits(models: list[Facts], told: str) -> None:
    with pytest.raises(InputError, match=told):
        choose(models[0], models[1:], Wishes())
    texts = {"law": "law.txt"}
    choice = choose(models[0], models[1:], Wishes(texts=texts))
    assert choice.fitness is None and choice.texts == texts


def test_texts_and_a_fitness_file_are_two_goals() -> None:
    with pytest.raises(InputError, match="give one of the two"):
        choose(BASE, [CHAT], Wishes(fitness="demo", texts={"a": "a.txt"}))


def test_tokens_that_the_base_lacks() -> None:
    more = Facts("thai", "org/thai", 10**9, more_tokens=900)
    texts = Wishes(texts={"a": "a.txt"})
    assert choose(BASE, [more], texts).tokenizer == "union"
    both = choose(BASE, [CHAT, more], texts)
    assert both.tokenizer == "chat" and "only thai has" in both.why["tokenizer"]
    assert choose(BASE, [SEA], texts).tokenizer == "base"


def test_a_vision_model_gives_the_kind() -> None:
    seeing = Facts("vl", "org/vl", 10**9, vision=True)
    choice = choose(BASE, [seeing, SEA], Wishes(texts={"a": "a.txt"}))
    assert (choice.tokenizer, choice.space) == ("vl", "vlm_text_backbone")


def test_spaces_by_how_many_and_how_long() -> None:
    texts = {"a": "a.txt"}
    siblings = [Facts(name, f"org/{name}", 10**9) for name in ("one", "two", "three")]
    assert choose(BASE, siblings, Wishes(texts=texts)).space == "soup"
    assert choose(BASE, siblings[:2], Wishes(texts=texts)).space == "blocks"
    assert choose(BASE, siblings[:2], Wishes(texts=texts, evaluations=40)).space == "lines"
    assert choose(BASE, siblings[:1], Wishes(texts=texts, evaluations=40)).space == "blocks"


@pytest.mark.parametrize(
    ("parameters", "evaluations"),
    [(135_000_000, 200), (3 * 10**9, 150), (8 * 10**9, 100), (70 * 10**9, 60)],
)
def test_larger_models_get_fewer_evaluations(parameters: int, evaluations: int) -> None:
    base = Facts("base", "org/base", parameters)
    assert choose(base, [CHAT], Wishes()).evaluations == evaluations
