"""The page in a real browser: ``make page`` (Chromium from the system, playwright-core and axe-core from npm)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.record.record import Record
from evomerge.report.page import page

NODE = os.environ.get("EVOMERGE_TEST_PAGE", "")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

pytestmark = pytest.mark.skipif(not NODE, reason="needs a browser: `make page`")


def test_nothing_is_wrong_in_a_browser(
    done: Path, hostile: Path, cut: Callable[[int], Path], tmp_path: Path
) -> None:
    assert CHROMIUM, "no Chromium is installed: apt-get install chromium"
    runs = {"done": done, "hostile": hostile, "begun": cut(2), "under-way": cut(20)}
    runs |= {
        Path(each).name: Path(each) for each in os.environ.get("EVOMERGE_TEST_RUNS", "").split()
    }
    pages = []
    for name, folder in runs.items():
        file = tmp_path / f"{name}.html"
        file.write_text(page(Record(folder)), encoding="utf-8")
        pages.append(file.as_uri())
    pictures = Path(NODE) / "pictures"
    pictures.mkdir(exist_ok=True)
    script = Path(__file__).parent / "browser" / "look.mjs"
    looked = subprocess.run(
        ["node", str(script), CHROMIUM, str(pictures), *pages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stderr
    seen = [json.loads(line) for line in looked.stdout.splitlines()]
    assert len(seen) == 6 * len(pages)
    for each in seen:
        where = f"{each['url'].rpartition('/')[2]} at {each['width']} in {each['colorScheme']}"
        assert not each["faults"], f"{where}: {each['faults']}"
        assert each["sideways"] <= 0, f"{where} scrolls sideways"
        assert not each["unprinted"], f"{where}: {each['unprinted']} folded parts are not printed"
        assert each["printed"] == "rgb(31, 35, 40)", f"{where} is printed in {each['printed']}"
    backs = {each["colorScheme"]: each["back"] for each in seen}
    assert len(set(backs.values())) == 2
    colours = {(e["colorScheme"], e["colour"]) for e in seen if e["colour"]}
    assert len(colours) == 2, "pictures follow the scheme, too"
