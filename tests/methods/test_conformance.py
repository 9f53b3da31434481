from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from evomerge.testing import conformance

GOLDEN = Path(__file__).parents[1] / "golden"
METHODS = sorted(json.loads((GOLDEN / "manifest.json").read_text())["methods"])


@pytest.mark.parametrize("method", METHODS)
def test_golden(method: str) -> None:
    outcomes = list(conformance.run(GOLDEN, method))
    assert len(outcomes) >= 8
    assert not [outcome for outcome in outcomes if outcome.status != "passed"]


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Vectors of two methods that a test may spoil."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    manifest["cases"] = [c for c in manifest["cases"] if c["method"] in ("linear", "ties")]
    for name in ("linear", "ties"):
        shutil.copyfile(GOLDEN / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def edit_case(folder: Path, index: int, **changes: object) -> dict[str, Any]:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cases"][index].update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    case: dict[str, Any] = manifest["cases"][index]
    return case


def spoil(folder: Path, case: dict[str, Any], factor: float) -> None:
    tensors = load_file(folder / case["file"])
    tensors[f"{case['case']}/expected"] *= factor
    save_file(tensors, folder / case["file"])


def test_as_a_command() -> None:
    command = [sys.executable, "-m", "evomerge.testing.conformance", str(GOLDEN)]
    done = subprocess.run([*command, "--method", "slerp"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["slerp", "17", "-", "-", "-"]


def test_a_wrong_number_fails(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(vectors, edit_case(vectors, 0), 1.001)
    assert conformance.main([str(vectors)]) == 1
    assert "failed: linear case-000: the result is off by" in capsys.readouterr().out
    assert conformance.main([str(vectors), "--method", "ties"]) == 0


def test_json(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_case(vectors, 0, method="no_such_method")
    edit_case(vectors, 1, compare="quirk")
    edit_case(vectors, 2, parameters={"weight": 1, "power": 2})
    assert conformance.main([str(vectors), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["methods"]["no_such_method"]["not implemented"] == 1
    assert printed["methods"]["linear"] == {
        "passed": 9,
        "failed": 0,
        "not implemented": 1,
        "skipped": 1,
    }
    assert {case["detail"] for case in printed["cases"]} >= {"no such method", "no parameter power"}


def test_a_value_out_of_range_fails(vectors: Path) -> None:
    case = edit_case(vectors, 20, parameters={"density": 3})
    outcome = next(
        o for o in conformance.run(vectors) if (o.method, o.case) == ("ties", case["case"])
    )
    assert outcome.status == "failed" and "expected a number in [0, 1]" in outcome.detail


def test_signs_do_not_count_where_ties_are_compared_as_sets(vectors: Path) -> None:
    case = edit_case(vectors, 0, compare="tie-multiset")
    spoil(vectors, case, -1.0)
    assert next(conformance.run(vectors)).status == "passed"
    spoil(vectors, case, 1.1)
    assert next(conformance.run(vectors)).status == "failed"


def test_a_wrong_spread_fails(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    path = tmp_path / "golden" / "dare_linear.safetensors"
    tensors = load_file(path)
    tensors["case-012/expected-std"] *= 2
    save_file(tensors, path)
    failed = [o for o in conformance.run(path.parent, "dare_linear") if o.status == "failed"]
    assert [(o.case, "standard deviation" in o.detail) for o in failed] == [("case-012", True)]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "manifest.json: No such file or directory; expected a folder of conformance"),
        ("{", "not a manifest of conformance vectors"),
        ('{"cases": 3}', "not a manifest of conformance vectors"),
        (
            '{"cases": [{"method": "ties", "case": "c", "file": "gone.safetensors"}]}',
            "names gone.safetensors, which is not there",
        ),
    ],
)
def test_a_folder_without_vectors(
    manifest: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    assert conformance.main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


def test_a_misspelt_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main([str(GOLDEN), "--method", "tise"]) == 2
    assert "did you mean 'ties'?" in capsys.readouterr().err
