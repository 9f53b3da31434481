"""What is known of a run's course before it begins, for its outlook."""

from __future__ import annotations

import math

from evomerge.evolution.core import RECOMMENDED, Search
from evomerge.evolution.outlook import Course
from evomerge.evolution.pulled import ways
from evomerge.recipe import BASE
from evomerge.run.precision import extra
from evomerge.run.preflight import Run
from evomerge.suite.objectives import why_no_sum
from evomerge.suite.schedule import ROUNDS
from evomerge.suite.scorer import Items
from evomerge.suite.splits import Split

BASELINES = 2  # the uniform soup and the best of a sweep join the shortlist and the report


def course_of(run: Run, search: Search) -> Course:
    """Of ``run``, whose ``search`` need not have begun."""
    suite, plan, space = run.suite, search.plan, run.space
    references, known = len(space.references()), space.starts()
    probe = _count(suite.splits[Split.PROBE])
    front = suite.spec.front
    baselines = min(BASELINES, len(known))
    pulled = len(list(ways(search.guards))) if space.mixtures else 0
    descends = bool(run.teaching) and (search.optimizer.SLOPES or search.optimizer.DESCENDS)
    unraced = why_no_sum(suite.objectives, suite.spec.combination)
    return Course(
        limits={
            "evaluations": plan.evaluations,
            "items": plan.items,
            "tokens": plan.tokens,
            "hours": run.spec.hours,
        },
        population=plan.population,
        cost=lambda progress: float(suite.cost(progress)),
        start=(len(known), _count(suite.known(run.spec.seed)) + probe),
        whole=_count(suite.splits[Split.SEARCH]) + probe,
        select=_count(suite.shortlisted if unraced or front else suite.splits[Split.SELECT]),
        rounds=(1.0,) if unraced or front else ROUNDS,
        shortlist=references
        + baselines
        + search.optimizer.observed
        + RECOMMENDED
        - 1
        + pulled
        + front,
        report=_count(suite.splits[Split.REPORT]),
        reported=references + baselines + 1 + front,
        first=1 if descends else plan.population,
        patience=None if plan.patience is None else plan.patience * plan.population,
        report_token=_report_token(run),
    )


def _report_token(run: Run) -> float:
    """Seconds that a token takes more in the dtype of export, by the middle one of the base's matrices."""
    if run.dtype == run.scoring:
        return 0.0
    base = run.models[BASE]
    shapes = (base.entry(name).shape for name in base.names)
    matrices = sorted((s for s in shapes if len(s) == 2), key=math.prod)
    height, width = matrices[len(matrices) // 2]
    return base.parameters * extra(run.dtype, run.scoring, (height, width), run.spec.threads)


def _count(items: Items) -> int:
    return sum(map(len, items.values()))
