"""Whatever stands in a file: one clear message, or it is read. ``make fuzz`` tries more; see ``found/README.md``."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kinds import KINDS, Kind
from minimise import minimised
from mutations import BOMB, mutations

from evomerge.errors import InputError

INPUTS = int(os.environ.get("EVOMERGE_TEST_FUZZ", "5000"))  # of all kinds together
SEED = os.environ.get("EVOMERGE_TEST_FUZZ_SEED", "0")
FOUND = Path(__file__).parent / "found"
SHOWN = 5  # failures
OTHERS = ("/dev/null: ",)  # files that mutants name: a message may be about one of them
PATIENCE = 20  # seconds for one file, on a loaded machine


class Hangs(BaseException):
    """A file took too long."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Hangs(f"not done after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(kind: Kind, path: Path) -> str:
    """What is wrong with how the file at ``path`` is read; nothing as a rule."""
    try:
        with limited():
            kind.read(path)
    except InputError as error:
        text = str(error)
        named = next((name for name in (path.name, *OTHERS) if name in text), path.name)
        return unclear(text, named, "\x00\x1b\x07", 200_000)
    except (Exception, Hangs) as error:
        return surprise(error)
    return ""


def again(kind: Kind, path: Path, content: bytes) -> str:
    """The same of ``content``, there."""
    path.write_bytes(content)
    return fault(kind, path)


def unclear(text: str, named: str, controls: str, most: int) -> str:
    """What is wrong with a message that is to name a file; nothing as a rule."""
    if named not in text:
        return f"a message without the file's name: {text}"
    if any(character in text for character in controls):
        return f"a message with control characters: {text!r}"
    return f"a message of {len(text)} characters: {text[:300]}" if len(text) > most else ""


def surprise(error: BaseException) -> str:
    """An error that is none of ours, and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error!s:.200} ({Path(last.filename).name}:{last.lineno})"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths start in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_the_examples_are_valid(name: str, tmp_path: Path) -> None:
    for number, example in enumerate(KINDS[name].examples):
        path = tmp_path / "input.yaml"
        path.write_bytes(example)
        try:
            KINDS[name].read(path)
        except InputError as error:
            pytest.fail(f"example {number}: {error}")


@pytest.mark.parametrize("name", KINDS)
def test_no_file_is_a_surprise(name: str, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / "input.yaml"
    each = -(-INPUTS // len(KINDS) // len(kind.examples))
    failures: dict[str, bytes] = {}
    for number, example in enumerate(kind.examples):
        for mutant in mutations(example, f"{SEED} {name} {number}", each):
            if found := again(kind, path, mutant):
                failures.setdefault(found, mutant)
    if failures:
        kept = tmp_path / "failures"
        kept.mkdir()
        for number, (why, mutant) in enumerate(failures.items()):
            failures[why] = smallest = minimised(mutant, lambda m, w=why: again(kind, path, m) == w)  # type: ignore[misc]
            (kept / f"{number}.yaml").write_bytes(smallest)
        texts = [f"{why}\n{mutant[:600]!r}" for why, mutant in failures.items()]
        pytest.fail(
            f"{len(texts)} kinds of failures, inputs in {kept}\n" + "\n".join(texts[:SHOWN])
        )


@pytest.mark.parametrize(
    "file", sorted(FOUND.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_what_was_found_once_is_no_surprise(file: Path, tmp_path: Path) -> None:
    assert again(KINDS[file.parent.name], tmp_path / "input.yaml", file.read_bytes()) == ""


def test_what_is_found_is_made_small() -> None:
    content = b"".join(b"key%d: value\n" % number for number in range(200)) + b"odd: [\n"
    assert minimised(content, lambda shorter: b"[" in shorter) == b"["


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "a: \x1b\n",
        "a: " + "9" * 5000,
        "a: !!python/object/apply:os.system [true]",
        BOMB,
        "[" * 100_000,
        "\n".join(" " * n + "a:" for n in range(2000)),
        "a: b\n" * 500_000,
        "a: {" + ", ".join(f"k{n}: 1" for n in range(120_000)) + "}",
        '"\\UFFFFFFFF": 1',
        'a: "\\ud800"',
        "a: 1\n---\na: 2\n...\n%",
    ],
    ids=range(11),
)
def test_hostile_files_are_refused_in_seconds(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "input.yaml"
    path.write_text(text, encoding="utf-8")
    with limited(), pytest.raises(InputError, match=r"input\.yaml"):
        KINDS[name].read(path)
