"""Which genes mattered: by shuffling them in a fit of all scores, and by what each brought a descent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from evomerge.evolution.history import MERGED
from evomerge.inference.importance import LEAST, importance
from evomerge.inference.intervals import Interval
from evomerge.judging.travel import travel
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    CLEAR,
    Block,
    Figure,
    Grid,
    Notes,
    Section,
    bounds,
    clear,
    short,
)
from evomerge.report.text import signed_interval

_SHOWN = 20
_EXPLAINS = 0.1  # of the variance of unseen scores, below which a fit says nothing of single genes
_MOST = 1000  # candidates of a fit, the newest


def genes(material: Material) -> Section | None:
    """The section; None where nothing was varied."""
    names = material.head.dims
    if not names:
        return None
    lead = (
        "Importance is about the candidates that were tried, not about all that there could be: what never varied, or "
        "always with another gene, cannot show."
    )
    return Section(
        "genes", "Which genes mattered", lead, [*_fitted(material), *_travelled(material)]
    )


def _fitted(material: Material) -> list[Block]:
    history, names = material.history, material.head.dims
    newest = (
        (genome, elite.score.value)
        for elite in reversed(history.elites(*MERGED))
        if (genome := history.candidates[elite.candidate].genome) is not None
    )
    pairs = [*itertools.islice(newest, _MOST)][::-1]
    if len(pairs) < LEAST:
        return [
            Notes(
                [
                    f"{len(pairs)} candidates with genes were scored: a fit of scores on {len(names)} genes needs {LEAST}."
                ]
            )
        ]
    found = importance([g for g, _ in pairs], [s for _, s in pairs], "page")
    if found is None:
        return [Notes(["All scores are alike: no gene can be told from another."])]
    explained = f"{max(found.explained.value, 0):.0%} [{max(found.explained.low, 0):.0%}, {max(found.explained.high, 0):.0%}]"
    fit = f"A smooth fit of {found.count} search scores, gene by gene, explains {explained} of those it has not seen"
    if found.explained.value < _EXPLAINS or found.explained.low <= 0:
        return [Notes([f"{fit}: too little to say which genes mattered."])]
    words = (
        f"{fit}. Of each gene: the share of their variance that is lost when it is shuffled, with 95% intervals over "
        "resampled candidates."
    )
    return [
        Notes([words]),
        _figure("Importance of genes, by a fit of all scores", words, names, found.genes, ".0%"),
    ]


def _travelled(material: Material) -> list[Block]:
    head = material.head
    found = travel(material.history, material.record.objectives, head.combine)
    if found is None:
        return []
    if not any(gene.value for gene in found.genes):
        return [Notes([f"Descents went {found.steps} steps by slopes, and moved no gene."])]
    words = (
        f"Descents went {found.steps} steps by slopes. Of each gene: its slope times the way it went, added up. The "
        "unit is the score of the bounded stand-in that was climbed, not of the exact metric; intervals are rough, "
        "from the spread over the steps. It says what a gene did, not that no other could have done it."
    )
    return [
        Notes([words]),
        _figure("What each gene brought the descents", words, head.dims, found.genes, "+.2~f"),
    ]


def _figure(
    title: str, words: str, names: Sequence[str], values: Sequence[Interval], form: str
) -> Figure:
    order = sorted(zip(names, values, strict=True), key=lambda pair: -pair[1].value)
    shown = order[:_SHOWN]
    # two long names may be cut to the same: their places keep them apart
    labels = [short(name, 34) for name, _ in shown]
    marks = [
        {
            "gene": f"{at}",
            "x": value.value,
            **bounds(value),
            "says": f"{name}: {signed_interval(value)}",
            "sure": clear(value),
        }
        for at, (name, value) in enumerate(shown)
    ]
    texts = [{"gene": f"{at}", "name": label} for at, label in enumerate(labels)]
    x = {
        "field": "x",
        "type": "quantitative",
        "title": None,
        "axis": {"format": form, "tickCount": 6},
    }
    y = chart.places("gene", len(shown))
    apart = chart.apart("sure", CLEAR, ("one", "soft"))
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "width": chart.WIDTH - 230,
        "height": {"step": 22},
        "layer": [
            {"data": chart.rows(texts), **chart.labels(y)},
            chart.zero(),
            *chart.intervals(x, y, apart, 56),
        ],
    }
    rows = [(name, signed_interval(value)) for name, value in order]
    grid = Grid.of(f"{title} (all {len(order)})", ("gene", "value"), rows, folded=True)
    return Figure(title, words, chart.draw(spec), grid)
