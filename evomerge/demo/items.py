"""Evaluation items of the demo tasks: prompts, four choices or a target, and their source.

Distractors are built so that neither half of a skill is enough: for a dialogue, one choice has
the right name in the wrong style, one the wrong name in the right style, and one the right
style in the wrong language.  The held-out combination uses no seed fact and no seed style, so
no model was ever trained on any of its items.  Items are drawn with a fixed seed.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.demo import facts
from evomerge.demo.facts import END, LANGUAGES, NEW_STYLES, SEA, STYLES, Fact

Item = dict[str, Any]
SEED = 7


def _neighbours(fact: Fact, everything: Sequence[Fact], lang: str) -> list[Fact]:
    """Facts easily taken for this one: near numbers, else any of the same kind."""
    same = [f for f in everything if f.kind == fact.kind and f.names[lang] != fact.names[lang]]
    if fact.kind != "number":
        return same
    n = int(fact.key)
    return [f for f in same if abs(int(f.key) - n) in (1, 2, 10, 20)]


def _choice_item(head: Item, right: str, wrong: Sequence[str], rng: random.Random) -> Item:
    choices = [right, *wrong]
    if len(set(choices)) != 4:
        raise ValueError(f"{head['id']}: two choices are equal: {choices}")
    rng.shuffle(choices)
    return {**head, "choices": choices, "answer": choices.index(right)}


def _dialogue_item(
    fact: Fact, lang: str, style: str, pool: Sequence[Fact], rng: random.Random
) -> Item:
    """Wrong style, wrong fact, wrong language: one distractor each."""
    head = {
        "id": f"{fact.source}-{lang}-{style}",
        "source": fact.source,
        "lang": lang,
        "style": style,
        "prompt": facts.dialogue_prompt(fact, lang, style),
    }
    other_style = rng.choice([s for s in STYLES if s != style])
    other_fact = rng.choice(_neighbours(fact, pool, lang))
    languages = [c for c in LANGUAGES if fact.names[c] != fact.names[lang]]
    other_lang = "en" if "en" in languages else rng.choice(languages)
    wrong = (
        facts.dialogue_answer(fact, lang, other_style) + END,
        facts.dialogue_answer(fact, lang, style, other_fact.names[lang]) + END,
        facts.dialogue_answer(fact, lang, style, fact.names[other_lang]) + END,
    )
    return _choice_item(head, facts.dialogue_answer(fact, lang, style) + END, wrong, rng)


def _plain_item(fact: Fact, lang: str, pool: Sequence[Fact], rng: random.Random) -> Item:
    """Two neighbouring facts in the right language, and the right fact in a wrong one."""
    head = {
        "id": f"{fact.source}-{lang}-plain",
        "source": fact.source,
        "lang": lang,
        "prompt": facts.plain_prompt(fact, lang),
    }
    others = rng.sample(_neighbours(fact, pool, lang), 2)
    other_lang = rng.choice([c for c in LANGUAGES if fact.names[c] != fact.names[lang]])
    wrong = (*(facts.plain_answer(o, lang) for o in others), facts.plain_answer(fact, other_lang))
    return _choice_item(head, facts.plain_answer(fact, lang), wrong, rng)


def _write_item(fact: Fact, lang: str, style: str) -> Item:
    return {
        "id": f"{fact.source}-{lang}-{style}-write",
        "source": fact.source,
        "lang": lang,
        "style": style,
        "prompt": facts.dialogue_prompt(fact, lang, style),
        "target": facts.dialogue_answer(fact, lang, style),
    }


def make_items() -> Mapping[str, list[Item]]:
    """Task name -> its items; about 600 for each choice task, 300 to write."""
    rng = random.Random(SEED)
    pool = facts.all_facts()
    unseen = [f for f in pool if not f.is_seed]

    def draw(n: int, combos: Sequence[tuple[Fact, str, str]]) -> list[tuple[Fact, str, str]]:
        return sorted(rng.sample(combos, n), key=lambda c: (pool.index(c[0]), c[1], c[2]))

    english = draw(600, [(f, "en", s) for f in pool for s in STYLES])
    plain = [(f, lang) for f in pool for lang in SEA]
    held_out = rng.sample([(f, lang, s) for f in unseen for lang in SEA for s in NEW_STYLES], 900)
    return {
        "demo_chat_en": [_dialogue_item(f, lang, s, pool, rng) for f, lang, s in english],
        "demo_plain_sea": [_plain_item(f, lang, pool, rng) for f, lang in plain],
        "demo_chat_sea": [_dialogue_item(f, lang, s, pool, rng) for f, lang, s in held_out[:600]],
        "demo_write_sea": [_write_item(f, lang, s) for f, lang, s in held_out[600:]],
    }


def write_items(folder: Path) -> dict[str, int]:
    """Write <task>.jsonl for every task into the folder; returns the number of items of each."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for task, items in make_items().items():
        lines = (json.dumps(item, ensure_ascii=False) for item in items)
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[task] = len(items)
    return counts
