"""Ternary tensors: what is written is read, in as few bits as said; what is damaged is one message."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import Tensor

from evomerge.checkpoint.ternary import Kept, TernaryFile, largest, write_ternary
from evomerge.errors import CheckpointError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("density", [0.001, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_the_largest_entries_by_sign(density: float) -> None:
    tensor = normal(30, 20)
    kept = largest(tensor, density)
    count = max(1, int(density * 600))
    assert len(kept.places) == count
    cut = tensor.abs().flatten().sort(descending=True).values[count - 1]
    assert torch.equal(kept.tensor, torch.where(tensor.abs() >= cut, tensor.sign(), 0.0))


def test_of_equal_entries_the_first_are_kept_and_of_zeros_none() -> None:
    kept = largest(torch.tensor([1.0, -2.0, 1.0, 0.0, 1.0]), 0.6)
    assert kept.tensor.tolist() == [1, -1, 1, 0, 0]
    assert not largest(torch.zeros(4), 0.5).tensor.any()


@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ternary") / "file.safetensors"
    tensors: dict[str, Kept] = {}
    for n in range(data.draw(st.integers(0, 4))):
        shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
        size = math.prod(shape)
        places = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=size)))
        signs = data.draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
        scale = data.draw(st.sampled_from([0.0, 0.5, 3.25]))
        tensors[f"tensor {n}"] = Kept(
            shape, np.array(places, np.int64), np.array(signs, np.bool_), scale
        )
    write_ternary(path, tensors)
    file = TernaryFile(path)
    assert {key: entry.shape for key, entry in file.entries.items()} == {
        key: kept.shape for key, kept in tensors.items()
    }
    for key, kept in tensors.items():
        assert torch.equal(file.tensor(key), kept.tensor)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_it_takes_hardly_more_than_the_entropy(tmp_path: Path, density: float) -> None:
    kept = largest(normal(512, 1024), density)
    write_ternary(tmp_path / "file", {"w": kept})
    size, p = 8 * (tmp_path / "file").stat().st_size / kept.tensor.numel(), density
    entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p) + p  # where, and which sign
    assert entropy < size < 1.06 * entropy + 0.02 or (density == 0.9 and size < 1 + p + 0.02)
    assert size <= 2


def index(content: dict[str, Any]) -> list[list[Any]]:
    found: list[list[Any]] = json.loads(zlib.decompress(content["index"].tobytes()))
    return found


def spoilt(content: dict[str, Any], change: Any) -> dict[str, Any]:
    rows = change(index(content))
    text = rows if isinstance(rows, bytes) else zlib.compress(json.dumps(rows).encode())
    return {**content, "index": np.frombuffer(text, np.uint8)}


def rest(rows: list[list[Any]], *values: Any) -> list[list[Any]]:
    return [[rows[0][0], *values], *rows[1:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "scales"}, "a tensor 'scales' of one axis, F32"),
        (lambda c: {**c, "packed": c["packed"][:-1]}, "packed bytes by its index"),
        (lambda c: {**c, "scales": c["scales"][:1]}, "a scale for each of 2 tensors"),
        (lambda c: spoilt(c, lambda rows: b"no zlib"), "index: not readable JSON"),
        (lambda c: spoilt(c, lambda rows: {"a": 1}), r"index: expected a list of \[key"),
        (lambda c: spoilt(c, lambda rows: [rows[0], rows[0]]), "each key once"),
        (lambda c: spoilt(c, lambda rows: rest(rows, [6, 4], -1, 0, 3)), "expected .key"),
        (lambda c: spoilt(c, lambda rows: rest(rows, "6", 12, 0, 3)), "expected .key"),
        (lambda c: spoilt(c, lambda rows: rest(rows, [2, 4], 12, 0, 3)), "expected .key"),
        (lambda c: spoilt(c, lambda rows: rest(rows, [2**40, 2**40], 12, 0, 3)), "expected .key"),
        (lambda c: spoilt(c, lambda rows: rest(rows, [4, 3], *rows[0][2:])), "lie outside of"),
        (lambda c: {**c, "packed": c["packed"] * 0}, "entries of .*w.*, found 0"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_one_message(tmp_path: Path, change: Any, says: str) -> None:
    path = tmp_path / "file.safetensors"
    write_ternary(path, {"w": largest(normal(6, 4), 0.5), "v": largest(normal(3, 3), 0.5)})
    content = load_file(path)
    assert index(content)[0][:3] == ["w", [6, 4], 12]
    save_file({k: np.ascontiguousarray(v) for k, v in change(content).items()}, path)
    with pytest.raises(CheckpointError, match=f"{path}.*{says}.*copy the adapter again"):
        TernaryFile(path).tensor("w")


def test_flipped_bytes_are_read_as_something_or_refused(tmp_path: Path) -> None:
    path, draw = tmp_path / "file.safetensors", np.random.default_rng(0)
    write_ternary(path, {"w": largest(normal(6, 4), 0.5), "v": largest(normal(3, 3), 0.2)})
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        content = bytearray(whole)
        content[draw.integers(8, len(content))] = draw.integers(256)
        path.write_bytes(content)
        try:
            file = TernaryFile(path)
            for key, entry in file.entries.items():
                assert file.tensor(key).shape == entry.shape
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
    assert 50 < refused < 300
