from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import CandidateFailed, InputError, RunError
from evomerge.scorers.function import PythonFunction
from evomerge.suite.scorer import NonFinite, Scorer
from evomerge.suite.splits import SPLITS, assign

MODULE = """
def norm(model, tokenizer, *, split):
    return model.lm_head.weight.norm().item() + len(split)

def two(model, tokenizer, *, split):
    return {"size": len(tokenizer), "split": 1} if split == "report" else {"size": 2}

def nan(model, tokenizer, *, split):
    return {"a": 1.0, "b": float("nan")}

def text(model, tokenizer, *, split):
    return "good"

def bug(model, tokenizer, *, split):
    raise ZeroDivisionError("no items in " + split)

constant = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_fitness.py").write_text(MODULE)
    (tmp_path / "my_broken_fitness.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_fitness", raising=False)


def bound(target: str, live: HuggingFaceEngine) -> Scorer:
    scorer = PythonFunction("mine", target)
    scorer.bind(live)
    return scorer


def test_a_number_is_the_metric_value(live: HuggingFaceEngine) -> None:
    scorer = bound("my_fitness:norm", live)
    expected = live.module().lm_head.weight.norm().item() + len("search")
    scored = scorer.score(["search"])
    assert scored == {
        "items": ["search"],
        "responses": [{"value": expected}],
        "metrics": {"value": [expected]},
        "tokens": 0,
    }
    assert scorer.aggregate(scorer.resolve_metric("value"), [expected]) == expected


def test_a_mapping_names_metrics(live: HuggingFaceEngine) -> None:
    scorer = bound("my_fitness:two", live)
    scored = scorer.score(["search", "report"])
    assert scored["metrics"] == {"size": [2.0, float(len(live.tokenizer))], "split": [None, 1.0]}
    assert scorer.aggregate("split", scored["metrics"]["split"]) == 1.0
    with pytest.raises(NonFinite):
        scorer.aggregate("split", [None])


def test_one_item_per_split() -> None:
    items = PythonFunction("mine", "my_fitness:norm").items()
    assert assign({"mine": items}) == {split: {"mine": [split]} for split in SPLITS}


def test_failures_of_the_function(live: HuggingFaceEngine) -> None:
    with pytest.raises(NonFinite, match=r"mine, item probe"):
        bound("my_fitness:nan", live).score(["probe"])
    with pytest.raises(RunError, match=r"expected a number or a mapping .* returned 'good'"):
        bound("my_fitness:text", live).score(["probe"])
    with pytest.raises(CandidateFailed, match=r"mine: ZeroDivisionError: no items in probe"):
        bound("my_fitness:bug", live).score(["probe"])
    with pytest.raises(InputError, match=r"no split 'serach' .*'search'"):
        bound("my_fitness:norm", live).score(["serach"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("my_fitness", "expected `module:function`, found 'my_fitness'"),
        ("my_fitnes:norm", "cannot import 'my_fitnes'.*PYTHONPATH"),
        ("my_broken_fitness:norm", "cannot import.*not_installed_anywhere"),
        ("my_fitness:nrm", r"has no function 'nrm' \(did you mean 'norm'\?\)"),
        ("my_fitness:constant", "has no function 'constant'"),
    ],
)
def test_targets_that_cannot_be_called(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PythonFunction("mine", target)
