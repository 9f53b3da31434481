"""Which objectives can rank these models, and the yardsticks of those.

Retention divides a gain over the base by what the best parent gains. Where no parent is better than the
base by more than sampling would make it look, that gain is noise, and so is the share of the score that
is divided by it. Per objective and parent the difference to the base is taken over resamples of the
sources of the search items; the objective ranks if the 95% interval of some parent lies above zero.
One that does not gets no yardstick and counts nothing in ``retention`` and ``worst``; in a plain ``mean``
it counts as before, as its value is divided by nothing. A stated ``scale`` is a yardstick of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.evolution.history import Settled
from evomerge.inference.intervals import Interval, Resampled
from evomerge.judging.evidence import Bootstrap, ByObjective
from evomerge.suite.objectives import BASE, Objective, Values, counting
from evomerge.suite.scorer import Results
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite


def settle(
    suite: Suite, answers: Mapping[str, Results], values: Mapping[str, Values], seed: int
) -> Settled:
    """The yardsticks, and why some objectives have none.

    Args:
        suite: measures and combines.
        answers: of base and parents to the whole search split.
        values: theirs.
        seed: keys the resamples.
    """
    gains = suite.yardsticks(values)
    asked = [o for o in counting(suite.objectives) if o.scale is None]
    anchored = any(o.scorer in suite.spec.anchors for o in suite.measured)
    drawn: dict[str, ByObjective] = {}
    if asked and not anchored:  # anchors with their weights are no sample
        bootstrap = Bootstrap.of(suite, suite.splits[Split.SEARCH], seed)
        drawn = {name: bootstrap.values(found, name) for name, found in answers.items()}
    found: dict[str, str] = {}
    for objective in asked:
        by_parent = {name: _gain(objective, name, values, drawn) for name in values if name != BASE}
        if not any(map(_clear, by_parent.values())):
            best = max(by_parent, key=lambda name: by_parent[name].value)
            found[objective.name] = (
                f"no parent beats the base on it by more than its error ({best}, the best of them: "
                f"{_text(by_parent[best])})"
            )
    if suite.spec.combination == "mean":
        consequence = "its plain value counts all the same"
    elif len(found) == len(counting(suite.objectives)):
        consequence = "nor can any other, so all of them count: scores are mostly noise"
    else:
        consequence = "it counts nothing in the score. Give it a floor to guard it, a scale to count it, or more items"
        gains = {name: gain for name, gain in gains.items() if name not in found}
    return Settled(gains, {name: f"{why}; {consequence}" for name, why in found.items()})


def _gain(
    objective: Objective,
    parent: str,
    values: Mapping[str, Values],
    drawn: Mapping[str, ByObjective],
) -> Interval:
    """By how much a parent is better than the base."""
    name, sign = objective.name, objective.sign
    if not drawn:
        return Interval.unknown(sign * (values[parent][name] - values[BASE][name]), "error unknown")
    ours, base = drawn[parent][name], drawn[BASE][name]
    sources = min(ours.sources, base.sources)
    draws = sign * (ours.draws - base.draws)
    return Resampled(sign * (ours.value - base.value), draws, sources).interval()


def _clear(gain: Interval) -> bool:
    """Whether a gain is more than its error; of an unknown error nothing is held against it."""
    return gain.value > 0 if gain.why else gain.low > 0


def _text(gain: Interval) -> str:
    known = gain.why or f"{gain.low:+.3f}, {gain.high:+.3f}"
    return f"{gain.value:+.3f} [{known}]"
