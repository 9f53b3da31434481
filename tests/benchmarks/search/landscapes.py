"""Simulated merges: landscapes on which a candidate costs microseconds (tier T1).

A recipe gives each of P places (attention and MLP of every layer, embedding, head) a coefficient per parent,
``c [P, K]``, and optionally a method and a density. Task t has an ability

    theta_t = theta0_t + G_t softmin_{k in R_t} s_tk - I_t sum_p v_tp inter_p sum_{j<k} c_pj c_pk - h_t . sum_p c_p^2 - cliff

    s_tk = sum_p w_tkp gain_p (1 - ((c_pk - m_tkp) / m_tkp)^2),     cliff = 8 softplus((r - R) / .08) .08

where R_t are the parents that the task needs (two for tasks of combination), w and v are smooth bumps over depth
that sum to 1, m the best coefficients (often above 1), and r the fourth-power mean over places of the coefficients'
norm: beyond R a merge collapses. Item i of task t is answered right if it is guessed, or if its margin is positive:

    margin_i = a_i (theta_t - b_i) + e_i . c + eps_i,        eps_i logistic:  2PL, once eps is averaged over

Guesses and eps are fixed by item, so candidates share random numbers; e_i, what the item alone thinks of each
coefficient, parts near candidates a little and far ones more, and is what a search overfits. The truth is the mean
response to other items than those that may be asked. The bounded loss is the mean of sigmoid(-margin / 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from evomerge import seeds
from evomerge.params import Dim, Genome
from tests.benchmarks.search.ground import Array, Ground, Numbers, Point

ASKED, TRUTH = 400, 1000  # items a task: that may be asked, that make the truth
TAU = 2.0  # nats
LARGEST = 1.5  # coefficient at gene 1
METHODS, BLOCKS, KNOTS = 4, 3, 5
TASKS = ("own 0", "own 1", "both", "both, written")


@dataclass(frozen=True)
class _Recipe:
    """``weights [P, K]``, ``gain [P]`` and ``inter [P]`` of what methods and densities do."""

    weights: Tensor
    gain: Tensor
    inter: Tensor


@dataclass(frozen=True)
class _Items:
    """Columns over items; ``own [items, P K]``."""

    tasks: Numbers
    slope: Tensor
    difficulty: Tensor
    noise: Tensor
    guessed: Tensor
    own: Tensor


class Landscape(Ground):
    """The landscape of a seed: two parents on 38 places, for every third seed three parents on 24."""

    names = TASKS

    def __init__(self, seed: int, *, asked: int = ASKED, truth: int = TRUTH) -> None:
        self.seed = seed
        rng = seeds.generator("landscape", seed)
        self.parents = 3 if seed % 3 == 2 else 2
        self.layers = 11 if self.parents == 3 else 18
        self.places = 2 * self.layers + 2  # attention and MLP by layer, then embedding and head
        depth = np.concatenate([np.repeat(np.linspace(0, 1, self.layers), 2), [0, 1]])
        role = np.concatenate([np.tile([0, 1], self.layers), [2, 2]])

        def bump() -> Array:
            width, centre = rng.uniform(0.12, 0.35), rng.uniform(0, 1)
            weight = np.exp(-0.5 * ((depth - centre) / width) ** 2) + 0.05
            found: Array = (
                weight * rng.uniform(0.3, 1.7, 3)[role] * rng.lognormal(0, 0.4, len(depth))
            )
            return found / found.sum()

        def coefficient() -> Array:
            wave = np.cos(np.pi * (rng.uniform(0.5, 2) * depth + rng.uniform(0, 2)))
            own = rng.standard_normal(len(depth))
            found: Array = rng.uniform(0.7, 1.3) * np.exp(0.35 * wave + 0.15 * own)
            return found

        tasks, parents = len(TASKS), self.parents
        pairs = [(0, 1), (0, parents - 1)]
        self._needs = [(0,), (1,), pairs[0], pairs[1]]
        self._importance = torch.tensor(
            np.array([[bump() for _ in range(parents)] for _ in range(tasks)])
        )
        self._conflict = torch.tensor(np.array([bump() for _ in range(tasks)]))
        self._best = torch.tensor(  # each parent has one; tasks agree on most of it
            np.array([coefficient() for _ in range(parents)]) * rng.lognormal(0, 0.1, (tasks, 1, 1))
        )
        self._floor = torch.tensor(rng.uniform(-2.5, -1.5, tasks))
        self._height = torch.tensor(rng.uniform(3.5, 5.5, tasks))
        self._interference = torch.tensor(rng.uniform(1.0, 2.5, tasks))
        self._harm = torch.tensor(rng.uniform(0.2, 1.2, (tasks, parents)))
        self._edge = rng.uniform(1.2, 1.5)
        self._method_gain = torch.tensor([1.0, *rng.uniform(0.88, 1.04, METHODS - 1)])
        self._method_inter = torch.tensor([1.0, *rng.uniform(0.5, 1.05, METHODS - 1)])
        self._method_density = torch.tensor([0.5, *rng.uniform(0.2, 0.8, METHODS - 1)])
        self._asked, self._truth = self._items("asked", asked), self._items("truth", truth)
        self.tasks = self._asked.tasks

    def _items(self, name: str, count: int) -> _Items:
        rng = seeds.generator("landscape", self.seed, name)
        tasks = np.repeat(np.arange(len(TASKS)), count)
        size, genes = len(tasks), self.places * self.parents
        guessing = np.where(tasks == len(TASKS) - 1, 0.0, 0.25)
        return _Items(
            tasks,
            torch.tensor(rng.lognormal(0, 0.3, size)),
            torch.tensor(rng.normal(0, 1.2, size)),
            torch.tensor(rng.logistic(0, 1, size)),
            torch.tensor(rng.random(size) < guessing),
            torch.tensor(rng.normal(0, 0.8 / np.sqrt(self.places), (size, genes))),
        )

    # -- forms ----------------------------------------------------------------------------------

    @property
    def forms(self) -> tuple[str, ...]:
        return ("groups", "places", "layers", "knots", "mixed")

    def dims(self, form: str) -> tuple[Dim, ...]:
        sets = self._sets[form]
        if form == "knots" and self.parents == 2:
            return tuple(Dim(f"t.{n}", "real") for n in range(sets))
        weights = [Dim(f"weight.{k}.{n}", "real") for n in range(sets) for k in range(self.parents)]
        if form != "mixed":
            return tuple(weights)
        methods = [Dim(f"method.{n}", "categorical", METHODS) for n in range(sets)]
        return (*weights, *methods, *(Dim(f"density.{n}", "real") for n in range(sets)))

    def levels(self, form: str) -> Mapping[str, Sequence[int]]:
        """Of a weight per place: weights for the model, for the groups of that form, for each place."""
        if form != "places":
            return {}
        group = self._spreads["groups"].argmax(1).tolist()
        parents = range(self.parents)
        return {
            "model": [k for _ in group for k in parents],
            "group": [self.parents * g + k for g in group for k in parents],
            "place": range(self.places * self.parents),
        }

    def starts(self, form: str) -> Mapping[str, Genome]:
        """Parents, the uniform average, a sweep of task arithmetic."""
        only = np.eye(self.parents)
        known = {f"parent {k}": only[k] for k in range(self.parents)}
        known["uniform"] = np.full(self.parents, 1 / self.parents)
        if form != "knots":
            for weight in (0.3, 0.5, 0.7, 0.85, 1.0):
                known[f"task_arithmetic {weight}"] = np.full(self.parents, weight)
        return {label: self._spread(form, weights) for label, weights in known.items()}

    def _spread(self, form: str, weights: Array) -> Genome:
        """The genome with the same ``weights [K]`` everywhere."""
        sets = self._sets[form]
        if form == "knots":
            each = weights[1:] if self.parents == 2 else weights
            return tuple(np.tile(each, sets).tolist())
        genes = np.tile(weights / LARGEST, sets).tolist()
        if form == "mixed":
            genes += [0.5 / METHODS] * sets + [0.5] * sets
        return tuple(genes)

    @cached_property
    def _sets(self) -> dict[str, int]:
        """How often a form has its genes."""
        groups = 2 * BLOCKS + 1
        return {
            "groups": groups,
            "places": self.places,
            "layers": self.layers,
            "knots": 2 * KNOTS + 1,
            "mixed": groups,
        }

    @cached_property
    def _spreads(self) -> dict[str, Tensor]:
        """Form -> ``[P, sets]``: how much of each set's value a place has; rows sum to 1."""
        layer = np.repeat(np.arange(self.layers), 2)
        role = np.tile([0, 1], self.layers)
        block = layer * BLOCKS // self.layers
        found = {name: np.zeros((self.places, sets)) for name, sets in self._sets.items()}
        rows = np.arange(2 * self.layers)
        found["groups"][rows, 2 * block + role] = 1
        found["groups"][2 * self.layers :, -1] = 1
        found["mixed"] = found["groups"]
        found["places"] = np.eye(self.places)
        found["layers"][rows, layer] = 1
        found["layers"][-2, 0] = found["layers"][-1, -1] = 1
        at = layer / (self.layers - 1) * (KNOTS - 1)
        low = np.minimum(at.astype(int), KNOTS - 2)
        found["knots"][rows, KNOTS * role + low] = 1 - (at - low)
        found["knots"][rows, KNOTS * role + low + 1] = at - low
        found["knots"][2 * self.layers :, -1] = 1
        return {name: torch.tensor(spread) for name, spread in found.items()}

    def _recipe(self, form: str, genes: Tensor) -> _Recipe:
        """Genes above 1 are let be: other tools know no upper bound."""
        sets, spread, ones = self._sets[form], self._spreads[form], torch.ones(self.places)
        if form == "knots":
            if self.parents == 2:
                weights = torch.stack([1 - genes, genes], 1)
            else:
                shares = genes.reshape(sets, self.parents).abs() + 1e-6
                weights = shares / shares.sum(1, keepdim=True)
            return _Recipe(spread @ weights, ones.double(), ones.double())
        count = sets * self.parents
        weights = spread @ (LARGEST * genes[:count].reshape(sets, self.parents))
        if form != "mixed":
            return _Recipe(weights, ones.double(), ones.double())
        method = (genes[count : count + sets] * METHODS).long().clamp(0, METHODS - 1)
        density = genes[count + sets :]
        # density is read by methods but the first, and off its best it costs gain
        missed = torch.where(method > 0, (density - self._method_density[method]) ** 2, 0.0)
        gain = self._method_gain[method] - 0.4 * missed
        return _Recipe(weights, spread @ gain, spread @ self._method_inter[method])

    # -- answers --------------------------------------------------------------------------------

    def _abilities(self, recipe: _Recipe) -> Tensor:
        """``[tasks]``"""
        c = recipe.weights
        reached = 1 - ((c.T[None] - self._best) / self._best) ** 2
        skill = (self._importance * recipe.gain * reached).sum(-1)  # [tasks, parents]
        least = torch.stack(
            [
                -0.2 * torch.logsumexp(-skill[task, list(needed)] / 0.2, 0)
                + 0.2 * np.log(len(needed))
                for task, needed in enumerate(self._needs)
            ]
        )
        together = (c.sum(1) ** 2 - (c**2).sum(1)) / 2
        clash = self._interference * (self._conflict * recipe.inter * together).sum(1)
        needless = torch.ones(len(TASKS), self.parents)
        for task, needed in enumerate(self._needs):
            needless[task, list(needed)] = 0.0
        harm = (needless * self._harm * (self._importance * (c**2).T[None]).sum(-1)).sum(1)
        norm = ((c**2).sum(1) ** 2).mean() ** 0.25
        cliff = 8 * 0.08 * torch.nn.functional.softplus((norm - self._edge) / 0.08)
        return self._floor + self._height * least - clash - harm - cliff

    def _margins(self, recipe: _Recipe, items: _Items, which: Numbers | slice) -> Tensor:
        ability = self._abilities(recipe)[items.tasks[which]]
        own = items.own[which] @ recipe.weights.reshape(-1)
        return items.slope[which] * (ability - items.difficulty[which]) + own + items.noise[which]

    @torch.no_grad()
    def answers(self, point: Point, items: Numbers) -> Array:
        recipe = self._recipe(point.form, torch.tensor(point.genome, dtype=torch.float64))
        right = (self._margins(recipe, self._asked, items) > 0) | self._asked.guessed[items]
        return right.double().numpy()

    @torch.no_grad()
    def loss(self, point: Point, items: Numbers) -> Array:
        """The bounded loss of each task, ``[tasks]``."""
        recipe = self._recipe(point.form, torch.tensor(point.genome, dtype=torch.float64))
        losses = torch.sigmoid(-self._margins(recipe, self._asked, items) / TAU).numpy()
        return self.scores(losses, items)

    def slope(self, point: Point, items: Numbers) -> Array:
        genes = torch.tensor(point.genome, dtype=torch.float64, requires_grad=True)
        margins = self._margins(self._recipe(point.form, genes), self._asked, items)
        losses = torch.sigmoid(-margins / TAU)
        tasks = self._asked.tasks[items]
        rows = []
        for task in range(len(TASKS)):
            loss = losses[tasks == task].mean()
            (row,) = torch.autograd.grad(loss, genes, retain_graph=True)
            rows.append(row.numpy())
        return np.array(rows)

    @torch.no_grad()
    def true(self, point: Point) -> Array:
        recipe = self._recipe(point.form, torch.tensor(point.genome, dtype=torch.float64))
        margins = self._margins(recipe, self._truth, slice(None))
        right = ((margins > 0) | self._truth.guessed).double().numpy()
        return np.array([right[self._truth.tasks == task].mean() for task in range(len(TASKS))])
