"""Scoring on a live model by lm-eval and by evomerge in turns, timed: one process a row of the table.

    PYTHON scoring.py ROW FAMILY TASKS DTYPE ROUNDS

with ROW a task (FAMILY's base scores it), ``step`` (evomerge decodes, beside the memory) or ``candidate``
(evomerge merges and scores); prints a JSON object. Seconds are CPU seconds of one thread, those of
subprocesses included.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
import torch
from candidates import recipe
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tasks import CONTEXT, FIRST, LAST, LETTERS
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.suite.spec import ScorerSpec, SuiteSpec
from evomerge.worker import Job, Setup, Worker

BATCH_SIZES = (1, 8, 16)  # of lm-eval; the best is used
ROWS, SHORT, LONG = (
    10,
    2,
    34,
)  # answers written at once; their lengths, of which the difference is timed
LARGE = 2**28  # bytes: more than caches hold


def seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass
class Clock:
    """Times pieces of work, and what of them the models spend in their forward passes."""

    models: Sequence[Any]
    forward: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        for model in self.models:
            model.register_forward_pre_hook(self._enter)
            model.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self._entered = time.process_time()

    def _leave(self, *_: Any) -> None:
        self.forward += time.process_time() - self._entered

    def time(self, work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
        """What ``work`` took: ``all`` of it, and what was ``outside`` forward passes."""
        self.forward, start = 0.0, seconds()
        result = work()
        spent = seconds() - start
        return {"all": spent, "outside": spent - self.forward}, result


class Sides:
    """One live model, twice, scored on one task by both tools: evomerge lays out its own anew."""

    def __init__(self, model: Any, peer: Any, tokenizer: Any, tasks: Path, task: str) -> None:
        self.models, self.tokenizer, self.task = (model, peer), tokenizer, task
        self.manager = TaskManager(include_path=str(tasks), include_defaults=False)
        self.scorer = LmEvalTask(task, include=[tasks])
        self.scorer.bind(HuggingFaceEngine(model, tokenizer))
        self.ids = [item.id for item in self.scorer.items()]
        self.peers = {
            size: HFLM(pretrained=peer, tokenizer=tokenizer, batch_size=size)
            for size in BATCH_SIZES
        }

    def ours(self) -> list[Any]:
        return self.scorer.score(self.ids)["responses"]

    def peer(self, batch_size: int, first: int | None = None) -> list[Any]:
        """As mergekit-evolve calls it for a model in memory; of the ``first`` items, the responses."""
        found = lm_eval.simple_evaluate(
            self.peers[batch_size],
            tasks=[self.task],
            task_manager=self.manager,
            limit=first,
            log_samples=first is not None,
            verbosity="ERROR",
        )
        samples = found["samples"][self.task] if first else []
        return [each["resps"] for each in sorted(samples, key=lambda each: each["doc_id"])]


def measure(sides: Sides, rounds: int) -> dict[str, Any]:
    """Both sides in turns.

    Returns:
        ``batch_size``: lm-eval's best; ``peer`` and ``ours``: what each round took; ``items``;
        ``differs``: how far answers of both are apart, see ``compare``.
    """
    clock = Clock(sides.models)
    answers = sides.ours()  # builds and tokenizes its requests: what a worker does once
    sides.peer(BATCH_SIZES[-1], first=2)
    part = min(len(sides.ids), 2 * BATCH_SIZES[-1])
    tried = {size: clock.time(lambda s=size: sides.peer(s, part)) for size in BATCH_SIZES}
    best = min(tried, key=lambda size: tried[size][0]["all"])
    peer, ours = [], []
    for _ in range(rounds):
        peer.append(clock.time(lambda: sides.peer(best))[0])
        ours.append(clock.time(sides.ours)[0])
    return {
        "batch_size": best,
        "peer": peer,
        "ours": ours,
        "items": len(sides.ids),
        "differs": compare(tried[best][1], answers[:part]),
    }


def compare(theirs: Sequence[Any], ours: Sequence[Any]) -> dict[str, float]:
    """``answers`` that are not the same, of ``of``; ``nats``: the largest difference, if any are given."""
    nats, answers = 0.0, 0
    for their, own in zip(theirs, ours, strict=True):
        their, own = ([_first(response) for response in item] for item in (their, own))
        if isinstance(own[0], str):
            answers += their != own
            continue
        nats = max(nats, *(abs(a - b) for a, b in zip(their, own, strict=True)))
        answers += their.index(max(their)) != own.index(max(own))
    return {"answers": answers, "of": len(ours), "nats": nats}


def _first(response: Any) -> Any:
    """The text, or the log-likelihood, of a response however it is wrapped."""
    while isinstance(response, (list, tuple)):
        response = response[0]
    return response


def count(model: Any, tokenizer: Any) -> None:
    """Make ``model`` count: its layers add nothing, and the token after a character is the next one.

    So a prompt's last character says how long its answer is, at a trained model's cost a token.
    """
    first, last = tokenizer.convert_tokens_to_ids([FIRST, LAST])
    embedding = model.get_input_embeddings().weight
    head = embedding.detach().clone()
    head[first + 1 : last + 1] = embedding[first:last]
    head[first] = embedding[last]
    model.config.tie_word_embeddings = False  # lm-eval ties them again if they are to be
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()


def steps(model: Any, tokenizer: Any, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of one decoding step of ``ROWS`` rows, and of reading the weights once, in turns.

    The second is their bytes over those that a copy of a large array copies a second.
    """
    engine = HuggingFaceEngine(model, tokenizer)
    draws = random.Random("prompts")
    letters = tokenizer.convert_tokens_to_ids(list(LETTERS))
    prompts = [draws.choices(letters, k=draws.randint(*CONTEXT)) for _ in range(ROWS)]
    size = sum(parameter.nbytes for parameter in model.parameters())
    source = torch.ones(LARGE // 4)
    target = torch.ones_like(source)

    def write(limit: int) -> float:
        start = seconds()
        answers = engine.generate(prompts, until=[], limit=limit)
        assert all(answer.truncated for answer in answers)
        return seconds() - start

    def copy() -> float:
        start = seconds()
        target.copy_(source)
        return seconds() - start

    write(SHORT)  # which packs the weights
    found: dict[str, list[float]] = {"step": [], "memory": []}
    for _ in range(rounds):
        found["memory"].append(min(copy() for _ in range(5)) * size / LARGE * 1e3)
        found["step"].append((write(LONG) - write(SHORT)) / (LONG - SHORT) * 1e3)
    return found


def candidates(family: Path, tasks: Path, dtype: str, rounds: int) -> dict[str, Any]:
    """Candidates merged into the live model of a worker and scored: CPU seconds of each, after the first."""
    names = ("few", "write_equal")
    suite = SuiteSpec((), tuple(ScorerSpec("task", n, n) for n in names), include=(str(tasks),))
    items = {name: [i.id for i in LmEvalTask(name, include=[tasks]).items()] for name in names}
    first = recipe(family, "task_arithmetic", 0)
    worker = Worker(
        Setup.of(
            suite,
            models={name: first.ref(name).portable for name in ("base", *first.models)},
            tokenizer="base",
            dtype=dtype,
            device="cpu",
        )
    )

    def candidate(number: int) -> float:
        made = recipe(family, "task_arithmetic", number).plain
        start = seconds()
        outcome = worker(Job("candidate", made, items))
        assert outcome.error is None
        return seconds() - start

    candidate(0)
    return {"ours": [{"all": candidate(number)} for number in range(1, 1 + rounds)]}


def main() -> None:
    row, family, tasks = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    dtype, rounds = sys.argv[4], int(sys.argv[5])
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if row == "candidate":
        print(json.dumps(candidates(family, tasks, dtype, rounds)))
        return
    tokenizer = AutoTokenizer.from_pretrained(family / "base")

    def live() -> Any:
        model = AutoModelForCausalLM.from_pretrained(family / "base", dtype=getattr(torch, dtype))
        if row.startswith("write"):
            count(model, tokenizer)
        return model.eval().requires_grad_(False)

    if row == "step":
        print(json.dumps(steps(live(), tokenizer, rounds)))
        return
    print(json.dumps(measure(Sides(live(), live(), tokenizer, tasks, row), rounds)))


if __name__ == "__main__":
    main()
