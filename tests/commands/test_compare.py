"""``evomerge compare`` on the embedded models: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint import EMBEDDED
from evomerge.cli import main
from evomerge.commands import compare
from evomerge.commands.compare import compare_models, named_models
from evomerge.errors import InputError
from evomerge.parents import kinship
from evomerge.parents.comparison import Limits
from evomerge.report.comparison import comparison_lines
from evomerge.report.comparison_page import comparison_page

MODELS = ("embedded:chat", "embedded:sea")
BASE = "embedded:base"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["compare", *(str(each) for each in arguments)])
        return status, *capsys.readouterr()

    return run


def test_it_is_of_all_weights(run: Run) -> None:
    status, out, _ = run(*MODELS, "--base", BASE, "--json")
    assert status == 0
    found = json.loads(out)
    base, *models = (load_file(EMBEDDED / n / "model.safetensors") for n in ("base", "chat", "sea"))
    a, b = (
        torch.cat([(model[name].double() - base[name].double()).flatten() for name in base])
        for model in models
    )
    pair = found["whole"]["pairs"][0]
    assert pair["models"] == ["chat", "sea"]
    assert pair["cosine"] == pytest.approx(float(a @ b / a.norm() / b.norm()), rel=1e-3)
    assert pair["euclid"] == pytest.approx(float((a - b).norm()), rel=1e-5)
    both = (a != 0) & (b != 0)
    assert pair["conflict"] == pytest.approx(float((a * b < 0)[both].double().mean()), rel=1e-4)
    assert found["whole"]["models"]["chat"]["norm"] == pytest.approx(float(a.norm()), rel=1e-5)
    assert found["whole"]["entries"] == len(a)
    assert sum(each["entries"] for each in found["roles"].values()) == len(a)
    assert sum(each["entries"] for each in found["cells"]) == len(a)


def test_tables_fit_eighty_columns(run: Run) -> None:
    name = "a-name-that-goes-on-and-on-for-longer-than-any-table-is-wide"
    status, out, _ = run(
        f"{name}={MODELS[0]}", MODELS[1], f"x={MODELS[1]}", "--base", BASE, "--layers"
    )
    assert status == 0
    assert "warning: equal parents: sea and x are one model" in out
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"^3 +197,888", out, re.M)


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_names_as_text_alone(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[31m\"'&"
    found = compare_models([f"{evil.replace('/', '')}={MODELS[0]}", MODELS[1]], BASE)
    found.models, found.base = {name: evil for name in found.models}, evil
    page = Page()
    page.feed(written := comparison_page(found, Limits()))
    assert "\x1b" not in written and "script" not in page.tags
    assert (
        not {name for name in page.attributes if name.startswith("on")}
        | {"src", "href"} & page.attributes
    )
    assert "<script>alert(1)" in page.text
    assert "Kinship" in page.text and "table" in page.tags
    assert all("\x1b" not in line for line in comparison_lines(found, Limits()))


@pytest.mark.parametrize("ending", [".html", ".json", ".md"])
def test_a_file_is_written_whole_and_never_over_another(
    run: Run, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"compared{ending}"
    assert run(*MODELS, "--base", BASE, "-o", file)[:2] == (0, "")
    before = file.read_text()
    assert "chat" in before
    status, _, err = run(*MODELS, "--base", BASE, "-o", file, "--limit", "parents=1")
    assert status == 2 and "exists already" in err and file.read_text() == before
    assert run(*MODELS, "--base", BASE, "-o", file, "--limit", "parents=1", "--force")[0] == 0
    assert file.read_text() != before


def test_what_is_wrong_is_one_message(run: Run, tmp_path: Path) -> None:
    for arguments, said in (
        ((*MODELS, "--base", BASE, "-o", tmp_path / "x.pdf"), "expected a name that ends in .html"),
        ((*MODELS, "--base", BASE, "--limit", "equall=1"), "did you mean 'equal'?"),
        ((*MODELS, "--base", BASE, "--mask-lambda", "0"), "--mask-lambda"),
        ((*MODELS, "--base", BASE, "--tokenizer", "foo"), "there are base, chat, sea"),
        (("chat=embedded:chat", "chat=embedded:sea", "--base", BASE), "'chat' is taken"),
        (("embedded:caht", "--base", BASE), "did you mean 'chat'?"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert said in err and err.count("\n") == 1
    broken = tmp_path / "broken"
    shutil.copytree(EMBEDDED / "chat", broken)
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-2:] = b"\xff\x7f"  # NaN
    (broken / "model.safetensors").write_bytes(weights)
    status, _, err = run(broken, "--base", BASE)
    assert status == 2 and "NaN" in err


def test_names_are_the_ends_of_models(tmp_path: Path) -> None:
    named = named_models(["org/a@main", "x=org/b", "other/a", "m+adapters/c/", "runs/best.yaml"])
    assert named == {
        "a": "org/a@main",
        "x": "org/b",
        "a-2": "other/a",
        "c": "m+adapters/c/",
        "best": "runs/best.yaml",
    }
    with pytest.raises(InputError, match="expected a model"):
        named_models(["=x"])
    (odd := tmp_path / "k=v").mkdir()
    assert named_models([str(odd)]) == {"k=v": str(odd)}


def test_a_recipe_and_the_base_itself_are_models(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "half.yaml"
    recipe.write_text(
        "base: embedded:base\nmodels: {chat: embedded:chat}\ndtype: float32\n"
        "groups: [{method: task_arithmetic, weight: 0.5}]\n"
    )
    status, out, _ = run(recipe, "same=embedded:base", "embedded:chat", "--base", BASE, "--json")
    assert status == 0
    whole = json.loads(out)["whole"]
    assert whole["models"]["same"]["norm"] == 0 and whole["models"]["same"]["zeros"] == 1
    norms = [whole["models"][name]["norm"] for name in ("half", "chat")]
    assert norms[0] == pytest.approx(norms[1] / 2, rel=1e-3)
    cosines = {tuple(pair["models"]): pair["cosine"] for pair in whole["pairs"]}
    assert cosines["half", "chat"] == pytest.approx(1, abs=1e-4)
    assert cosines["half", "same"] is None


def test_a_sample_counts_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = compare_models(MODELS, BASE)
    monkeypatch.setattr(compare, "WHOLE", 1)
    monkeypatch.setattr(kinship, "ENTRIES", 1 << 12)
    monkeypatch.setattr(kinship, "RUN", 1 << 8)
    sampled = compare_models(MODELS, BASE)
    assert sampled.sampled and not exact.sampled
    one, other = exact.whole, sampled.whole
    assert one.entries == other.entries
    assert other.models["chat"].norm == pytest.approx(one.models["chat"].norm, rel=0.05)
    assert other.masks["selfish"] == pytest.approx(one.masks["selfish"], abs=0.02)
    assert compare_models(MODELS, BASE, exact=True).plain(Limits()) == exact.plain(Limits())


def test_adapters_are_models_of_low_rank(run: Run, adapters: dict[str, str]) -> None:
    named = [f"{name}={adapters[name]}" for name in "ab"]
    status, out, _ = run(*named, "--base", adapters["base"], "--json")
    assert status == 0
    whole = json.loads(out)["whole"]
    for model in whole["models"].values():  # of rank 2, in the queries alone
        assert 1 <= model["stable"] <= 2.001 and model["full"] == 32
        assert model["zeros"] > 0.9
    assert whole["masks"]["untouched"] == pytest.approx(whole["models"]["a"]["zeros"], abs=1e-3)
