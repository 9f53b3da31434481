"""Layer paths: which blocks a model consists of, in which order, as often as is wanted.

A recipe merges block by block; its path then takes blocks of that merge, or of single models, and lines them up:

    h_0 = embedding,    h_j = block_j(s_j h_{j-1}),    output = head(norm(h_n))

``block_j`` is any block of the merge or of a model, and a *hop* from one to another that does not follow it may have
a scale s_j. A recipe without a path has every block of the merge, in order.

A scale is no operation of its own, so that the result is a plain model. What a block reads is normalised first, which
a scale makes no difference to; so the hidden state is left as it is, and what blocks *add* to it from there on is
multiplied by 1 / (s_1 ... s_j), in their output projections (``skeleton.residual`` says for which models this
is the same; the epsilon of norms aside).

Paper: Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, https://arxiv.org/abs/2403.13187,
    section 3.2 (data flow space)

Deviations: theirs also scales from block to block where nothing hops, and has no blocks of a merge.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge import config
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Parameter, Real, Shared

SCALE = Parameter(
    "scale",
    Shared(Real(0.7, 1.4, default=1.0, scale="log", valid=(0.01, 100.0))),
    "factor of the hidden state on the way into a block",
)
MOST = 1000  # blocks of a path
LAYERS = "[first, last], both included"  # how recipes name them


@dataclass(frozen=True)
class Hop:
    """One step of a layer path.

    Attributes:
        layer: which block, of the merge or of ``model``.
        model: whose block, as it is; None is the merge's.
        scale: of the hidden state on the way into it.
    """

    layer: int
    model: str | None = None
    scale: float = 1.0

    def follows(self, last: Hop | None) -> bool:
        """True if it is the block behind ``last``, or the first one behind nothing, with no scale between."""
        if self.scale != 1.0:
            return False
        if last is None:
            return self.layer == 0
        return (self.model, self.layer) == (last.model, last.layer + 1)


Path = tuple[Hop, ...]


def runs_of(path: Sequence[Hop]) -> list[list[Hop]]:
    """The path in runs of blocks that follow one another."""
    runs: list[list[Hop]] = []
    for hop in path:
        if runs and hop.follows(runs[-1][-1]):
            runs[-1].append(hop)
        else:
            runs.append([hop])
    return runs


def factors_of(path: Sequence[Hop]) -> list[float]:
    """By what the scales so far multiply that which each block adds."""
    found, scale = [], 1.0
    for hop in path:
        scale *= hop.scale
        found.append(1.0 / scale)
    return found


def plain(path: Sequence[Hop]) -> list[dict[str, Any]]:
    """As recipes show it: runs of blocks, first and last, with whose they are and the scale on the way in."""
    return [
        {
            "layers": [run[0].layer, run[-1].layer],
            **({"model": run[0].model} if run[0].model else {}),
            **({"scale": run[0].scale} if run[0].scale != 1.0 else {}),
        }
        for run in runs_of(path)
    ]


def parse(section: config.Section, models: Collection[str]) -> Path | None:
    """The path under the key ``path``; None if there is none. Problems are noted in the section.

    Args:
        section: of a recipe.
        models: whose blocks a path may name.
    """
    node = section.get("path")
    if node is None:
        return None
    if not (isinstance(node.value, list) and node.value):
        section.problem("path", "expected a list of at least one run of blocks")
        return None
    path: list[Hop] = []
    for number, item in enumerate(node.value):
        part = config.Section(item, section.problems, f"{section.path}path[{number}].")
        model = part.text("model") or None
        if model is not None and model not in models:
            hint = did_you_mean(model, models)
            part.problem("model", f"no model {model!r}{hint}; {one_of(models)}")
        scale = part.get("scale")
        wrong = scale and SCALE.domain.problem(scale.plain)
        if wrong:
            part.problem("scale", wrong)
        factor = 1.0 if scale is None or wrong else float(scale.plain)
        first, last = part.span("layers", LAYERS, required=True) or (0, 0)
        part.finish()
        if last - first >= MOST - len(path):
            section.problem("path", f"expected at most {MOST:,} blocks")
            return None
        path += [
            Hop(layer, model, factor if layer == first else 1.0) for layer in range(first, last + 1)
        ]
    return tuple(path)
