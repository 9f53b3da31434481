"""The honest control of slopes: every weight fine-tuned on the same items, by the same bounded loss.

    loss = mean over tasks and items of sigmoid(-margin / tau),     tau 2 nats

where the margin of a choice is the log-likelihood of the right one less that of the best wrong one, and of a written answer
the smallest lead in logits of a token of the target over its rival, teacher-forced. It starts from the best known recipe,
as a search does, and Adam's rate falls to a tenth. What comes of it is no merge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge import seeds
from evomerge.merging import Merge
from evomerge.scorers import evaluate
from evomerge.suite.objectives import counting
from evomerge.suite.splits import Split
from evomerge.worker import Setup, Worker
from tests.benchmarks.search.family import Family
from tests.benchmarks.search.ground import BACKWARD, Point
from tests.benchmarks.search.truth import Cut, Truth

TAU = 2.0
ITEMS = 30  # of a task and step
RATES = (3e-4, 5e-4, 1e-3)
FALL = 0.1  # of the rate, over the steps


@dataclass(frozen=True)
class _Lesson:
    """Rows of tokens of one item, and which of their tokens count.

    A choice: a row each, ``right`` tells the right ones. A written answer: one row, ``right`` is empty.
    """

    rows: tuple[tuple[int, ...], ...]
    begins: tuple[int, ...]
    right: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Trained:
    """What fine-tuning came to.

    Attributes:
        spent: item-forwards, the search for a start included.
        true, held_out: mean over all items; over those neither trained on nor chosen by, shifted (see ``truth``).
        values: by objective, over all items.
        steps: of Adam.
    """

    spent: int
    true: float
    held_out: float
    values: Mapping[str, float]
    steps: int


def finetune(ground: Family, truth: Truth, seed: int, budget: int, rate: float) -> Trained:
    """Spend ``budget`` item-forwards on the search and select items of the ground's job.

    Raises:
        ValueError: the budget pays for no step.
    """
    import torch

    job = ground.job
    worker = Worker(Setup.from_plain(job.worker("cpu").argument))
    splits = job.suite.splits
    pool = {
        objective.scorer: [
            *splits[Split.SEARCH][objective.scorer],
            *splits[Split.SELECT][objective.scorer],
        ]
        for objective in counting(job.suite.objectives)
    }
    start, spent = _start(ground, pool, seed)
    each = ITEMS * len(pool)
    steps = (budget - spent) // (BACKWARD * each)
    if steps < 1:
        raise ValueError(f"{budget} item-forwards pay for no step; expected {spent + 3 * each}")
    engine = worker._engine
    assert engine is not None
    engine.load(Merge(worker._materializer, ground.recipe(start).portable()))
    model = copy.deepcopy(engine.module()).train(False).requires_grad_(True)
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    lessons: dict[tuple[str, str], _Lesson] = {}
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate * FALL ** (step / max(1, steps - 1))
        adam.zero_grad()
        for name, ids in pool.items():
            order = seeds.generator("fine-tuning", seed, name, step).permutation(len(ids))[:ITEMS]
            drawn = [ids[at] for at in order]
            for id in drawn:
                if (name, id) not in lessons:
                    lessons[name, id] = _lesson(worker._scorers[name], id)
            margins = _margins(model, [lessons[name, id] for id in drawn])
            (torch.sigmoid(-margins / TAU).mean() / len(pool)).backward()
        adam.step()
    spent += steps * BACKWARD * each
    engine.load(_Weights(worker._materializer.outline(None), model))
    results = evaluate(worker._scorers, truth.items)
    cut = Cut.of(truth, job)
    every, held = (truth.valued(truth.columns(results), items) for items in (None, cut.items))
    assert every is not None and held is not None
    shifted = {name: value + cut.shift[name] for name, value in held.items()}
    return Trained(spent, truth.mean(every), truth.mean(shifted), every, steps)


def _start(ground: Family, pool: Mapping[str, Sequence[str]], seed: int) -> tuple[Point, int]:
    """The best known recipe on ``ITEMS`` items a task, and what it took to find it."""
    numbers = np.concatenate(
        [
            [
                n
                for n, (_, scorer, id) in enumerate(ground._ids)
                if scorer == name and id in set(ids)
            ]
            for name, ids in pool.items()
        ]
    )
    drawn = seeds.generator("fine-tuning", seed, "start").permutation(numbers)
    tasks = ground.tasks[drawn]
    items = np.concatenate([drawn[tasks == task][:ITEMS] for task in range(len(ground.names))])
    scores: dict[Point, float] = {}
    for point in ground.known().values():
        answers = ground.answers(point, items)
        if answers is not None:
            scores[point] = float(ground.scores(answers, items).mean())
    return max(scores, key=lambda point: scores[point]), len(items) * len(ground.known())


def _lesson(scorer: Any, id: str) -> _Lesson:
    """What an item of an lm-eval task teaches."""
    row = scorer._rows[id]
    asked = scorer._prepared(row)
    if asked[0].settings is None:
        requests = [each.requests[0] for each in asked]
        return _Lesson(
            tuple((*r.context, *r.continuation) for r in requests),
            tuple(len(r.context) for r in requests),
            frozenset(scorer._right[row]),
        )
    lm = scorer._prompts._lm
    target = scorer._task.doc_to_target(scorer._docs[row])
    tokens = lm.tok_encode(target, add_special_tokens=False)
    prompt = tuple(asked[0].prompt)
    return _Lesson(((*prompt, *tokens, lm.eot_token_id),), (len(prompt),))


def _margins(model: Any, lessons: Sequence[_Lesson]) -> Any:
    """``[lessons]``, with their gradients."""
    import torch

    rows = [row for lesson in lessons for row in lesson.rows]
    begins = [begin for lesson in lessons for begin in lesson.begins]
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    shown = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits = model(input_ids=tokens, attention_mask=shown, use_cache=False).logits
    found, at = [], 0
    for lesson in lessons:
        nats = []
        for row, begin in zip(lesson.rows, begins[at : at + len(lesson.rows)], strict=True):
            own = logits[at, begin - 1 : len(row) - 1].float()
            wanted = torch.tensor(row[begin:])[:, None]
            if lesson.right:
                nats.append(own.log_softmax(-1).gather(1, wanted).sum())
            else:
                rival = own.scatter(1, wanted, -torch.inf).max(1).values
                nats.append((own.gather(1, wanted)[:, 0] - rival).min())
            at += 1
        if lesson.right:
            right = torch.stack([n for k, n in enumerate(nats) if k in lesson.right]).max()
            wrong = torch.stack([n for k, n in enumerate(nats) if k not in lesson.right]).max()
            found.append(right - wrong)
        else:
            found.append(nats[0])
    return torch.stack(found)


@dataclass(frozen=True)
class _Weights:
    """Trained weights as an engine takes them."""

    outline: Any
    model: Any

    def into(self, model: Any) -> None:
        import torch

        trained = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(trained[name])

    def each(self, take: Any) -> None:
        for name, parameter in self.model.named_parameters():
            take(name, parameter.detach())
