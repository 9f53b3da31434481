from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.scorers.perplexity import BitsPerByte, windows
from evomerge.suite.scorer import NonFinite

PASSAGES = ["Kucing.", "แมวนั่งบนเสื่อ " * 12, "Con mèo. " * 4, "x" * 256, "y" * 257, "z" * 600]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    rows = [json.dumps({"text": passage}, ensure_ascii=False) for passage in PASSAGES]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("max_length", [None, 40])
def test_equals_lm_eval_rolling(
    text: Path, live: HuggingFaceEngine, max_length: int | None
) -> None:
    lm = HFLM(
        pretrained=live.module(), tokenizer=live.tokenizer, batch_size=3, max_length=max_length
    )
    requests = [Instance("loglikelihood_rolling", {}, (passage,), 0) for passage in PASSAGES]
    expected = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    live.max_length = max_length or live.max_length
    scorer = BitsPerByte("text", text)
    scorer.bind(live)
    scored = scorer.score([item.id for item in scorer.items()])
    for nats, log_likelihood in zip(scored["responses"], expected, strict=True):
        assert nats == pytest.approx(-log_likelihood, rel=1e-6, abs=1e-4)
    sizes = [len(passage.encode()) for passage in PASSAGES]
    pairs = [list(pair) for pair in zip(scored["responses"], sizes, strict=True)]
    assert scored["metrics"]["bits_per_byte"] == pairs
    assert scorer.aggregate("bits_per_byte", pairs) == pytest.approx(
        -sum(expected) / math.log(2) / sum(sizes)
    )


@given(st.lists(st.integers(2, 99), max_size=60), st.integers(1, 20))
def test_windows_are_those_of_lm_eval(tokens: list[int], length: int) -> None:
    ours = [(list(inputs), list(targets)) for inputs, targets in windows(tokens, 0, length)]
    assert ours == list(get_rolling_token_windows(tokens, 0, length, 1))
    assert [token for _, targets in ours for token in targets] == tokens


def test_depends_on_the_set_of_ids_only(text: Path, live: HuggingFaceEngine) -> None:
    scorer = BitsPerByte("text", text)
    scorer.bind(live)
    first = scorer.score(["5", "0", "3"])
    scorer.score(["1", "2", "4"])
    again = scorer.score(["0", "3", "5"])
    assert dict(zip(first["items"], first["responses"], strict=True)) == dict(
        zip(again["items"], again["responses"], strict=True)
    )
    assert json.loads(json.dumps(first)) == first


def test_nan_fails_the_candidate_by_name(text: Path, live: HuggingFaceEngine) -> None:
    scorer = BitsPerByte("running text", text)
    scorer.bind(live)
    with torch.no_grad():
        live.module().model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFinite, match=r"running text, item 3"):
        scorer.score(["3"])
    with pytest.raises(NonFinite):
        scorer.aggregate("bits_per_byte", [])


def test_text_files_are_split_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("\nOne\ntwo.\n \nThree.\n\n\n", encoding="utf-8")
    scorer = BitsPerByte("prose", path)
    assert [item.id for item in scorer.items()] == ["0", "1"]
    assert scorer._passages == ["One\ntwo.", "Three."]


def test_translations_share_their_source(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"t": "a", "source_id": "o9"}\n\n{"t": "b\u2028c"}\n', encoding="utf-8")
    scorer = BitsPerByte("text", path, field="t")
    assert [(item.id, item.source) for item in scorer.items()] == [("0", "o9"), ("1", "1")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "text.jsonl: holds no passage"),
        ('{"text": "a"}\n{"text": \n', "text.jsonl:2: not a JSON object"),
        ('{"text": "a"}\n["b"]\n', "text.jsonl:2: expected a JSON object, found list"),
        ('{"txt": "a"}\n', "text.jsonl:1: expected a text under 'text'.*did you mean 'txt'"),
        ('{"text": ""}\n', "text.jsonl:1: expected a text under 'text'.*found ''"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        BitsPerByte("text", path)


def test_other_input_errors(tmp_path: Path, text: Path, live: HuggingFaceEngine) -> None:
    with pytest.raises(InputError, match=r"absent.txt: no such file"):
        BitsPerByte("text", tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin.txt: cannot be read as UTF-8"):
        BitsPerByte("text", tmp_path / "latin.txt")
    scorer = BitsPerByte("text", text)
    assert scorer.resolve_metric("bits_per_byte") == "bits_per_byte"
    with pytest.raises(InputError, match=r"text: no metric 'bpb'.*reports: bits_per_byte"):
        scorer.resolve_metric("bpb")
    scorer.bind(live)
    with pytest.raises(InputError, match=r"no passage '6' among its 6"):
        scorer.score(["6"])
