"""What a file may name: pieces that come with evomerge, or with a package that has an entry point.

Names resolve without importing what they stand for, so a mistyped one costs nothing. A plugin is an
installed package with an entry point of a registry's group; a built-in name cannot be taken over.
Merge methods register themselves when they are imported (``evomerge.methods``).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from evomerge.errors import InputError, did_you_mean, one_of


@dataclass(frozen=True)
class Registry:
    """Named pieces of one kind.

    Attributes:
        kind: what one of them is called, for messages.
        group: of entry points.
        built_in: name -> ``module:attribute``.
    """

    kind: str
    group: str
    built_in: Mapping[str, str]

    def names(self) -> list[str]:
        """Every name, built in or of a plugin, sorted."""
        return sorted({*self.built_in, *_installed(self.group, tuple(sys.path)).names})

    def where(self, name: str) -> str:
        """``module:attribute`` of what ``name`` stands for.

        Raises:
            InputError: there is nothing of that name.
        """
        return self._point(name).value

    def get(self, name: str) -> Any:
        """What ``name`` stands for.

        Raises:
            InputError: there is nothing of that name, or its library or plugin cannot be imported.
        """
        point = self._point(name)
        try:
            return getattr(importlib.import_module(point.module), point.attr)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.kind} {name!r} ({point.value}) cannot be loaded: {error}"
            ) from error

    def _point(self, name: str) -> EntryPoint:
        if name in self.built_in:
            return EntryPoint(name, self.built_in[name], self.group)
        for point in _installed(self.group, tuple(sys.path)).select(name=name):
            return point
        raise InputError(unknown(self.kind, name, self.names()))


@cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """What packages on the ``path`` register: all that they say of themselves is read for it."""
    return entry_points(group=group)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a ``name`` that nothing of this ``kind`` has."""
    known = list(known)
    return f"{kind}: unknown name {name!r}{did_you_mean(name, known)}; expected {one_of(known)}"


OPTIMIZERS = Registry(
    "optimizer",
    "evomerge.optimizers",
    {
        "auto": "evomerge.optimizers.auto:Auto",
        "slope": "evomerge.optimizers.slope:Slope",
        "frank_wolfe": "evomerge.optimizers.frank_wolfe:FrankWolfe",
        "supermerge": "evomerge.optimizers.supermerge:SuperMerge",
        "self_positioning": "evomerge.optimizers.self_positioning:SelfPositioning",
        "cma": "evomerge.optimizers.cma:CMA",
        "cycleqd": "evomerge.optimizers.cycleqd:CycleQD",
        "greedy_soup": "evomerge.optimizers.greedy_soup:GreedySoup",
        "kinship": "evomerge.optimizers.kinship:Kinship",
        "model_glue": "evomerge.optimizers.model_glue:ModelGlue",
        "m2n2": "evomerge.optimizers.m2n2:M2N2",
        "map_elites": "evomerge.optimizers.map_elites:MapElites",
        "random": "evomerge.optimizers.random:Random",
        "de": "evomerge.optimizers.de:DE",
        "nsga2": "evomerge.optimizers.nsga2:NSGA2",
        "nsga3": "evomerge.optimizers.nsga3:NSGA3",
        "sobol": "evomerge.optimizers.sobol:Sobol",
        "optuna": "evomerge.optimizers.optuna:Optuna",
    },
)
ENGINES = Registry(
    "engine",
    "evomerge.engines",
    {
        "huggingface": "evomerge.engines.huggingface:HuggingFaceEngine",
        "vllm": "evomerge.engines.vllm:VLLMEngine",
    },
)
LOSSES = Registry(
    "loss",
    "evomerge.losses",
    {
        "lead": "evomerge.slopes.losses.lead:Lead",
        "entropy": "evomerge.slopes.losses.entropy:Entropy",
        "kl": "evomerge.slopes.losses.kl:KL",
    },
)
SCORERS = Registry(
    "scorer",
    "evomerge.scorers",
    {
        "task": "evomerge.scorers.lm_eval:LmEvalTask",
        "text": "evomerge.scorers.perplexity:BitsPerByte",
        "function": "evomerge.scorers.function:PythonFunction",
        "reward": "evomerge.scorers.reward:Preferences",
        "retrieval": "evomerge.scorers.retrieval:Retrieval",
    },
)
PREDICTORS = Registry(
    "estimator",
    "evomerge.estimators",
    {
        "mean": "evomerge.estimators.mean:Mean",
        "stratified": "evomerge.estimators.stratified:Stratified",
        "control_variate": "evomerge.estimators.control_variate:ControlVariate",
        "regression": "evomerge.estimators.regression:Regression",
        "margins": "evomerge.estimators.margins:Margins",
        "anchors": "evomerge.estimators.anchors:Anchors",
        "p_irt": "evomerge.estimators.p_irt:PIRT",
    },
)
STATISTICS = Registry(
    "statistic",
    "evomerge.statistics",
    {"fisher": "evomerge.parents.fisher:Fisher"},
)
TRACKERS = Registry(
    "tracker",
    "evomerge.trackers",
    {
        "tensorboard": "evomerge.trackers.tensorboard:TensorBoard",
        "wandb": "evomerge.trackers.wandb:WandB",
        "mlflow": "evomerge.trackers.mlflow:MLflow",
        "trackio": "evomerge.trackers.trackio:Trackio",
        "ray": "evomerge.trackers.ray:RayMetrics",
    },
)
PARTS = Registry(
    "part of a search space",
    "evomerge.parts",
    {  # in the order that they draw
        "methods": "evomerge.space.parts.methods:Methods",
        "layer_swap": "evomerge.space.parts.layer_swap:LayerSwap",
        "weights": "evomerge.space.parts.simplex:Simplex",
        "lines": "evomerge.space.parts.lines:LinesPart",
        "path": "evomerge.space.parts.path:PathPart",
        "rows": "evomerge.space.parts.rows:Rows",
        "keep": "evomerge.space.parts.keep:Keep",
        "keep_from": "evomerge.space.parts.keep:KeepFrom",
    },
)
