"""A search over adapters: by methods on their factors, to an adapter that peft reloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evomerge import config
from evomerge.cli import main
from evomerge.commands.check import check
from evomerge.commands.search import search
from evomerge.errors import Incompatible
from evomerge.record.record import Record


@pytest.fixture(scope="module")
def adapters(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from peft import LoraConfig, get_peft_model

    folder, made = tmp_path_factory.mktemp("adapters"), {"base": str(family["base"])}
    for seed, name in enumerate(("chat", "sea")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            settings = LoraConfig(r=3, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(family["base"]), settings)
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if "lora" in parameter_name:
                        parameter.copy_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
        made[name] = f"{family['base']}+{folder / name}"
    return made


def make_run(folder: Path, models: dict[str, str], **space: Any) -> Path:
    folder.mkdir()
    texts = "\n\n".join(f"passage {n}: {'lorem ipsum ' * (1 + n % 3)}" for n in range(60))
    (folder / "texts.txt").write_text(texts)
    sources = {name: model for name, model in models.items() if name != "base"}
    content = {
        "models": {"base": models["base"], "sources": sources, "tokenizer": "base"},
        "space": {
            "methods": ["robustmerge", "lego"],
            "groups": {"roles": ["attn", "mlp"]},
            **space,
        },
        "fitness": {
            "objectives": {"text": {"text": "texts.txt", "scale": 0.1}},
            "items": {"search": 8, "select": 8, "report": 8, "candidate": 4},
        },
        "optimizer": {"name": "random", "population": 3},
        "budget": {"evaluations": 14},
    }
    (folder / "run.yaml").write_text(config.dump(content))
    return folder


def test_a_search_over_factors_ends_in_an_adapter(
    adapters: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel

    run = make_run(tmp_path / "run", adapters)
    assert any("space: robustmerge, lego" in line for line in check(run))
    search(run)
    methods = {
        group.method
        for candidate in Record(run).history.candidates
        for group in Record(run).recipe(candidate).groups
    }
    assert {"robustmerge", "lego"} <= methods
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["merge", str(run), "--as-adapter", "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n" and "; exact" in shown.err
    assert main(["merge", str(run), "-o", str(tmp_path / "merged")]) == 0
    base = AutoModelForCausalLM.from_pretrained(adapters["base"])
    found = PeftModel.from_pretrained(base, out).merge_and_unload().state_dict()
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)
    provenance = config.read(out / "evomerge.yaml").plain["provenance"]
    assert provenance["candidate"] == Record(run).chosen()


@pytest.mark.parametrize("of", ["run", "recipe"])
def test_full_models_are_refused_before_anything_starts(
    family: dict[str, Path], adapters: dict[str, str], tmp_path: Path, of: str
) -> None:
    models = {**adapters, "sea": str(family["sea"])}
    ask: Callable[[], object]
    if of == "run":
        run = make_run(tmp_path / "run", models, methods=["task_arithmetic", "lego"])
        where, ask = r"run: space\.methods", lambda: check(run)
        with pytest.raises(Incompatible, match=where):
            search(run)
        assert sorted(path.name for path in run.iterdir()) == ["run.yaml", "texts.txt"]
    else:
        file = tmp_path / "recipe.yaml"
        plain = {"models": {n: m for n, m in models.items() if n != "base"}, "base": models["base"]}
        file.write_text(json.dumps({**plain, "groups": [{"method": "lego"}]}))
        where, ask = r"groups\[0\]", lambda: check(file)
    says = (
        rf"{where}: lego merges the factors of adapters, and sea = .* is none; expected .*\+ADAPTER"
    )
    with pytest.raises(Incompatible, match=says):
        ask()


def test_options_of_adapters_alone(
    adapters: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    plain = {"models": {n: m for n, m in adapters.items() if n != "base"}, "base": adapters["base"]}
    file.write_text(json.dumps({**plain, "groups": [{"method": "ties"}]}))
    out = str(tmp_path / "out")
    assert main(["merge", str(file), "--rank", "2", "-o", out]) == 2
    assert "--rank: is of an adapter; give --as-adapter, too" in capsys.readouterr().err
    assert main(["merge", str(file), "--compress", "compeft", "-o", out]) == 2
    assert "--compress: is of an adapter" in capsys.readouterr().err
    signs = ["merge", str(file), "--as-adapter", "--rank", "3", "-o", str(tmp_path / "signs")]
    for wrong in ("zip", "compeft=much"):
        assert main([*signs, "--compress", wrong]) == 2
        assert "expected compeft or compeft=DENSITY" in capsys.readouterr().err
    assert main([*signs, "--compress", "compeft=0.1"]) == 0
    assert "times smaller" in capsys.readouterr().err
    assert main(["merge", str(file), "--as-adapter", "-o", out]) == 2
    assert "Give --rank R" in capsys.readouterr().err
    assert main(["merge", str(file), "--as-adapter", "--rank", "2", "-o", out]) == 0
    assert "they lack" in capsys.readouterr().err
