"""Item by item on the report split: what the winner gets right that each parent does not, and the reverse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evomerge.inference.comparison import mcnemar
from evomerge.judging.sides import Sides, sides
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Answer, Block, Example, Examples, Grid, Notes, Section
from evomerge.report.text import p_text
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results

_EACH = 2  # examples of each kind
_LONG = 400  # characters of an answer


def items(material: Material) -> Section | None:
    """The section; None before the end, or where the answers are not at hand."""
    table = material.table
    answers = material.answers
    if table is None or table.winner is None or table.winner not in answers:
        return None
    rows, blocks = [], list[Block]()
    gone = [name for id, name in material.parents.items() if id not in answers]
    for parent, name in material.parents.items():
        if parent not in answers:
            continue
        for objective in material.record.objectives:
            found = sides(objective, answers[table.winner], answers[parent])
            if found is None:
                continue
            p = mcnemar(len(found.ours), len(found.theirs))
            counts = (found.both, found.ours, found.theirs, found.neither)
            rows.append(
                (
                    name,
                    objective.name,
                    *(str(len(each)) for each in counts),
                    p_text(p),
                )
            )
            blocks += _examples(material, objective, found, name)
    if not rows:
        note = (
            "No objective is just right or wrong item by item, so that there is nothing to count."
        )
        return Section("items", "Answer by answer", note)
    columns = ("parent", "objective", "both right", "winner alone", "parent alone", "neither", "p")
    grid = Grid.of("Items of the report by who gets them right", columns, rows, texts=(1,))
    note = (
        "p is of McNemar's test, which takes items one by one: where several were made from one source it is too "
        "small. The table above keeps sources together."
    )
    blocks = [grid, Notes([note]), *blocks]
    if gone:
        blocks.append(Notes([f"{', '.join(gone)} failed on the report's items."]))
    lead = (
        "Counts of the report's items, and the first examples of each kind. A record holds answers, not questions: "
        "items go by their ids. Who changes a search after reading them has looked at the report."
    )
    return Section("items", "Answer by answer", lead, blocks)


def _examples(material: Material, objective: Objective, found: Sides, parent: str) -> list[Block]:
    table = material.table
    assert table is not None and table.winner is not None
    kinds = (
        (f"{objective.name}: the winner is right, {parent} is not", found.ours),
        (f"{objective.name}: {parent} is right, the winner is not", found.theirs),
    )
    return [
        Examples(
            f"{title} ({len(chosen)} items)",
            [_example(material, objective, item) for item in chosen[:_EACH]],
        )
        for title, chosen in kinds
        if chosen
    ]


def _example(material: Material, objective: Objective, item: str) -> Example:
    table = material.table
    assert table is not None and table.winner is not None
    models = {table.winner: "winner", **material.parents}
    found = []
    for id, name in models.items():
        if id not in material.answers:
            continue
        results = material.answers[id]
        at = results[objective.scorer]["items"].index(item)
        text = shown(results[objective.scorer]["responses"][at])
        found.append(Answer(name, text, _is_right(objective, results, item)))
    return Example(item, found)


def _is_right(objective: Objective, results: Results, item: str) -> bool:
    found = sides(objective, results, results)
    return found is not None and item in found.both


def shown(answer: Any) -> str:
    """An answer to read: a text as it is; of likelihoods, which choice led."""
    texts = list(_texts(answer))
    if texts:
        return _cut("\n".join(texts))
    if choices := _likelihoods(answer):
        best = max(range(len(choices)), key=choices.__getitem__)
        listed = ", ".join(f"{value:.2f}" for value in choices[:12])
        return f"choice {best + 1} of {len(choices)} (log-likelihoods {listed})"
    return _cut(json.dumps(answer, ensure_ascii=False, default=str))


def _texts(answer: Any) -> Sequence[str]:
    if isinstance(answer, str):
        return [answer]
    if (
        isinstance(answer, (list, tuple))
        and answer
        and all(isinstance(a, (str, list)) for a in answer)
    ):
        parts = [_texts(each) for each in answer]
        return [text for part in parts for text in part] if all(parts) else []
    return []


def _likelihoods(answer: Any) -> list[float]:
    """Of answers like ``[[[-1.5, true]], [[-0.2, false]]]``; empty if it is none."""
    found = []
    for each in answer if isinstance(answer, (list, tuple)) else ():
        while isinstance(each, (list, tuple)) and len(each) == 1:
            each = each[0]
        if not (
            isinstance(each, (list, tuple))
            and len(each) == 2
            and isinstance(each[0], (int, float))
            and isinstance(each[1], bool)
        ):
            return []
        found.append(float(each[0]))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text):,} characters)"
