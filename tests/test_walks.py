"""What comes next is one file: a package with an entry point, and no edit of anything here.

Merge methods and engines of plugins are walked in ``test_plugin.py`` and ``engines/``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
from evomerge.recipe import Body

FACTORS = (0.0, 1.0, 0.5)


class Calm:
    EXCLUDES, FIXED = (), False

    def __init__(self, settings, fit):
        self.dims = (Dim("calm", "categorical", len(FACTORS)),)

    @staticmethod
    def parse(node, where, sources, problems):
        if node.plain is not True:
            problems.add(node, where, f"expected true, found {node.plain!r}")
        return True

    @staticmethod
    def known(name, fit):
        return {}

    def draw(self, genes, body):
        factor, groups = FACTORS[int(genes[0] * 3)], []
        for each in body.groups:
            weight = each.values.get("weight")
            if each.layers and each.layers[0] == 0 and isinstance(weight, dict):
                weight = {model: round(factor * w, 4) for model, w in weight.items()}
                each = replace(each, values={**each.values, "weight": weight})
            groups.append(each)
        return Body(tuple(groups))

    def canonical(self, genes):
        return ((min(int(genes[0] * 3), 2) + 0.5) / 3,)

    def read(self, recipe):
        yield (0.5,)
'''


@pytest.fixture
def evomerge(tmp_path: Path) -> Callable[..., str]:
    """Runs a command that sees an installed package with these modules and entry points."""
    site = tmp_path / "site"
    info = site / "walks-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "elitist.py").write_text(OPTIMIZER)
    (site / "calm.py").write_text(PART)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[evomerge.optimizers]\nelitist = elitist:Elitist\n\n[evomerge.parts]\ncalm = calm:Calm\n"
    )

    def run(*arguments: Any, status: int = 0) -> str:
        path = os.pathsep.join([str(site), *map(os.path.abspath, sys.path)])
        done = subprocess.run(
            [sys.executable, "-m", "evomerge", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


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
        assert len(list((tmp_path / "front").glob("*.yaml"))) == len(verdict["front"])
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
