"""What comes next is one file: a package with an entry point, and no edit of anything here.

Merge methods and engines of plugins are walked in ``test_plugin.py`` and ``engines/``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evomerge.testing.drivers import Drivers

OPTIMIZER = '''
"""An elitist optimizer over two objectives, with the front as its archive."""

from evomerge import seeds
from evomerge.evolution.archive import Elite
from evomerge.evolution.archive.front import Front
from evomerge.optimizers import Ask, Optimizer, canonical
from evomerge.suite.objectives import Objective, Score


class Elitist(Optimizer):
    """Mutates members of the front."""

    name = "elitist"

    def __init__(self, problem, *, seed, population=None, **options):
        super().__init__(problem, seed=seed, population=population, **options)
        assert len(problem.objectives) == 2, problem.objectives
        self._front = Front([Objective(name, "", "") for name in problem.objectives])
        self._genomes = []

    @classmethod
    def default_population(cls, dimensions):
        return 4

    def tell(self, batch, seen, told):
        for each in told:
            if each.score is not None:
                values = dict(zip(self.problem.objectives, each.values))
                score = Score(each.score, each.violation)
                self._front.add(Elite(len(self._genomes), batch, score, values))
                self._genomes.append(each.genome)

    def ask(self, count, batch):
        draw = seeds.generator(self.seed, "ask", batch)
        parents = self.recommend(99) or [(0.5,) * len(self.dims)]
        return [
            Ask(canonical(self.dims, draw.normal(parents[n % len(parents)], 0.1)))
            for n in range(count)
        ]

    def recommend(self, count):
        members = [self._genomes[elite.candidate] for elite in self._front.elites()]
        return list(dict.fromkeys(members))[:count]
'''

PART = '''
"""A gene that turns down what the first blocks change."""

from dataclasses import replace

from evomerge.params import Dim
from evomerge.space.parts import Part

FACTORS = (0.0, 1.0, 0.5)


class Calm(Part):
    def __init__(self, settings, fit):
        self.dims = (Dim("calm", "categorical", len(FACTORS)),)

    @staticmethod
    def parse(node, where, sources, problems):
        if node.plain is not True:
            problems.add(node, where, f"expected true, found {node.plain!r}")
        return True

    def draw(self, genes, body):
        factor, groups = FACTORS[int(genes[0] * 3)], []
        for each in body.groups:
            weight = each.values.get("weight")
            if each.layers and each.layers[0] == 0 and isinstance(weight, dict):
                weight = {model: round(factor * w, 4) for model, w in weight.items()}
                each = replace(each, values={**each.values, "weight": weight})
            groups.append(each)
        return replace(body, groups=tuple(groups))

    def canonical(self, genes, body):
        return ((min(int(genes[0] * 3), 2) + 0.5) / 3,)

    def read(self, recipe):
        yield (0.5,)
'''


STATISTIC = '''
"""How loud the inputs of linear layers are, and a method that listens to the loudest model."""

from typing import Annotated

import torch

from evomerge.methods import merge_method, required
from evomerge.params import PerModel, Real

SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


class Loudness:
    """Mean absolute input per channel; layers with the same input share one."""

    name, version = "loudness", 1

    def shape(self, name, shape):
        return shape[1:] if name.endswith("_proj.weight") else None

    def source(self, name):
        head, layer, _ = name.rsplit(".", 2)
        return f"{head}.{SHARED.get(layer, layer)}"

    def collect(self, module, tokenizer, texts):
        sums, count, hooks = {}, 0, []
        for name, layer in module.named_modules():
            if name.endswith("_proj") and self.source(f"{name}.weight") == name:
                def heard(layer, inputs, name=name):
                    sums[name] = sums.get(name, 0) + inputs[0].abs().sum((0, 1))
                hooks.append(layer.register_forward_pre_hook(heard))
        for text in texts:
            tokens = torch.tensor([tokenizer.encode(text)])
            count += tokens.numel()
            with torch.no_grad():
                module(input_ids=tokens)
        for hook in hooks:
            hook.remove()
        yield from ((name, total / count) for name, total in sums.items())


@merge_method(base="none", paper="https://example.org", statistics={"loudness": required})
def loudest(
    tensors: torch.Tensor,
    loudness: torch.Tensor | None,
    weight: Annotated[torch.Tensor, PerModel(Real(0.1, 2, default=1))],
) -> torch.Tensor:
    """Average by the loudness of input channels.

    Args:
        weight: of a model.
    """
    share = weight.float().view(-1, *[1] * (tensors.dim() - 1))
    if loudness is not None:
        share = share * loudness[:, None, :]
    return (share * tensors).sum(0) / share.sum(0)
'''


@pytest.fixture
def evomerge(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command that sees an installed package with these modules and entry points."""
    site = tmp_path / "site"
    info = site / "walks-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "elitist.py").write_text(OPTIMIZER)
    (site / "calm.py").write_text(PART)
    (site / "loud.py").write_text(STATISTIC)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[evomerge.optimizers]\nelitist = elitist:Elitist\n\n[evomerge.parts]\ncalm = calm:Calm\n"
        "\n[evomerge.statistics]\nloudness = loud:Loudness\n\n[evomerge]\nloud = loud\n"
    )

    drivers = Drivers(tmp_path, site, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    yield drivers.run
    drivers.close()


@pytest.mark.slow
def test_an_optimizer_with_two_objectives_and_an_archive(
    evomerge: Callable[..., str], run_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run_folder(
        fitness={
            "include": ["."],
            "objectives": {"sums": {"task": "sums"}, "text": {"text": "texts.jsonl"}},
            "items": {"search": 12, "select": 6, "report": 12, "candidate": 6},
            "front": 3,
        },
        optimizer={"name": "elitist"},
        budget={"evaluations": 22},
    )
    evomerge("search", folder, "--ray", "off", "--quiet")
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    origins = {
        c["origin"] for line in lines if line["event"] == "batch" for c in line["candidates"]
    }
    assert "elitist" in origins
    (shortlist,) = (line for line in lines if line.get("phase") == "select")
    believed = [c for c in shortlist["candidates"] if c["origin"].startswith("elitist")]
    assert len(believed) > 1, (
        "what it recommends, and the front that it found, are scored on select"
    )
    (verdict,) = (line for line in lines if line["event"] == "round")
    if verdict["front"]:  # parents as good at both may dominate all merges of random models
        evomerge("export", folder, "--pareto", tmp_path / "front")
        recipes = list((tmp_path / "front").glob("candidate-*.yaml"))
        assert len(recipes) == len(verdict["front"])
    else:
        refused = evomerge("export", folder, "--pareto", tmp_path / "front", status=2)
        assert "no member of the front was confirmed" in refused


@pytest.mark.slow
def test_a_part_of_a_space_with_a_gene_of_its_own(
    evomerge: Callable[..., str], run_folder: Callable[..., Path], tmp_path: Path
) -> None:
    space = {"methods": ["task_arithmetic"], "groups": {"layers": 2}, "start": ["uniform"]}
    folder = run_folder(
        space={**space, "calm": True},
        optimizer={"name": "random", "population": 4},
        budget={"evaluations": 12},
    )
    evomerge("search", folder, "--ray", "off", "--quiet")
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    assert events[0]["dims"][-1] == "calm"
    drawn = [
        c
        for e in events
        if e["event"] == "batch"
        for c in e["candidates"]
        if c["origin"] == "random"
    ]
    calm = [c for c in drawn if c["genome"][-1] < 1 / 3]
    assert calm and len(calm) < len(drawn)
    for candidate in drawn:
        (first, *_) = candidate["body"]["groups"]
        silent = not any(first["weight"].values())
        assert silent == (candidate["genome"][-1] < 1 / 3), "the gene draws the first blocks"

    stopped = Path(shutil.copytree(folder, tmp_path / "stopped"))
    for name in ("best.yaml", "report.md"):
        (stopped / name).unlink()
    batches = [n for n, event in enumerate(events) if event["event"] == "batch"]
    (stopped / "journal.jsonl").write_text("".join(lines[: batches[2] + 2]))
    evomerge("resume", stopped, "--ray", "off", "--quiet")
    for left in ("best.yaml",):
        assert (stopped / left).read_text() == (folder / left).read_text()
    exported = evomerge("export", folder, "--candidate", calm[0]["id"])
    assert "chat: 0.0" in exported
    edited = (folder / "run.yaml").read_text().replace("calm: true", "calm: 3")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.yaml").write_text(edited)
    assert "space.calm: expected true, found 3" in evomerge("check", tmp_path / "bad", status=2)


@pytest.mark.slow
def test_a_statistic_with_a_kernel_that_requires_it(
    evomerge: Callable[..., str], run_folder: Callable[..., Path], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one passage\n\nanother\n")
    space = {"methods": ["loudest"], "start": ["uniform", "loudest"]}
    optimizer, budget = {"name": "random", "population": 4}, {"evaluations": 12}
    bare = run_folder("bare", space=space, optimizer=optimizer, budget=budget)
    refused = evomerge("search", bare, "--ray", "off", status=2)
    assert "calibration: missing; loudest requires the statistic 'loudness'" in refused

    calibration = {"file": str(texts)}
    folder = run_folder(space=space, optimizer=optimizer, budget=budget, calibration=calibration)
    evomerge("search", folder, "--ray", "off", "--quiet")
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    drawn = [c for e in lines if e["event"] == "batch" for c in e["candidates"]]
    known = next(c for c in drawn if c["origin"] == "loudest")
    evomerge("export", folder, "--candidate", known["id"], "-o", tmp_path / "loud.yaml")
    evomerge("merge", tmp_path / "loud.yaml", "-o", tmp_path / "first")

    shutil.rmtree(tmp_path / "cache" / "evomerge" / "statistics")
    refused = evomerge("merge", tmp_path / "loud.yaml", "-o", tmp_path / "second", status=2)
    commands = [line.split() for line in refused.splitlines() if "evomerge measure" in line]
    assert len(commands) == 2 and "loudness" in commands[0]
    for _, *command in commands:
        evomerge(*command)
    evomerge("merge", tmp_path / "loud.yaml", "-o", tmp_path / "second")
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
