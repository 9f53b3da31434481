"""What speaks for and against merging some models, by the rules of a study of merging at scale.

Yadav et al. merged up to eight experts of bases of 1 to 64 billion parameters: merges of a strong, instruction-tuned
base are better at any size; a larger model takes more experts before it loses much of each. What is too many, equal or
redundant is put in numbers here; the numbers are ours, as the paper has curves, and all of them may be set.

Paper: Yadav et al. 2024, What Matters for Model Merging at Scale?, https://arxiv.org/abs/2410.03617.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.parents.comparison.facts import Facts

BY_SIZE = ((2e9, 3), (12e9, 4), (40e9, 6), (math.inf, 8))  # parameters below -> parents at most
LEVELS = ("ok", "note", "warning")


@dataclass(frozen=True)
class Limits:
    """Beyond what something is told.

    Attributes:
        parents: how many at most; None: by size, ``BY_SIZE``.
        equal: models of a cosine of this or more, whose norms are as near, are one model.
        redundant: of this or more, much the same.
        far: a norm of a task vector beyond this share of the base's is far from it.
        conflict: share of opposite signs from which models work against each other; a half is chance.
        rounding: share of the mean's change that the dtype may take.
    """

    parents: float | None = None
    equal: float = 0.999
    redundant: float = 0.9
    far: float = 0.5
    conflict: float = 0.55
    rounding: float = 0.1

    def setting(self, texts: Sequence[str]) -> Limits:
        """The same but for ``NAME=VALUE`` in ``texts``.

        Raises:
            InputError: there is no such limit, or it is no number that it may be.
        """
        known = [each.name for each in fields(self)]
        found: dict[str, float] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in known:
                raise InputError(
                    f"--limit {text}: no limit {name!r}{did_you_mean(name, known)}; expected NAME=VALUE with {one_of(known)}"
                )
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = math.nan
            if not 0 < found[name] < math.inf:
                raise InputError(f"--limit {text}: expected a number above 0, found {value!r}")
        return replace(self, **found)

    def parents_of(self, parameters: int) -> float:
        """How many parents a model of so many parameters takes."""
        if self.parents is not None:
            return self.parents
        return next(most for size, most in BY_SIZE if parameters < size)

    @property
    def plain(self) -> Mapping[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        rule: its name.
        level: one of ``LEVELS``.
        text: in words, with what was found and the limit.
    """

    rule: str
    level: str
    text: str

    @property
    def plain(self) -> dict[str, str]:
        return asdict(self)


def verdict(
    facts: Facts, limits: Limits, *, dtype: str, instructed: bool | None = None
) -> list[Finding]:
    """What each rule finds; a rule that finds nothing says so.

    Args:
        facts: of all weights.
        limits: what is too much.
        dtype: of the merge.
        instructed: whether the base knows chats; None: that is not known.
    """
    return [
        *_base(facts, limits, instructed),
        _count(facts, limits),
        *_alike(facts, limits),
        _conflict(facts, limits),
        _rounding(facts, limits, dtype),
    ]


def _base(facts: Facts, limits: Limits, instructed: bool | None) -> list[Finding]:
    rule, found = "weak base", list[Finding]()
    for name, model in facts.models.items():
        if model.ratio is not None and model.ratio > limits.far:
            found.append(
                Finding(
                    rule,
                    "warning",
                    f"{name} is far from the base: its change is {model.ratio:.2f} of the base's norm (limit "
                    f"{limits.far:g}); is it the wrong base, or was it trained for long?",
                )
            )
    if instructed is False:
        found.append(
            Finding(
                rule,
                "note",
                "the base has no chat template, so it seems not to be instruction-tuned; merges of instruction-tuned "
                "bases were better at every size",
            )
        )
    return found or [
        Finding(rule, "ok", f"no model is further from the base than {limits.far:g} of its norm")
    ]


def _count(facts: Facts, limits: Limits) -> Finding:
    count, most = len(facts.models), limits.parents_of(facts.entries)
    size = f"{facts.entries:,} parameters"
    if count > most:
        text = f"{count} parents of {size} (limit {most:g}): small models lose much of each of many parents"
        return Finding("too many parents", "warning", text)
    return Finding(
        "too many parents",
        "ok",
        f"{count} parent{'s' * (count > 1)} of {size} (limit {most:g})",
    )


def _alike(facts: Facts, limits: Limits) -> list[Finding]:
    found = [
        Finding("equal parents", "warning", f"{name} is the base: it changes nothing")
        for name, model in facts.models.items()
        if model.norm == 0
    ]
    for (a, b), pair in facts.pairs.items():
        if pair.cosine is None or pair.cosine < min(limits.redundant, limits.equal):
            continue
        larger = max(facts.models[a].norm, facts.models[b].norm)
        # |a - b|^2 = 2 (1 - cosine) |a|^2 where norms are equal
        as_one = larger * math.sqrt(max(0.0, 2 * (1 - limits.equal)))
        if pair.cosine >= limits.equal and pair.euclid <= as_one:
            text = f"{a} and {b} are one model: cosine {pair.cosine:.4f} (limit {limits.equal:g}); leave one out"
            found.append(Finding("equal parents", "warning", text))
        else:
            text = f"{a} and {b} change much the same: cosine {pair.cosine:.3f} (limit {limits.redundant:g})"
            found.append(Finding("redundant parents", "warning", text))
    cosines = [pair.cosine for pair in facts.pairs.values() if pair.cosine is not None]
    if not found and cosines:
        text = (
            f"no two models are nearer than cosine {max(cosines):.3f} (limit {limits.redundant:g})"
        )
        found.append(Finding("redundant parents", "ok", text))
    return found


def _conflict(facts: Facts, limits: Limits) -> Finding:
    if facts.conflict is None:
        return Finding("conflict", "ok", "no two models change the same entries")
    worst = max(facts.pairs, key=lambda names: facts.pairs[names].conflict or 0.0)
    share = facts.pairs[worst].conflict or 0.0
    if share > limits.conflict:
        text = (
            f"{' and '.join(worst)} go opposite ways in {share:.1%} of the entries that both change (limit "
            f"{limits.conflict:.0%}; chance is 50%): try methods that elect a sign, such as ties"
        )
        return Finding("conflict", "warning", text)
    text = f"models go opposite ways in at most {share:.1%} of the entries that both change (limit {limits.conflict:.0%})"
    return Finding("conflict", "ok", text)


def _rounding(facts: Facts, limits: Limits, dtype: str) -> Finding:
    share = facts.rounding.get(dtype)
    if share is None:
        return Finding(
            "rounding", "ok", "the mean of the models changes nothing that could be lost"
        )
    text = f"{dtype} takes {share:.1%} of what the mean of the models changes (limit {limits.rounding:.0%})"
    if share > limits.rounding:
        others = {name: each for name, each in facts.rounding.items() if each < share}
        better = "".join(f"; {name} {each:.1%}" for name, each in others.items())
        return Finding("rounding", "warning", f"{text}{better}")
    return Finding("rounding", "ok", text)
