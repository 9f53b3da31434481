from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from evomerge import config
from evomerge.errors import ConfigError, InputError

# what YAML readers like to take for something else
tricky = st.sampled_from(
    ["no", "yes", "off", "on", "y", "n", "null", "~", "", "true", "1", "010", "0x10", "1_000", "1e-3", ".5", ".inf",
     "-.INF", ".NaN", "12:30:45", "2024-01-01", "1.", "+1", "=", "<<", "- a", "a: b", "a #b", "#", "'", '"', "%", "@x",
     "`", "|", "a\nb", "\ta", " a ", "ไทย", "é", "\x85", "\u2028", "😀", "\x7f", "\ufeff", "*a", "&a", "!a", "[", "{", "?", "---", "..."]
)  # fmt: skip
texts = tricky | st.text(st.characters(codec="utf-8"), max_size=6)
numbers = st.integers() | st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(value=plain.filter(lambda value: value is not None))
@example(value={"language": "no", "rate": 1e-05, "big": 1e300, "yes": [None, "null", -0.0]})
def test_what_was_dumped_is_parsed_back_exactly(value: Any) -> None:
    back = config.parse(config.dump(value)).plain
    assert repr(back) == repr(value)  # types and signs of zero, too


@given(value=st.dictionaries(texts, plain, max_size=4))
def test_plain_data_become_nodes_and_back(value: dict[str, Any]) -> None:
    assert config.from_plain(value, "memory").plain == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("010", 10),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("TRUE", True),
        (".inf", float("inf")),
        ("0x1F", "0x1F"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert config.parse(f"key: {text}").plain == {"key": value}


def test_values_know_their_line() -> None:
    node = config.parse("# comment\n\na: 1\nb:\n  c: [1,\n    2]\n", "x.yaml")
    assert (node.line, node.value["a"].line) == (1, 3)
    inner = node.value["b"].value["c"]
    assert (inner.line, [item.line for item in inner.value]) == (5, [5, 6])


def test_all_problems_of_a_section_are_collected() -> None:
    problems = config.Problems()
    section = config.Section(
        config.parse("a: x\nb: 3\nc: maybe\nd: [1]\ne: 1\nsead: 7\n", "f.yaml"), problems, "top."
    )
    assert section.integer("a", 5) == 5
    assert section.number("b", 0.5, low=0, high=1) == 0.5
    assert section.flag("c", True) is True
    assert section.texts("d") == ()
    assert section.choice("e", ("one", "two"), "one") == "one"
    assert section.text("z", required=True) == ""
    assert section.integer("seed", 3) == 3
    section.finish()
    with pytest.raises(ConfigError) as caught:
        problems.check()
    assert caught.value.problems == [
        "f.yaml:1: top.a: expected a whole number of at least 0, found 'x'",
        "f.yaml:2: top.b: expected a number in [0, 1], found 3",
        "f.yaml:3: top.c: expected true or false, found 'maybe'",
        "f.yaml:4: top.d: expected a list of texts, found [1]",
        "f.yaml:5: top.e: expected one of 'one', 'two', found 1",
        "f.yaml:1: top.z: missing; expected text",
        "f.yaml:6: top.sead: unknown key (did you mean 'seed'?); known here: a, b, c, d, e, z, seed",
    ]


def test_nan_is_no_number() -> None:
    problems = config.Problems()
    section = config.Section(config.parse("a: .nan"), problems)
    assert section.number("a", 1.0) == 1.0
    assert len(problems.found) == 1


def test_a_key_that_was_asked_for_is_known() -> None:
    problems = config.Problems()
    section = config.Section(config.parse("layer: 3"), problems)
    assert "layers" not in section
    section.finish()
    assert "did you mean 'layers'?" in problems.found[0]


@pytest.mark.parametrize(
    "text", ["a: *b", "a: &b [*b]", "? [1, 2]\n: 3", "a: !!python/name:os.system", "a: !x 1"]
)
def test_yaml_that_is_no_plain_data_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        config.parse(text, "x.yaml")


def test_text_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "file.yaml"
    config.write_text(path, "first")
    config.write_text(path, "ไทย")
    assert path.read_text(encoding="utf-8") == "ไทย"
    config.write_text(path, "half a pair: \ud800")
    assert path.read_text(encoding="utf-8") == "half a pair: \\ud800"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(os, "fsync", full)
        config.write_text(path, "another")
    assert path.read_text(encoding="utf-8") == "half a pair: \\ud800"
    assert os.listdir(path.parent) == ["file.yaml"]


def test_what_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(InputError):
            config.read(path)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML without libyaml")
@pytest.mark.parametrize("files", ["fitness/*.yaml", "runs/*/*.yaml", "search_spaces/*.yaml"])
def test_libyaml_reads_what_pyyaml_reads(files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted(Path(__file__).parents[1].glob(files)):
        text = config.read_text(path)
        fast = repr(config._Composer(config._Fast(text), "f", True).document())
        with monkeypatch.context() as patched:
            patched.setattr(config, "_Fast", None)
            assert repr(config.parse(text, "f")) == fast, path
